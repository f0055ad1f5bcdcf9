//! `rewound`, the command line: protects SQLite databases and brings back any commit of any node of
//! an archive.
//!
//! Uses the library's public API only. Each command is a file in `commands/`; `docs/cli.md` is the
//! manual.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod chart;
mod commands;
mod failure;
mod keys;
mod moment;
mod output;
mod policy;
mod progress;
mod scratch;
mod session;
mod signals;
mod svg;
mod units;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Cli;
use failure::Failure;

fn main() -> ExitCode {
    match run().and_then(|()| output::finish()) {
        // Whoever reads us may have enough: `rewound log | head` is no failure.
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code())
        }
    }
}

fn run() -> failure::Result {
    let parsed = Cli::command().try_get_matches().and_then(|m| Ok((Cli::from_arg_matches(&m)?, m)));
    match parsed {
        Ok((cli, matches)) => commands::run(cli, &matches),
        Err(e) if e.use_stderr() => Err(Failure::Arguments(Box::new(e))),
        // The help or the version, which was asked for.
        Err(e) => Ok(write!(output::stdout(), "{}", e.render().ansi())?),
    }
}
