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
mod progress;
mod session;
mod svg;
mod units;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads us has enough: `rewound log | head` is no failure.
        Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code())
        }
    }
}
