//! The fold of the catalog: what each entry changes of the state.
//!
//! Owns which events the entries before them allow. Never reads or writes a file, and never decides
//! what should happen. Folding the same entries always makes the same state.

use std::collections::{BTreeMap, BTreeSet};

use super::retention::{Expiring, Hold, NodeRetention, PolicyChange};
use super::state::{CatalogState, NodeRecord, RestorePointRecord};
use crate::error::{DamageKind, Error, Result};
use crate::format::event::{CatalogEntry, Event};
use crate::format::retention::Deletion;
use crate::types::{Epoch, NodeId, TimelineId, Timestamp};

impl CatalogState {
    /// Folds one more entry.
    pub fn fold(&mut self, entry: &CatalogEntry, path: &str) -> Result<()> {
        let impossible = |found: &str| {
            Error::damage(
                DamageKind::Structure,
                path,
                0,
                "catalog event",
                "one that the entries before it allow",
                found,
            )
        };
        self.observe(entry.sequence, entry.time);
        match &entry.event {
            Event::ArchiveCreated { key, recipients } => {
                if entry.sequence != 1 {
                    return Err(impossible("a second beginning"));
                }
                self.key = Some(*key);
                self.recipients.clone_from(recipients);
            }
            Event::NodeCreated { node, name, origin } => {
                crate::types::check_name("node", name)
                    .map_err(|_| impossible("an unusable name"))?;
                let record = NodeRecord {
                    name: name.clone(),
                    origin: *origin,
                    created: entry.time,
                    epoch: Epoch::new(0),
                    timeline: TimelineId::FIRST,
                    parents: BTreeMap::new(),
                    layers: Vec::new(),
                    restore_points: BTreeMap::new(),
                    durable: BTreeMap::new(),
                    retention: NodeRetention::default(),
                    branched: None,
                };
                if self.node_named(name).is_ok() || self.nodes.insert(*node, record).is_some() {
                    return Err(impossible("a node twice"));
                }
            }
            Event::WriterOpened { node, timeline, epoch, position } => {
                let record =
                    self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                if *epoch <= record.epoch {
                    return Err(impossible("an epoch that does not rise"));
                }
                record.epoch = *epoch;
                record.note_durable(*timeline, *position);
            }
            Event::LayerPublished(layer) => {
                let record =
                    self.nodes.get_mut(&layer.node).ok_or_else(|| impossible("an unknown node"))?;
                record.layers.push(layer.clone());
                record.note_durable(layer.timeline, layer.to.max(layer.consistent_from));
            }
            Event::RestorePoint { node, timeline, name, position, timestamp } => {
                let record =
                    self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                let point = RestorePointRecord {
                    timeline: *timeline,
                    position: *position,
                    timestamp: *timestamp,
                };
                if record.restore_points.insert(name.clone(), point).is_some() {
                    return Err(impossible("a restore point twice"));
                }
                record.note_durable(*timeline, *position);
            }
            Event::TimelineCreated { node, timeline, parent, fork } => {
                let record =
                    self.nodes.get_mut(node).ok_or_else(|| impossible("an unknown node"))?;
                if *timeline <= record.timeline {
                    return Err(impossible("a timeline that does not rise"));
                }
                if !record.timelines().contains(parent) {
                    return Err(impossible("a timeline of one that there is not"));
                }
                record.parents.insert(*timeline, (*parent, *fork));
                record.timeline = *timeline;
                record.note_durable(*parent, *fork);
                // The writer of the timeline that was left is fenced off.
                record.epoch = Epoch::new(record.epoch.get().saturating_add(1));
            }
            _ => self.fold_retention(entry, &impossible)?,
        }
        self.entries = entry.sequence;
        self.time = entry.time;
        Ok(())
    }

    /// Folds an event of retention.
    fn fold_retention(
        &mut self,
        entry: &CatalogEntry,
        impossible: &dyn Fn(&str) -> Error,
    ) -> Result<()> {
        let unknown = || impossible("an unknown node");
        let sequence = entry.sequence;
        match &entry.event {
            Event::RetentionChanged { node, policy, covers } => {
                let change =
                    PolicyChange { entry: sequence, covers: *covers, policy: policy.clone() };
                match node {
                    None => self.retention.policies.push(change),
                    Some(node) => {
                        self.nodes
                            .get_mut(node)
                            .ok_or_else(unknown)?
                            .retention
                            .policies
                            .push(change);
                    }
                }
            }
            Event::LockPlaced { node, name } => {
                self.locks_of(*node).ok_or_else(unknown)?.insert(name.clone());
            }
            Event::LockReleased { node, name } => {
                self.locks_of(*node).ok_or_else(unknown)?.remove(name);
            }
            Event::HoldPlaced { name, scope, until } => {
                let hold =
                    Hold { scope: *scope, until: *until, reason: entry.actor.reason.clone() };
                self.retention.holds.insert(name.clone(), hold);
            }
            Event::HoldReleased { name } => {
                self.retention.holds.remove(name);
            }
            Event::FilesExpired { node, clock, timelines, files, grace, last } => {
                let node = self.nodes.get_mut(node).ok_or_else(unknown)?;
                node.layers.retain(|l| !files.layers.contains(&l.file));
                for timeline in timelines {
                    node.retention.kept.insert(timeline.timeline, timeline.kept.clone());
                }
                let due = Timestamp::from_nanos(clock.as_nanos().saturating_add(*grace));
                node.retention.expiring.insert(sequence, Expiring { due });
                if *last {
                    node.retention.deletion = Deletion::Final;
                }
                self.retention.clock.clock = *clock;
            }
            Event::FilesRemoved { node, entry, .. } => {
                let node = self.nodes.get_mut(node).ok_or_else(unknown)?;
                node.retention
                    .expiring
                    .remove(entry)
                    .ok_or_else(|| impossible("a removal of nothing"))?;
            }
            Event::DeletionChanged { node, deletion } => match node {
                None => self.retention.deletion = *deletion,
                Some(node) => {
                    let node = self.nodes.get_mut(node).ok_or_else(unknown)?;
                    if node.retention.deletion == Deletion::Final {
                        return Err(impossible("the return of a node whose files were given up"));
                    }
                    node.retention.deletion = *deletion;
                }
            },
            Event::ClockObserved { clock, archived, confirmed } => {
                self.retention.clock.clock = *clock;
                if *confirmed {
                    self.retention.clock.archived = *archived;
                }
            }
            // The others are only for the record, or are folded elsewhere.
            _ => {}
        }
        Ok(())
    }

    fn locks_of(&mut self, node: Option<NodeId>) -> Option<&mut BTreeSet<String>> {
        match node {
            None => Some(&mut self.retention.locks),
            Some(node) => self.nodes.get_mut(&node).map(|n| &mut n.retention.locks),
        }
    }

    /// Moves the believed time to the time of an entry, if that is near.
    fn observe(&mut self, sequence: u64, time: Timestamp) {
        let mark = &mut self.retention.clock;
        if sequence == 1 || mark.is_near(time) {
            mark.clock = time;
        }
    }
}
