//! Sealed files whose bytes change while they are read.
#![expect(unsafe_code, reason = "a map that another thread writes to cannot be had by safe code")]

use std::fs::{OpenOptions, Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use super::*;
use crate::crypto::KeyFile;
use crate::env::SystemRng;
use crate::names::{Scope, TMP};
use crate::storage::{FsStorage, Storage, is_mapped};
use crate::sync::{self, Instant};
use crate::types::as_index;

#[test]
fn a_mapped_frame_that_changes_meanwhile_is_as_it_was_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FsStorage::new(dir.path()).mapped();
    storage.create_dir(TMP).unwrap();
    let keyring = Keyring::new(KeyFile::from_bytes([1; 32]));
    for backend in Backend::available() {
        let archive = ArchiveId::from_bytes([2; 16]);
        let keys = ArchiveKeys::create(archive, &keyring, *backend, Arc::new(SystemRng)).unwrap();
        let info = FileInfo {
            kind: FileKind::Part,
            node: NodeId::new(1),
            timeline: TimelineId::new(1),
            epoch: Epoch::default(),
            sequence: 0,
            from: 0,
            to: 0,
            created: Timestamp::ZERO,
            link: [0; 32],
        };
        let mut writer =
            SealedWriter::create(&storage, &keys, Scope::Builder(info.node), info).unwrap();
        let sealed = vec![7; 4_000];
        let spec = FrameSpec::plain(FrameKind::Block, 0, 0);
        let frames: Vec<(u64, u32)> =
            (0..30).map(|_| writer.frame(spec, &sealed).unwrap()).collect();
        let name = &backend.to_string();
        writer.publish(name, &[]).unwrap();
        let path = dir.path().join(name);
        set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let other = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        set_permissions(&path, Permissions::from_mode(0o400)).unwrap();

        let file = SealedFile::open(&storage, &keys, name, FileKind::Part).unwrap();
        assert!(is_mapped(&path));
        let (offset, len) = frames[7];
        let at = offset + u64::from(len) - TAG_LEN as u64 - 10;
        // SAFETY: nothing cuts the file, and the one byte of it that is touched is touched as an
        // atomic.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&other) }.unwrap();
        let byte = &mut map[as_index(at)];
        // SAFETY: an atomic is as large as its byte, and nobody else in this map refers to that.
        let byte = unsafe { AtomicU8::from_ptr(byte) };
        let (was, done) = (byte.load(Ordering::Relaxed), AtomicBool::new(false));
        let (mut whole, mut altered) = (0, 0);
        sync::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    byte.store(was ^ 1, Ordering::Relaxed);
                    byte.store(was, Ordering::Relaxed);
                }
            });
            let (begun, mut buffer) = (Instant::now(), Vec::new());
            while begun.elapsed() < Duration::from_secs(2) {
                if let Ok((_, found)) = file.frame(offset, None, &mut buffer) {
                    *(if found == sealed { &mut whole } else { &mut altered }) += 1;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            altered, 0,
            "{name}: frames opened that were never sealed, beside {whole} that were"
        );
    }
}
