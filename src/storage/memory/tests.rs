use super::*;
use crate::names::parent;

const SEEDS: std::ops::Range<u64> = 0..200;

fn append(storage: &MemStorage, path: &str, bytes: &[u8]) -> Box<dyn AppendFile> {
    let mut file = storage.create(path).unwrap();
    file.append(bytes).unwrap();
    file
}

fn synced(storage: &MemStorage, path: &str, bytes: &[u8]) {
    append(storage, path, bytes).sync().unwrap();
    storage.sync_dir(parent(path)).unwrap();
}

fn now(storage: &MemStorage, unsynced: Unsynced) -> MemStorage {
    storage.crash_image(CrashPlan { at: storage.operation_count(), unsynced })
}

fn lost(storage: &MemStorage) -> BTreeMap<String, Vec<u8>> {
    now(storage, Unsynced::LostAll).files()
}

fn seeded(storage: &MemStorage) -> impl Iterator<Item = BTreeMap<String, Vec<u8>>> {
    SEEDS.map(|seed| now(storage, Unsynced::Seeded(seed)).files())
}

fn files<const N: usize>(files: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
    files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect()
}

fn path(path: &str) -> String {
    path.to_owned()
}

#[test]
fn unsynced_bytes_are_lost_and_synced_ones_kept() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"");
    let mut file = append(&storage, "b", b"synced");
    file.sync().unwrap();
    storage.sync_dir("").unwrap();
    file.append(b" and not").unwrap();
    assert_eq!(lost(&storage), files([("a", b""), ("b", b"synced")]));
    file.sync().unwrap();
    assert_eq!(lost(&storage), files([("a", b""), ("b", b"synced and not")]));
}

#[test]
fn unsynced_entries_are_lost_whatever_was_synced_in_them() {
    let storage = MemStorage::new();
    storage.create_dir("d").unwrap();
    synced(&storage, "d/a", b"a");
    assert_eq!(lost(&storage), files([]), "the directory was not synced in its parent");
    storage.sync_dir("").unwrap();
    assert_eq!(lost(&storage), files([("d/a", b"a")]));
    append(&storage, "d/b", b"b").finish().unwrap();
    storage.sync_dir("").unwrap();
    assert_eq!(lost(&storage), files([("d/a", b"a")]));
    storage.sync_dir("d").unwrap();
    assert_eq!(lost(&storage), files([("d/a", b"a"), ("d/b", b"b")]));
}

#[test]
fn removal_is_lost_until_the_directory_is_synced() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"a");
    storage.delete("a").unwrap();
    assert_eq!(lost(&storage), files([("a", b"a")]));
    append(&storage, "a", b"another").sync().unwrap();
    let mut outcomes: Vec<_> = seeded(&storage).collect();
    outcomes.sort();
    outcomes.dedup();
    assert_eq!(outcomes, [files([]), files([("a", b"a")]), files([("a", b"another")])]);
    storage.sync_dir("").unwrap();
    assert_eq!(lost(&storage), files([("a", b"another")]));
}

#[test]
fn a_rename_is_atomic_under_every_seed() {
    let storage = MemStorage::new();
    storage.create_dir("d").unwrap();
    storage.create_dir("e").unwrap();
    storage.sync_dir("").unwrap();
    synced(&storage, "d/old", b"x");
    storage.publish("d/old", "e/new").unwrap();
    let old = files([("d/old", b"x")]);
    let new = files([("e/new", b"x")]);
    assert_eq!(lost(&storage), old);
    assert_eq!(
        seeded(&storage).filter(|f| *f == old).count()
            + seeded(&storage).filter(|f| *f == new).count(),
        200
    );
    assert!(seeded(&storage).any(|f| f == old) && seeded(&storage).any(|f| f == new));
    storage.sync_dir("d").unwrap();
    assert_eq!(lost(&storage), old, "only the new parent makes it durable");
    storage.sync_dir("e").unwrap();
    assert_eq!(lost(&storage), new);
    assert!(seeded(&storage).all(|f| f == new));
}

