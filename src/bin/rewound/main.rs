//! `rewound`, the command line: protects SQLite databases and brings back any commit of any node of an archive.
//!
//! Uses the library's public API only. Each command is a file in `commands/`; `docs/cli.md` is the manual.

mod args;
mod chart;
mod commands;
mod failure;
mod keys;
mod moment;
mod output;
mod policy;
mod progress;
mod session;
mod svg;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Cli;
use failure::Failure;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    match commands::run(cli, &matches) {
        // Whoever reads us may have enough: `rewound log | head` is no failure.
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code())
        }
    }
}
