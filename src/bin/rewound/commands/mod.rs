//! One file for each command, or for a few that belong together.

mod bisect;
mod diff;
mod info;
mod init;
mod log;
mod plan;
mod point;
mod restore;
mod shell;
mod verify;
mod watch;

pub use info::Facts;

use crate::args::{Cli, Command, KeyCommand};
use crate::failure::Result;
use crate::session::Session;

/// Does what was asked for.
pub fn run(cli: Cli) -> Result {
    let session = Session::new(cli.global)?;
    match cli.command {
        Command::Init { archive, recovery_key_file } => init::init(&session, &archive, recovery_key_file.as_deref()),
        Command::Key(KeyCommand::Generate { file }) => init::generate(&session, &file),
        Command::Watch { database, enable_wal, maintain } => watch::watch(&session, &database, enable_wal, maintain),
        Command::Backup { database, enable_wal } => watch::backup(&session, &database, enable_wal),
        Command::Restore { target, output, delta } => restore::restore(&session, &target, &output, delta),
        Command::Log { count, all, reverse, since, until } => {
            let count = if all { u64::MAX } else { count };
            log::log(&session, count, reverse, since.as_deref(), until.as_deref())
        }
        Command::Info { svg } => info::info(&session, svg.as_deref()),
        Command::Point { name, target } => point::point(&session, &name, &target),
        Command::Verify { without_key, no_rebuild } => verify::verify(&session, without_key, no_rebuild),
        Command::Plan { target } => plan::plan(&session, &target),
        Command::Diff { from, to } => diff::diff(&session, &from, &to),
        Command::Bisect { sql, from, to } => bisect::bisect(&session, &sql, from.as_deref(), &to),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => shell::man(dir.as_deref()),
    }
}