#[test]
fn a_rename_needs_no_sync_of_the_old_directory() {
    let storage = MemStorage::new();
    storage.create_dir("tmp").unwrap();
    storage.create_dir("d").unwrap();
    storage.sync_dir("").unwrap();
    append(&storage, "tmp/a", b"x").finish().unwrap();
    storage.publish("tmp/a", "d/a").unwrap();
    assert_eq!(lost(&storage), files([]));
    for outcome in seeded(&storage) {
        assert!(outcome.len() <= 1, "{outcome:?}");
    }
    storage.sync_dir("d").unwrap();
    storage.sync_dir("tmp").unwrap();
    assert!(seeded(&storage).all(|f| f == files([("d/a", b"x")])));
    storage.delete("d/a").unwrap();
    storage.sync_dir("d").unwrap();
    assert!(seeded(&storage).all(|f| f.is_empty()), "no name comes back");
}

#[test]
fn chains_of_renames_leave_one_name() {
    let storage = MemStorage::new();
    for dir in ["d", "e"] {
        storage.create_dir(dir).unwrap();
    }
    storage.sync_dir("").unwrap();
    synced(&storage, "d/a", b"x");
    storage.publish("d/a", "d/b").unwrap();
    storage.publish("d/b", "e/c").unwrap();
    for outcome in seeded(&storage) {
        assert_eq!(outcome.len(), 1, "{outcome:?}");
    }
    storage.sync_dir("e").unwrap();
    assert!(seeded(&storage).all(|f| f == files([("e/c", b"x")])));
}

#[test]
fn a_rename_into_a_lost_directory_did_not_happen() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"x");
    storage.create_dir("d").unwrap();
    storage.publish("a", "d/a").unwrap();
    for sync in [false, true] {
        if sync {
            storage.sync_dir("d").unwrap();
        }
        assert_eq!(lost(&storage), files([("a", b"x")]));
        assert!(seeded(&storage).all(|f| f.len() == 1));
    }
    storage.sync_dir("").unwrap();
    assert_eq!(lost(&storage), files([("d/a", b"x")]));
}

#[test]
fn seeds_cover_the_ways_to_lose_bytes_and_repeat() {
    let storage = MemStorage::new();
    let mut file = append(&storage, "a", &[1; 700]);
    file.sync().unwrap();
    storage.sync_dir("").unwrap();
    file.append(&[2; 3000]).unwrap();
    let (mut kept, mut cut, mut holes, mut garbage) = (0, 0, 0, 0);
    for (a, b) in seeded(&storage).zip(seeded(&storage)) {
        assert_eq!(a, b);
        let bytes = &a["a"];
        assert_eq!(bytes[..700], [1; 700]);
        let tail = &bytes[700..];
        let full = bytes.len() == 3700;
        match tail {
            _ if tail.iter().all(|&b| b == 2) => *if full { &mut kept } else { &mut cut } += 1,
            _ if tail.iter().all(|&b| b == 2 || b == 0) => {
                assert!(full);
                // Holes begin and end with sectors; the first holds synced bytes.
                for sector in 1..8 {
                    let sector = &bytes[(sector * 512).max(700)..(sector * 512 + 512).min(3700)];
                    assert!(sector.iter().all(|b| *b == sector[0]), "{bytes:?}");
                }
                holes += 1;
            }
            _ => {
                assert!(full);
                garbage += 1;
            }
        }
    }
    assert!([kept, cut, holes, garbage].into_iter().all(|count| count > 20));
}

#[test]
fn zeroed_space_survives_as_zeros() {
    let storage = MemStorage::new();
    let mut file = storage.create("a").unwrap();
    storage.sync_dir("").unwrap();
    file.expect_small_appends();
    file.append(b"one").unwrap();
    assert_eq!(lost(&storage)["a"], b"");
    file.sync().unwrap();
    file.append(b"two").unwrap();
    let found = &lost(&storage)["a"];
    assert_eq!((&found[..3], found.len()), (&b"one"[..], 4096));
    assert!(found[3..].iter().all(|&b| b == 0));
    for found in seeded(&storage) {
        assert_eq!((&found["a"][..3], found["a"].len()), (&b"one"[..], 4096));
    }
}

