//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Point-in-time recovery of databases: every commit archived, encrypted; any of them brought back,
/// exactly.
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
6 somebody else is at work there, 130 interrupted.

Lengths of time: 7d, 36h, \"2 weeks\", 1y (365 days)."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The archive
    #[arg(
        short,
        long,
        global = true,
        env = "REWOUND_ARCHIVE",
        value_name = "DIR",
        help_heading = "Archive"
    )]
    pub archive: Option<PathBuf>,
    /// The node in it; may be left out where there is only one [for watch and backup: the name of
    /// the database's file]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Archive")]
    pub node: Option<String>,
    /// A key file, made by `rewound key generate`
    #[arg(
        long,
        global = true,
        env = "REWOUND_KEY_FILE",
        value_name = "FILE",
        help_heading = "Archive"
    )]
    pub key_file: Option<PathBuf>,
    /// Ask for a passphrase, even where the environment names a key
    #[arg(long, global = true, help_heading = "Archive")]
    pub passphrase: bool,
    /// Why, for the audit trail [default: the command]
    #[arg(long, global = true, value_name = "TEXT", help_heading = "Archive")]
    pub reason: Option<String>,
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
        /// How far back every commit can be restored, such as 7d, 30d or 35d; without it everything
        /// is kept
        #[arg(long, value_name = "TIME")]
        keep: Option<String>,
    },
    /// Keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Protect a live SQLite database: archive every transaction, until interrupted
    Watch {
        #[command(flatten)]
        database: DatabaseArgs,
        /// How often layers and snapshots that keep restores fast are looked after, in seconds; 0:
        /// never
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        maintain: u64,
        /// Do not let expire what no policy keeps any more, which is looked after once a day
        /// otherwise
        #[arg(long)]
        no_sweep: bool,
    },
    /// Bring the archive of a SQLite database up to now, once
    Backup {
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Bring a state back, exactly
    Restore {
        #[command(flatten)]
        target: TargetArgs,
        /// Where to: a new file where the node has one space (a SQLite database has), else a new
        /// directory
        #[arg(short, long, value_name = "PATH", required_unless_present = "replace")]
        output: Option<PathBuf>,
        /// Rewrite only what differs in what is there already; nothing may use it meanwhile
        #[arg(long)]
        delta: bool,
        /// Put the state in the place of this SQLite database, all or nothing; nothing may use it
        /// meanwhile
        #[arg(long, value_name = "DB", conflicts_with_all = ["output", "delta"])]
        replace: Option<PathBuf>,
        /// Leave no word in the audit trail: for archives that cannot be written to
        #[arg(long)]
        unaudited: bool,
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
    /// Show what can be restored, how old the newest commit is, what everything takes, and a chart
    /// of it
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
    ///
    /// The states that are tried are decrypted into a directory for you alone in TMPDIR, which is
    /// removed at the end.
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
        /// Leave no word in the audit trail: for archives that cannot be written to
        #[arg(long)]
        unaudited: bool,
    },
    /// Show how long history is kept, and the locks and holds; or set it
    Retention {
        #[command(subcommand)]
        command: Option<RetentionCommand>,
    },
    /// Let expire what no policy, restore point or hold keeps, and remove what expired before: to
    /// be run once a day
    Sweep {
        /// Show what would go, and why the rest stays; change nothing
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Say that the clock is right, where a sweep was refused for its sake: look at it first
        #[arg(long, conflicts_with = "dry_run")]
        confirm_clock: bool,
    },
    /// Show the audit trail: who did what, when and why, newest first
    Audit {
        #[command(flatten)]
        what: AuditArgs,
    },
    /// Place a legal hold: what it is on does not expire until it is released
    ///
    /// On the archive; with --node on that node; with --from on the commits of a node. Needs
    /// --reason.
    Hold {
        /// Its name
        name: String,
        /// On the commits from this moment on
        #[arg(long, value_name = "MOMENT")]
        from: Option<String>,
        /// ... and up to this one; without it, on all that come as well
        #[arg(long, value_name = "MOMENT", requires = "from")]
        to: Option<String>,
        /// When it ends by itself: a time to come, or a length of time from now
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Release a legal hold
    Release {
        /// Its name
        name: String,
    },
    /// Place a management lock: until it is released, nothing is deleted and no policy shortened
    ///
    /// On the archive, or with --node on that node.
    Lock {
        /// Its name
        name: String,
    },
    /// Release a management lock
    Unlock {
        /// Its name
        name: String,
    },
    /// Delete a node, softly: it can be undone for a week or more
    DeleteNode {
        /// Its name
        name: String,
        /// How long it can be undone; a week at least
        #[arg(long, value_name = "TIME", default_value = "7d")]
        grace: String,
    },
    /// Delete the archive, softly: it can be undone for a week or more
    DeleteArchive {
        /// How long it can be undone; a week at least
        #[arg(long, value_name = "TIME", default_value = "7d")]
        grace: String,
    },
    /// Undo a deletion
    Undelete {
        /// The node; without it, the archive
        name: Option<String>,
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

/// Commands about how long history is kept.
#[derive(Debug, Subcommand)]
pub enum RetentionCommand {
    /// Set it, for the archive or with --node for that node
    ///
    /// Longer counts at once. Shorter counts for what is archived from now on: what is there keeps
    /// its date; what was archived before the first policy, 35 days.
    Set(PolicyArgs),
}

/// How long what is kept.
#[derive(Args, Clone, Debug)]
pub struct PolicyArgs {
    /// How far back every commit can be restored, such as 7d, 30d or 35d; with --every: how long
    /// snapshots are kept
    #[arg(long, value_name = "TIME")]
    pub keep: String,
    /// How long commits with a restore point are kept [default: no longer than all others]
    #[arg(long, value_name = "TIME")]
    pub points_for: Option<String>,
    /// Periodic protection: keep a snapshot so often instead of every commit. Continuous protection
    /// does not go back to it
    #[arg(long, value_name = "TIME")]
    pub every: Option<String>,
    /// At least so many snapshots, whatever their age
    #[arg(long, value_name = "COUNT", default_value_t = 1, requires = "every")]
    pub count: u32,
    /// Every commit of the last so long as well
    #[arg(long, value_name = "TIME", requires = "every")]
    pub log_for: Option<String>,
    /// How long expired files stay before they are removed
    #[arg(long, value_name = "TIME", default_value = "1d")]
    pub grace: String,
}

/// What to do with the audit trail.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Args, Clone, Debug)]
pub struct AuditArgs {
    /// How many entries
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20)]
    pub count: u64,
    /// All of them
    #[arg(long, conflicts_with = "count")]
    pub all: bool,
    /// Oldest first
    #[arg(long)]
    pub reverse: bool,
    /// Prove the chain from the first entry to the newest
    #[arg(long, group = "proof")]
    pub verify: bool,
    /// Print a line that says how far the archive is: keep it where those who can write to the
    /// archive cannot reach
    #[arg(long, group = "proof")]
    pub attest: bool,
    /// Prove that the archive continues what such a line said: it was neither put back to an older
    /// state nor rewritten
    #[arg(long, value_name = "FILE or LINE", group = "proof")]
    pub since: Option<String>,
}

/// Which database, and what may be done to take it.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// The database
    pub database: PathBuf,
    /// Switch the database to WAL mode where it is not
    #[arg(long)]
    pub enable_wal: bool,
    /// Go on with this database in a node that belongs to another one: compare it, and log what
    /// differs as one commit
    #[arg(long)]
    pub adopt: bool,
}

/// Which state; the latest where nothing is said.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The last commit at or before this time [or any MOMENT]
    #[arg(long, value_name = "MOMENT", group = "target", help_heading = "Target")]
    pub at: Option<String>,
    /// The last commit before this time, as of just before an accident; or the commit before
    /// lsn:NUMBER or point:NAME
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
