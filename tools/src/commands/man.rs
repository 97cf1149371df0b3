//! `tidelog man`.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use crate::failure::{DONE, FAILED, Failure};

const AFTER_HELP: &str = "\
Examples:
  tidelog man /usr/local/share/man/man1
  tidelog man . && man ./tidelog-consume.1";

/// Arguments of `tidelog man`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ManArgs {
    /// Directory to write into, made when missing
    dir: PathBuf,
}

/// Writes one page for each command.
pub fn run(args: ManArgs) -> Result<u8, Failure> {
    let count = write_pages(&args.dir).map_err(|e| {
        Failure::new(
            FAILED,
            format!("cannot write man pages into {}: {e}", args.dir.display()),
        )
    })?;
    eprintln!("{count} pages written to {}", args.dir.display());
    Ok(DONE)
}

fn write_pages(dir: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(dir)?;
    let mut open = vec![(crate::cli::Cli::command(), "tidelog".to_owned())];
    let mut count = 0;
    while let Some((command, name)) = open.pop() {
        let page = command
            .clone()
            .name(name.clone())
            .bin_name(name.replace('-', " "));
        let mut text = Vec::new();
        clap_mangen::Man::new(page).render(&mut text)?;
        std::fs::write(dir.join(format!("{name}.1")), text)?;
        count += 1;
        open.extend(
            command
                .get_subcommands()
                .map(|sub| (sub.clone(), format!("{name}-{}", sub.get_name()))),
        );
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_gets_a_page() {
        let directory = tempfile::tempdir().expect("directory");
        let count = write_pages(directory.path()).expect("pages");
        let page = std::fs::read_to_string(directory.path().join("tidelog-topic-create.1")).expect("page");
        assert!(count >= 15, "{count}");
        assert!(page.contains("partitions"), "{page}");
    }
}