#[test]
fn a_dead_process_leaves_what_the_system_still_has_to_write() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"a");
    storage.publish("a", "b").unwrap();
    append(&storage, "c", b"c");
    let lock = storage.try_lock("lock").unwrap();
    let image = now(&storage, Unsynced::KeptAll);
    drop(lock);
    assert_eq!(image.files(), files([("b", b"a"), ("c", b"c"), ("lock", b"")]));
    assert!(image.try_lock("lock").unwrap().is_some());
    // Recovery that takes the bytes for durable loses them at the next power cut.
    assert_eq!(lost(&image), files([("a", b"a")]));
    image.sync_dir("").unwrap();
    assert_eq!(lost(&image), files([("b", b"a"), ("c", b""), ("lock", b"")]));
    image.sync_file("c").unwrap();
    assert_eq!(lost(&image), files([("b", b"a"), ("c", b"c"), ("lock", b"")]));
}

#[test]
fn images_are_of_the_moment_asked_for() {
    let storage = MemStorage::new();
    let mut file = storage.create("a").unwrap();
    storage.sync_dir("").unwrap();
    let base = storage.operation_count();
    for i in 0..50 {
        file.append(&[i]).unwrap();
        file.sync().unwrap();
    }
    storage.delete("a").unwrap();
    storage.sync_dir("").unwrap();
    let end = storage.operation_count();
    assert_eq!(end, base + 102);
    let ascending = 0..100_usize;
    let descending = (0..100).rev();
    for n in ascending.chain(descending) {
        let appended: Vec<u8> = (0..50).take(n.div_ceil(2)).collect();
        let durable: Vec<u8> = (0..50).take(n / 2).collect();
        assert_eq!(storage.crash_image(CrashPlan::kept(base + n)).files()["a"], appended);
        assert_eq!(storage.crash_image(CrashPlan::lost(base + n)).files()["a"], durable);
    }
    assert_eq!(storage.crash_image(CrashPlan::lost(0)).files(), files([]));
    assert_eq!(storage.crash_image(CrashPlan::lost(end - 1)).files().len(), 1);
    assert_eq!(lost(&storage), files([]));
}

#[test]
fn images_are_independent_and_can_be_crashed_again() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"a");
    let image = storage.crash_image(CrashPlan::seeded(storage.operation_count(), 1));
    assert_eq!(image.operation_count(), 0);
    image.delete("a").unwrap();
    append(&image, "b", b"b");
    assert_eq!(storage.files(), files([("a", b"a")]));
    assert_eq!(image.crash_image(CrashPlan::kept(0)).files(), files([("a", b"a")]));
    assert_eq!(image.crash_image(CrashPlan::kept(1)).files(), files([]));
    assert_eq!(image.crash_image(CrashPlan::lost(2)).files(), files([("a", b"a")]));
    let fork = image.fork();
    fork.sync_dir("").unwrap();
    assert_eq!(lost(&fork), files([("b", b"")]));
    assert_eq!(lost(&image), files([("a", b"a")]));
}

#[test]
fn operations_are_recorded_in_order() {
    let storage = MemStorage::new();
    storage.create_dir("d").unwrap();
    storage.create_dir("d").unwrap();
    let mut file = append(&storage, "d/tmp", b"12");
    storage.create("d/tmp").unwrap_err();
    storage.publish("d/tmp", "d/a").unwrap();
    file.append(b"345").unwrap();
    file.append(b"").unwrap();
    file.sync().unwrap();
    file.finish().unwrap();
    storage.sync_dir("d").unwrap();
    storage.delete("d/a").unwrap();
    storage.set_file("x/y", *b"z");
    let expected = vec![
        Operation::CreateDir { path: path("d") },
        Operation::Create { path: path("d/tmp") },
        Operation::Append { path: path("d/tmp"), offset: 0, len: 2 },
        Operation::Publish { from: path("d/tmp"), to: path("d/a") },
        Operation::Append { path: path("d/a"), offset: 2, len: 3 },
        Operation::SyncFile { path: path("d/a") },
        Operation::Finish { path: path("d/a") },
        Operation::SyncDir { path: path("d") },
        Operation::Remove { path: path("d/a") },
        Operation::SetFile { path: path("x/y") },
    ];
    assert_eq!(storage.operations(), expected);
    assert_eq!(storage.operation_count(), expected.len());
    assert_eq!(lost(&storage), files([("x/y", b"z")]));
}

