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
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir)
            .map_err(|e| Failure::Other(format!("writing manual pages to {}: {e}", dir.display()))),
        None => Ok(clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout().lock())?),
    }
}
