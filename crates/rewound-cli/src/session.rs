//! What a command works with: the archive, the node, the zone, the switch that Ctrl-C throws.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rewound::options::Cancel;
use rewound::storage::FsStorage;
use rewound::{
    Actor, Administrator, Archive, ArchiveOptions, Deletion, Keyring, Node, ReplayOptions,
    Resolved, Scope, Target,
};

use crate::args::{Global, TargetArgs};
use crate::failure::{Failure, Result};
use crate::keys;
use crate::moment::{Moment, Zone};
use crate::{scratch, signals};

/// One run of the command line.
pub struct Session {
    pub global: Global,
    pub zone: Zone,
    /// Who acts, and why, for the audit trail.
    pub actor: Actor,
    /// Set by a signal.
    interrupted: Arc<AtomicBool>,
}

impl Session {
    /// `command`: what the audit trail is told where no reason is given.
    pub fn new(global: Global, command: &str) -> Result<Session> {
        let interrupted = Arc::new(AtomicBool::new(false));
        signals::handle(Arc::clone(&interrupted))?;
        scratch::sweep();
        let zone = Zone::new(global.utc);
        let actor = Actor {
            name: user(),
            reason: global.reason.clone().unwrap_or_else(|| format!("rewound {command}")),
        };
        Ok(Session { global, zone, actor, interrupted })
    }

    /// The switch that an interruption throws.
    pub fn cancel(&self) -> Cancel {
        Arc::clone(&self.interrupted).into()
    }

    pub fn replay_options(&self) -> ReplayOptions {
        let mut options = ReplayOptions::default();
        options.cancel = self.cancel();
        options
    }

    /// The path of the archive.
    pub fn path(&self) -> Result<&Path> {
        let missing = "which archive? give --archive DIR, or set REWOUND_ARCHIVE";
        self.global.archive.as_deref().ok_or_else(|| Failure::Usage(missing.into()))
    }

    /// The archive, opened with whatever key is at hand.
    pub fn archive(&self) -> Result<Archive> {
        let path = self.path()?;
        // Before anybody is asked for a passphrase.
        if !path.join("catalog").is_dir() {
            return Err(rewound::Error::no_archive(path).into());
        }
        Ok(Archive::open_in(storage(path), keys::existing(&self.global)?, self.options())?)
    }

    /// Creates an archive.
    pub fn create(&self, path: &Path, keys: Keyring) -> Result<Archive> {
        Ok(Archive::create_in(storage(path), keys, self.options())?)
    }

    fn options(&self) -> ArchiveOptions {
        ArchiveOptions::new().actor(self.actor.name.clone(), self.actor.reason.clone())
    }

    /// Acts as an administrator.
    pub fn administrator(&self) -> Result<Administrator> {
        Ok(self.archive()?.administrator(self.actor.clone()))
    }

    /// The archive, or the node that was named.
    pub fn scope(&self) -> Scope<'_> {
        self.global.node.as_deref().map_or(Scope::Archive, Scope::Node)
    }

    /// The node that was named, or the only one there is.
    pub fn node(&self) -> Result<Node> {
        let archive = self.archive()?;
        self.node_of(&archive)
    }

    pub fn node_of(&self, archive: &Archive) -> Result<Node> {
        if let Some(name) = &self.global.node {
            return Ok(archive.node(name)?);
        }
        let nodes: Vec<Node> = archive
            .nodes()?
            .iter()
            .map(|name| archive.node(name))
            .collect::<rewound::Result<_>>()?;
        let live: Vec<&Node> =
            nodes.iter().filter(|n| n.deletion().is_ok_and(|d| d == Deletion::Live)).collect();
        let holding: Vec<&Node> = live.iter().copied().filter(|n| holds_something(n)).collect();
        // What is deleted, or holds nothing, is meant only where there is nothing else.
        let meant =
            [holding, live, nodes.iter().collect()].into_iter().find(|some| !some.is_empty());
        // No node at all is none that is meant.
        match meant.unwrap_or_default().as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(Failure::Other(
                "the archive holds nothing yet: `rewound watch DB` or `rewound backup DB` begins to protect a database"
                    .into(),
            )),
            several => {
                let names: Vec<&str> = several.iter().map(|n| n.name()).collect();
                Err(Failure::Usage(format!("which node? give --node with one of: {}", names.join(", "))))
            }
        }
    }

    /// What a moment names.
    pub fn moment(&self, text: &str) -> Result<Target> {
        Ok(Moment::parse(text, &self.zone)?.at())
    }

    /// What the target's arguments name.
    pub fn target(&self, args: &TargetArgs, node: &Node) -> Result<Target> {
        if let Some(text) = &args.at {
            return self.moment(text);
        }
        if let Some(text) = &args.before {
            return match Moment::parse(text, &self.zone)? {
                Moment::Time(time) => Ok(Target::BeforeTime(time)),
                // The commit before the one that it names.
                other => Ok(Target::BeforeTime(node.resolve(&other.at())?.timestamp)),
            };
        }
        if let Some(number) = args.lsn {
            return self.moment(&format!("lsn:{number}"));
        }
        Ok(args.point.clone().map_or(Target::Latest, Target::RestorePoint))
    }

    /// A commit and its time, as everybody prints them.
    pub fn describe(&self, at: &Resolved) -> String {
        format!("LSN {} of {}", at.lsn, self.zone.show(at.timestamp))
    }
}

/// Whether anything of a node can be restored, damage left aside.
fn holds_something(node: &Node) -> bool {
    use rewound::Error::{AfterDurableEnd, BeforeWindow};
    !matches!(node.window(), Err(AfterDurableEnd { .. } | BeforeWindow { .. }))
}

fn storage(path: &Path) -> Arc<FsStorage> {
    Arc::new(FsStorage::new(path))
}

/// The name of the user that the system knows the process by; behind `sudo`, whoever called that as
/// well.
fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    let known = std::fs::read("/etc/passwd").unwrap_or_default();
    let name = String::from_utf8_lossy(&known).lines().find_map(named);
    // Users of a directory service are in no file: then the number, which is sure, and what the
    // environment says.
    let name = name.unwrap_or_else(|| match std::env::var("USER") {
        Ok(name) => format!("uid {uid} ({name})"),
        Err(_) => format!("uid {uid}"),
    });
    match std::env::var("SUDO_USER") {
        Ok(caller) if uid == 0 => format!("{name} (sudo by {caller})"),
        _ => name,
    }
}