#[test]
fn faults_hit_the_operation_asked_for() {
    let storage = MemStorage::new();
    storage.fail_operation(1, io::ErrorKind::TimedOut);
    storage.fail_operation(3, io::ErrorKind::PermissionDenied);
    let mut file = storage.create("a").unwrap();
    assert_eq!(file.append(b"1234").unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(file.len(), 0);
    assert!(file.append(b"5").is_err() && file.sync().is_err(), "a failure is for good");
    assert_eq!(storage.files(), files([("a", b"12")]));
    storage.create("a").unwrap_err();
    storage.create_dir("d").unwrap();
    let failed = storage.publish("a", "b").unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(storage.files(), files([("a", b"12")]));
    storage.publish("a", "b").unwrap();
    assert_eq!(storage.operation_count(), 4);
}

#[test]
fn what_a_failed_sync_left_is_never_durable() {
    let storage = MemStorage::new();
    let mut file = append(&storage, "a", b"safe");
    file.sync().unwrap();
    storage.sync_dir("").unwrap();
    file.append(b" lost").unwrap();
    storage.fail_operation(0, io::ErrorKind::Other);
    file.sync().unwrap_err();
    storage.sync_file("a").unwrap();
    assert_eq!(storage.files(), files([("a", b"safe lost")]));
    assert_eq!(lost(&storage), files([("a", b"safe")]));
    let at = storage.operation_count() - 1;
    storage.sync_dir("").unwrap();
    assert_eq!(storage.crash_image(CrashPlan::lost(at)).files(), files([("a", b"safe")]));
}

#[test]
fn a_power_cut_ends_everything() {
    let storage = MemStorage::new();
    storage.crash_after(2);
    let mut file = storage.create("a").unwrap();
    assert!(!storage.is_crashed());
    file.append(b"x").unwrap();
    assert!(storage.is_crashed());
    file.append(b"y").unwrap_err();
    file.finish().unwrap_err();
    storage.open("a").unwrap_err();
    storage.list("").unwrap_err();
    storage.try_lock("lock").unwrap_err();
    storage.sync_dir("").unwrap_err();
    assert_eq!(now(&storage, Unsynced::KeptAll).files(), files([("a", b"x")]));
    now(&storage, Unsynced::LostAll).list("").unwrap();
}

#[test]
fn a_full_disk_takes_what_fits() {
    let storage = MemStorage::new();
    assert_eq!(storage.free_space().unwrap(), None);
    storage.set_capacity(Some(10));
    let mut small = append(&storage, "a", b"1234");
    assert_eq!(storage.free_space().unwrap(), Some(6));
    // No room to zero: goes on without.
    small.expect_small_appends();
    small.append(b"5").unwrap();
    let mut file = storage.create("b").unwrap();
    assert_eq!(file.append(b"123456").unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(storage.free_space().unwrap(), Some(0));
    assert_eq!(storage.files(), files([("a", b"12345"), ("b", b"12345")]));
    storage.delete("b").unwrap();
    small.append(b"6").unwrap();
    assert_eq!(storage.free_space().unwrap(), Some(4));
    storage.set_capacity(None);
    small.append(&[0; 100]).unwrap();
}

#[test]
fn zeroed_space_is_used_when_the_disk_is_full() {
    let storage = MemStorage::new();
    storage.set_capacity(Some(4096));
    let mut file = storage.create("a").unwrap();
    file.expect_small_appends();
    file.append(b"x").unwrap();
    assert_eq!(storage.free_space().unwrap(), Some(0));
    file.append(&[1; 4095]).unwrap();
    assert_eq!(file.append(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn set_file_rewrites_what_readers_see() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"good");
    let reader = storage.open("a").unwrap();
    storage.set_file("a", *b"evil!");
    let mut buf = [0; 5];
    assert_eq!(reader.read_at(0, &mut buf).unwrap(), 5);
    assert_eq!(&buf, b"evil!");
    storage.set_file("d/e/f", *b"new");
    storage.list("d/e").unwrap();
    assert_eq!(lost(&storage), files([("a", b"evil!"), ("d/e/f", b"new")]));
}

#[test]
#[should_panic(expected = "cannot be the path of a file")]
fn set_file_refuses_a_path_below_a_file() {
    let storage = MemStorage::new();
    synced(&storage, "a", b"");
    storage.set_file("a/b", *b"");
}

#[test]
fn without_recording_there_is_the_present() {
    let storage = MemStorage::without_recording();
    append(&storage, "a", b"x").sync().unwrap();
    storage.sync_dir("").unwrap();
    assert_eq!(storage.operations(), []);
    assert_eq!(storage.operation_count(), 4);
    assert_eq!(lost(&storage), files([("a", b"x")]));
}

#[test]
#[should_panic(expected = "was not recorded")]
fn without_recording_there_is_no_past() {
    let storage = MemStorage::without_recording();
    storage.create("a").unwrap();
    let _ = storage.crash_image(CrashPlan::lost(0));
}

#[test]
#[should_panic(expected = "1 operations were carried out, not 2")]
fn there_is_no_future() {
    let storage = MemStorage::new();
    storage.create("a").unwrap();
    let _ = storage.crash_image(CrashPlan::lost(2));
}

#[test]
fn files_that_nothing_leads_to_are_forgotten() {
    let storage = MemStorage::new();
    for _ in 0..10 {
        synced(&storage, "tmp", b"x");
        storage.publish("tmp", "a").unwrap();
        let reader = storage.open("a").unwrap();
        storage.delete("a").unwrap();
        storage.sync_dir("").unwrap();
        drop(reader);
    }
    let state = &storage.shared.lock().state;
    assert_eq!((state.files.len(), state.pending.len(), state.durable.len()), (0, 0, 0));
}

/// The promise as a whole, on a workload drawn from a seed: files are written under
/// temporary names, synced, published and removed; what was acknowledged is there after
/// every crash, and nothing is there twice.
#[test]
fn what_was_acknowledged_survives_every_crash() {
    let storage = MemStorage::new();
    storage.create_dir("tmp").unwrap();
    storage.create_dir("d").unwrap();
    storage.sync_dir("").unwrap();
    // (operations, file, whether it must be there from then on)
    let mut acknowledged = Vec::new();
    for n in 0..60_u8 {
        let (tmp, name) = (format!("tmp/{n}"), format!("d/{n}"));
        let mut file = storage.create(&tmp).unwrap();
        for _ in 0..n % 4 {
            file.append(&vec![n; usize::from(n) * 37]).unwrap();
        }
        file.finish().unwrap();
        storage.publish(&tmp, &name).unwrap();
        if n % 3 != 0 {
            storage.sync_dir("d").unwrap();
            acknowledged.push((storage.operation_count(), n, true));
        }
        if n % 5 == 4 {
            let gone = n - 3;
            acknowledged.push((storage.operation_count(), gone, false));
            storage.delete(&format!("d/{gone}")).unwrap();
        }
    }
    for at in 3..=storage.operation_count() {
        let plans = (0..8).map(|seed| CrashPlan::seeded(at, seed * 1000 + at as u64));
        for plan in plans.chain([CrashPlan::lost(at), CrashPlan::kept(at)]) {
            let found = storage.crash_image(plan).files();
            let mut names: Vec<_> =
                found.keys().filter_map(|path| path.split('/').next_back()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{plan:?}: {found:?}");
            let mut expected = BTreeMap::new();
            for (count, n, there) in &acknowledged {
                if *count <= at {
                    expected.insert(n, *there);
                }
            }
            for (n, _) in expected.into_iter().filter(|(_, there)| *there) {
                let bytes = vec![*n; usize::from(n % 4) * usize::from(*n) * 37];
                assert_eq!(found.get(&format!("d/{n}")), Some(&bytes), "{plan:?}");
            }
        }
    }
}
