//! `tidelog`: the broker and its tools in one program.
//!
//! Parses the command line, runs one command, and turns its outcome into an exit code. Data goes to
//! stdout, everything else to stderr; a closed stdout ends quietly.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod connect;
mod failure;
mod format;
mod limits;
mod output;
mod partitions;
mod settings;
mod signals;
mod when;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, usage errors to stderr with 2; a closed pipe is fine.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}
