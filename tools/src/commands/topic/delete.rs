//! `tidelog topic delete`.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::{Done, refuse_twice, report, with_done};
use crate::connect::ClientArgs;
use crate::failure::{FAILED, Failure, USAGE};

const AFTER_HELP: &str = "\
Asks before it deletes; --yes answers for you and is needed where nobody can be asked.

Examples:
  tidelog topic delete logs
  tidelog topic delete old-logs older-logs --yes";

/// Arguments of `tidelog topic delete`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DeleteArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Deletes the topics.
pub fn run(args: DeleteArgs) -> Result<u8, Failure> {
    refuse_twice(&args.names)?;
    if !args.yes {
        if !io::stdin().is_terminal() {
            return Err(Failure::new(USAGE, "nobody can be asked here whether to delete")
                .hint("Add --yes to delete without being asked."));
        }
        eprint!("Delete {} and everything in it? [y/N] ", args.names.join(", "));
        io::stderr().flush()?;
        if !is_yes(&mut io::stdin().lock())? {
            return Err(Failure::new(FAILED, "nothing was deleted"));
        }
    }
    let mut client = args.client.connect()?;
    let outcomes = client.delete_topics(&args.names)?;
    report(args.client.output, with_done(outcomes, Done::Deleted))
}

fn is_yes(input: &mut impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("YES\n", true),
            ("\n", false),
            ("", false),
            ("n\n", false),
        ] {
            assert_eq!(
                is_yes(&mut answer.as_bytes()).expect("memory"),
                expected,
                "{answer:?}"
            );
        }
    }
}
