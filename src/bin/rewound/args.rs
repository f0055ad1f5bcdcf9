//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Point-in-time recovery of databases: every commit archived, encrypted; any of them brought back, exactly.
#[derive(Debug, Parser)]
#[command(
    name = "rewound",
    version,
    after_help = "\
Moments: where a MOMENT is asked for, give a time (2026-11-21T14:00:00+01:00; 2026-11-21 14:00 or 14:00 in the local zone; \
\"10 minutes ago\"), lsn:NUMBER, point:NAME, or latest.

Keys: --key-file, or the environment variables REWOUND_KEY_FILE (a path) or REWOUND_KEY (the text of a key file), or a passphrase typed \
at the prompt. Never an argument: those are visible to everybody on the machine.

Exit codes: 0 done, 1 failed, 2 usage, 3 the target is not in the restorable window, 4 damage found, 5 no key or a wrong one, \
6 somebody else is at work there, 130 interrupted."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The archive
    #[arg(short, long, global = true, env = "REWOUND_ARCHIVE", value_name = "DIR", help_heading = "Archive")]
    pub archive: Option<PathBuf>,
    /// The node in it; may be left out where there is only one [for watch and backup: the name of the database's file]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Archive")]
    pub node: Option<String>,
    /// A key file, made by `rewound key generate`
    #[arg(long, global = true, env = "REWOUND_KEY_FILE", value_name = "FILE", help_heading = "Archive")]
    pub key_file: Option<PathBuf>,
    /// Ask for a passphrase, even where the environment names a key
    #[arg(long, global = true, help_heading = "Archive", conflicts_with = "key_file")]
    pub passphrase: bool,
    /// Times in UTC instead of the local zone, in what is printed and in what is read
    #[arg(long, global = true, help_heading = "Output")]
    pub utc: bool,
    /// JSON on standard output, in the shapes of docs/cli.md
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// No progress and no remarks on standard error
    #[arg(short, long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create an archive
    Init {
        /// Where; a directory that is empty or not there yet
        archive: PathBuf,
        /// A second key that opens the archive too: keep it somewhere else
        #[arg(long, value_name = "FILE")]
        recovery_key_file: Option<PathBuf>,
    },
    /// Keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Protect a live SQLite database: archive every transaction, until interrupted
    Watch {
        /// The database
        database: PathBuf,
        /// Switch the database to WAL mode where it is not
        #[arg(long)]
        enable_wal: bool,
        /// How often layers and snapshots that keep restores fast are looked after, in seconds; 0: never
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        maintain: u64,
    },
    /// Bring the archive of a SQLite database up to now, once
    Backup {
        /// The database
        database: PathBuf,
        /// Switch the database to WAL mode where it is not
        #[arg(long)]
        enable_wal: bool,
    },
    /// Bring a state back, exactly
    Restore {
        #[command(flatten)]
        target: TargetArgs,
        /// Where to: a new file where the node has one space (a SQLite database has), else a new directory
        #[arg(short, long, value_name = "PATH")]
        output: PathBuf,
        /// Rewrite only what differs in what is there already; nothing may use it meanwhile
        #[arg(long)]
        delta: bool,
    },
    /// List commits, newest first
    Log {
        /// How many
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
        count: u64,
        /// All of them
        #[arg(long, conflicts_with = "count")]
        all: bool,
        /// Oldest first
        #[arg(long)]
        reverse: bool,
        /// Only commits after this moment
        #[arg(long, value_name = "MOMENT")]
        since: Option<String>,
        /// Only commits up to this moment
        #[arg(long, value_name = "MOMENT")]
        until: Option<String>,
    },
    /// Show what can be restored, how old the newest commit is, what everything takes, and a chart of it
    Info {
        /// Also draw a timeline into this SVG file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
    /// Give a commit a name
    Point {
        /// The name
        name: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Prove that everything is there, intact, and rebuilds
    Verify {
        /// Compare checksums only, which needs no key and finds rot, not tampering
        #[arg(long)]
        without_key: bool,
        /// Read and decrypt every file, but rebuild no states
        #[arg(long, conflicts_with = "without_key")]
        no_rebuild: bool,
    },
    /// Show the files that a restore would read
    Plan {
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Show which pages differ between two moments
    Diff {
        /// The one
        #[arg(value_name = "MOMENT")]
        from: String,
        /// The other
        #[arg(value_name = "MOMENT", default_value = "latest")]
        to: String,
    },
    /// Find the first commit at which a query's answer changes
    Bisect {
        /// The query, over the SQLite database as it was at each commit that is tried
        #[arg(long, value_name = "QUERY")]
        sql: String,
        /// Where to begin; default: the earliest commit that can be restored
        #[arg(long, value_name = "MOMENT")]
        from: Option<String>,
        /// Where to end
        #[arg(long, value_name = "MOMENT", default_value = "latest")]
        to: String,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// Write one page for each command into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and write it to a new file that only its owner can read
    Generate {
        /// The file
        file: PathBuf,
    },
}

/// Which state; the latest where nothing is said.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The last commit at or before this time [or any MOMENT]
    #[arg(long, value_name = "MOMENT", group = "target", help_heading = "Target")]
    pub at: Option<String>,
    /// The last commit before this time, as of just before an accident; or the commit before lsn:NUMBER or point:NAME
    #[arg(long, value_name = "MOMENT", group = "target", help_heading = "Target")]
    pub before: Option<String>,
    /// This commit
    #[arg(long, value_name = "NUMBER", group = "target", help_heading = "Target")]
    pub lsn: Option<u64>,
    /// The restore point of this name
    #[arg(long, value_name = "NAME", group = "target", help_heading = "Target")]
    pub point: Option<String>,
    /// The latest commit; the default
    #[arg(long, group = "target", help_heading = "Target")]
    pub latest: bool,
}
