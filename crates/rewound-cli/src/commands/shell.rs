//! `completions` and `man`.

use std::path::Path;

use clap::CommandFactory;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output::stdout;

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> Result {
    // Into memory first: the generator panics on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rewound", &mut script);
    std::io::Write::write_all(&mut stdout(), &script)?;
    Ok(())
}

/// Prints the manual page, or writes all of them.
pub fn man(dir: Option<&Path>) -> Result {
    match dir {
        Some(dir) => {
            let mut command = Cli::command().disable_help_subcommand(true);
            command.build();
            pages(&command, dir)
        }
        None => Ok(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout().lock())?),
    }
}

/// Writes the page of a command, and those of its subcommands.
fn pages(command: &clap::Command, dir: &Path) -> Result {
    let page = clap_mangen::Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    let path = dir.join(page.get_filename());
    rewound_dir::write_file(&path, &text)
        .map_err(|e| Failure::Other(format!("writing manual pages: {}: {e}", path.display())))?;
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| pages(c, dir))
}
