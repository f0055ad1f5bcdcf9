//! One file for each command, or for a few that belong together.

mod audit;
mod bisect;
mod diff;
mod guard;
mod info;
mod init;
mod log;
mod plan;
mod point;
mod restore;
mod retention;
mod shapes;
mod shell;
mod sweep;
mod verify;
mod watch;

pub use info::Facts;

use clap::ArgMatches;

use crate::args::{Cli, Command, KeyCommand, RetentionCommand};
use crate::failure::Result;
use crate::session::Session;

/// Does what was asked for.
pub fn run(cli: Cli, matches: &ArgMatches) -> Result {
    let session =
        Session::new(cli.global, matches.subcommand_name().expect("clap asks for a command"))?;
    match cli.command {
        Command::Init { archive, recovery_key_file, keep } => {
            init::init(&session, &archive, recovery_key_file.as_deref(), keep.as_deref())
        }
        Command::Key(KeyCommand::Generate { file }) => init::generate(&session, &file),
        Command::Watch { database, maintain, no_sweep } => {
            watch::watch(&session, &database, maintain, !no_sweep)
        }
        Command::Backup { database } => watch::backup(&session, &database),
        Command::Restore { target, output, delta, replace, unaudited } => {
            let place = match (replace, output, delta) {
                (Some(database), _, _) => restore::Place::Replace(database),
                (None, Some(output), true) => restore::Place::Delta(output),
                (None, Some(output), false) => restore::Place::New(output),
                (None, None, _) => {
                    unreachable!("clap asks for an output where nothing is replaced")
                }
            };
            restore::restore(&session, &target, &place, unaudited)
        }
        Command::Log { count, all, reverse, since, until } => {
            let count = if all { u64::MAX } else { count };
            log::log(&session, count, reverse, since.as_deref(), until.as_deref())
        }
        Command::Info { svg } => info::info(&session, svg.as_deref()),
        Command::Point { name, target } => point::point(&session, &name, &target),
        Command::Verify { without_key, no_rebuild } => {
            verify::verify(&session, without_key, no_rebuild)
        }
        Command::Plan { target } => plan::plan(&session, &target),
        Command::Diff { from, to } => diff::diff(&session, &from, &to),
        Command::Bisect { sql, from, to, unaudited } => {
            bisect::bisect(&session, &sql, from.as_deref(), &to, unaudited)
        }
        Command::Retention { command: None } => retention::show(&session),
        Command::Retention { command: Some(RetentionCommand::Set(policy)) } => {
            retention::set(&session, &policy)
        }
        Command::Sweep { dry_run, confirm_clock } => sweep::sweep(&session, dry_run, confirm_clock),
        Command::Audit { what } => audit::audit(&session, &what),
        Command::Hold { name, from, to, until } => {
            guard::hold(&session, &name, from.as_deref(), to.as_deref(), until.as_deref())
        }
        Command::Release { name } => guard::release(&session, &name),
        Command::Lock { name } => guard::lock(&session, &name),
        Command::Unlock { name } => guard::unlock(&session, &name),
        Command::DeleteNode { name, grace } => guard::delete(&session, Some(&name), &grace),
        Command::DeleteArchive { grace } => guard::delete(&session, None, &grace),
        Command::Undelete { name } => guard::undelete(&session, name.as_deref()),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => shell::man(dir.as_deref()),
    }
}
