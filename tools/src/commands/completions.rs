//! `tidelog completions`.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::failure::{DONE, Failure};

const AFTER_HELP: &str = "\
Examples:
  tidelog completions bash > /etc/bash_completion.d/tidelog
  tidelog completions zsh > ~/.zfunc/_tidelog
  tidelog completions fish > ~/.config/fish/completions/tidelog.fish";

/// Arguments of `tidelog completions`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct CompletionsArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Prints the script.
pub fn run(args: CompletionsArgs) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(&script(args.shell))?;
    out.flush()?;
    Ok(DONE)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::Cli::command(), "tidelog", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [
            Shell::Bash,
            Shell::Elvish,
            Shell::Fish,
            Shell::PowerShell,
            Shell::Zsh,
        ] {
            let text = String::from_utf8(script(shell)).expect("text");
            assert!(text.contains("add-partitions"), "{shell}");
        }
    }
}
