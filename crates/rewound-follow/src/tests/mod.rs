//! Every transition of a follower, with a fake database and a fake clock. How it ends is in
//! [`ends`].

mod ends;
mod fake;
mod scene;

use std::time::Duration;

use fake::{Fault, MISSING, busy, full, gone, mismatch, misused};
use scene::{CHECK, ROUND, Scene};

use crate::report::State;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[test]
fn from_nothing_to_following_and_to_the_end() {
    let scene = Scene::new();
    scene.world.with(|w| w.commits = [2, 0].into());
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    assert_eq!(handle.status().state, State::Starting);
    assert_eq!(scene.world.calls(), ["attach", "open"]);
    assert_eq!(follower.poll_once().unwrap(), 2);
    assert_eq!(scene.world.calls(), ["begin", "look and round"]);
    let status = handle.status();
    assert_eq!(
        (status.state, status.archived.get(), status.commits, status.pages),
        (State::Following, 2, 2, 6)
    );
    assert_eq!(follower.poll_once().unwrap(), 0);
    assert_eq!(scene.world.calls(), ["round"]);
    let status = follower.close().unwrap();
    assert_eq!((status.state, handle.status().state), (State::Stopped, State::Stopped));
    assert_eq!(scene.world.calls(), ["(archive)", "(link)", "part"]);
    assert_eq!(scene.events(), ["continued 0", "archived 2 to 2"]);
}

#[test]
fn a_comparison_is_seen_while_it_lasts() {
    let scene = Scene::new();
    scene.world.with(|w| w.differs = Some("nobody watched".into()));
    let mut follower = scene.start().unwrap();
    follower.poll_once().unwrap();
    let seen = scene.world.with(|w| w.seen.iter().find(|(call, _)| call == "compare").unwrap().1);
    assert_eq!(seen, State::Resyncing);
    let status = follower.handle().status();
    assert_eq!((status.state, status.resyncs, status.archived.get()), (State::Following, 1, 1));
    assert_eq!(status.last_resync.as_deref(), Some("nobody watched"));
    assert!(status.archived_at.is_some());
    assert_eq!(scene.events(), ["compares: nobody watched", "compared 1 7 2s"]);
}

#[test]
fn a_comparison_that_fails_is_begun_again() {
    let scene = Scene::new();
    scene.world.with(|w| w.differs = Some("nobody watched".into()));
    scene.world.fails("compare", [full()]);
    let mut follower = scene.start().unwrap();
    follower.poll_once().unwrap_err();
    assert_eq!(follower.handle().status().resyncs, 0);
    scene.world.calls();
    follower.poll_once().unwrap();
    // The database stayed attached.
    assert_eq!(scene.world.calls(), ["open", "begin", "look and round"]);
}

#[test]
fn a_database_that_is_not_there_at_the_start_is_a_mistake() {
    let scene = Scene::new();
    scene.world.fails("attach", [Fault::Missing]);
    assert!(matches!(scene.start(), Err(Fault::Missing)));
    assert_eq!((scene.world.calls(), scene.waits()), (vec!["attach".to_owned()], vec![]));
}

#[test]
fn a_database_that_is_gone_is_waited_for_a_while() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    follower.poll_once().unwrap();
    scene.world.calls();
    scene.events();
    scene.world.fails("round", [Fault::Missing]);
    scene.world.always(Some(("attach", || Fault::Missing)));
    assert!(matches!(follower.run(), Err(Fault::Missing)));
    assert_eq!(
        scene.waits(),
        [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000, 5_000]
    );
    assert!(scene.clock.passed() >= MISSING);
    let calls = scene.world.calls();
    let fallen = ["round", "(archive)", "let go", "(link)", "doubt: no database", "attach"];
    assert_eq!(calls[..fallen.len()], fallen);
    // Each failure is noted, in the order in which they came.
    assert!(calls.contains(&"doubt: no database, no database".to_owned()));
    let events = scene.events();
    assert_eq!(events.first().map(String::as_str), Some("again in 100ms: no database"));
    assert_eq!(events.len(), 11);
    let status = follower.handle().status();
    assert_eq!((status.state, status.failures), (State::Stopped, 12));
}

#[test]
fn a_database_that_comes_back_is_gone_on_with() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    scene.world.fails("attach", [Fault::Missing, Fault::Locked]);
    scene.world.fails("look and round", [Fault::Missing]);
    scene.stop_at(seconds(1), &handle);
    let status = follower.run().unwrap();
    let events = scene.events();
    let expected = [
        "continued 0",
        "again in 100ms: no database",
        "again in 200ms: no database",
        "again in 400ms: locked",
        "continued 0",
        "recovered",
    ];
    assert_eq!(events, expected);
    assert_eq!((status.failures, status.failure), (3, None));
}

#[test]
fn a_locked_database_is_waited_for_from_the_start() {
    let scene = Scene::new();
    scene.world.fails("attach", [Fault::Locked]);
    let mut follower = scene.start().unwrap();
    let status = follower.handle().status();
    assert_eq!((status.state, status.failure.as_deref()), (State::Retrying, Some("locked")));
    assert_eq!(scene.waits(), []);
    follower.poll_once().unwrap();
    assert_eq!(follower.handle().status().state, State::Following);
}

#[test]
fn a_full_archive_keeps_the_database_attached() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    follower.poll_once().unwrap();
    scene.world.calls();
    scene.world.with(|w| w.behind = true);
    scene.world.fails("round", [full()]);
    scene.world.always(Some(("open", full)));
    let (world, seen) = (scene.world.clone(), handle.clone());
    scene.at(seconds(10), move || {
        let status = seen.status();
        assert_eq!(status.state, State::Retrying);
        assert!(status.failure.unwrap().contains("full"));
        assert_eq!(status.pending_bytes, 4096);
        assert!(status.lag >= seconds(9), "{:?}", status.lag);
        world.always(None);
        world.with(|w| w.behind = false);
    });
    scene.stop_at(seconds(20), &handle);
    let status = follower.run().unwrap();
    assert_eq!((status.failure, status.lag, status.pending_bytes), (None, Duration::ZERO, 0));
    let calls = scene.world.calls();
    assert_eq!(calls.iter().filter(|call| *call == "(link)").count(), 1);
    assert!(!calls.iter().any(|call| call == "attach" || call.starts_with("doubt")), "{calls:?}");
    assert!(scene.events().contains(&"recovered".to_owned()));
}

#[test]
fn a_previous_image_that_does_not_match_lets_the_database_go() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    scene.world.calls();
    scene.world.fails("look and round", [mismatch()]);
    follower.poll_once().unwrap_err();
    let calls = scene.world.calls();
    assert_eq!(calls[..5], ["begin", "look and round", "(archive)", "let go", "(link)"]);
    assert!(calls[5].starts_with("doubt: archive: the previous image"));
}

#[test]
fn an_archive_that_is_gone_is_a_mistake_at_the_start_and_waited_for_later() {
    let scene = Scene::new();
    scene.world.fails("open", [gone()]);
    assert!(scene.start().is_err());
    assert_eq!(scene.world.calls(), ["attach", "open", "let go", "(link)"]);

    let mut follower = scene.start().unwrap();
    follower.poll_once().unwrap();
    scene.world.always(Some(("open", gone)));
    scene.world.fails("round", [gone()]);
    let world = scene.world.clone();
    scene.at(seconds(3_600), move || world.always(None));
    scene.stop_at(seconds(3_700), &follower.handle());
    assert_eq!(follower.run().unwrap().failure, None);
}

#[test]
fn another_writer_is_waited_for_a_second() {
    let scene = Scene::new();
    scene.world.always(Some(("open", busy)));
    assert!(scene.start().is_err());
    assert_eq!(scene.waits(), [100; 10]);
    let calls = scene.world.calls();
    // It is attached to once.
    assert_eq!(calls.iter().filter(|call| *call == "attach").count(), 1);
    assert_eq!(calls.last().map(String::as_str), Some("(link)"));

    scene.world.always(None);
    scene.world.fails("open", [busy(), busy()]);
    let follower = scene.start().unwrap();
    assert_eq!(scene.waits(), [100; 2]);
    // It was none of the failures that are told of.
    assert_eq!(follower.handle().status().failures, 0);
}

#[test]
fn what_nothing_helps_against_ends_it_at_once() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    follower.poll_once().unwrap();
    scene.world.calls();
    scene.world.fails("round", [misused()]);
    assert!(follower.run().is_err());
    assert_eq!(scene.world.calls(), ["round", "(archive)", "let go", "(link)"]);
    let status = handle.status();
    assert_eq!((status.state, status.failures), (State::Stopped, 1));
    assert!(status.failure.unwrap().contains("beyond the limit"));
    assert_eq!(handle.catch_up(seconds(60)), None);
    assert_eq!(scene.waits(), []);
}

#[test]
fn files_are_looked_at_every_so_often_and_before_the_end() {
    let scene = Scene::new();
    let busy = usize::try_from(CHECK.as_millis() / ROUND.as_millis()).unwrap();
    scene.world.with(|w| w.commits = vec![1; busy + 10].into());
    let mut follower = scene.start().unwrap();
    scene.stop_at(CHECK + 3 * ROUND, &follower.handle());
    follower.run().unwrap();
    let calls = scene.world.calls();
    let looks: Vec<usize> = (0..calls.len()).filter(|at| calls[*at] == "look and round").collect();
    // After attach, open and begin; once more when it is due; and at the end.
    assert_eq!(looks[..2], [3, 3 + busy]);
    assert_eq!(looks.len(), 3, "{calls:?}");
    // Transactions gather meanwhile.
    assert!(scene.waits().iter().all(|wait| *wait == ROUND.as_millis()));
}

#[test]
fn a_backup_tries_again_for_a_while_and_waits_for_what_goes_on() {
    let scene = Scene::new();
    scene.world.fails("look and round", [full()]);
    scene.world.with(|w| w.commits = [3].into());
    let status = scene.start().unwrap().backup().unwrap();
    assert_eq!((status.commits, status.state), (3, State::Stopped));
    let calls = scene.world.calls();
    assert!(
        calls.ends_with(&["settle", "(archive)", "(link)", "part"].map(String::from)),
        "{calls:?}"
    );
    assert_eq!(scene.waits(), [100]);

    scene.world.always(Some(("round", full)));
    scene.world.always(Some(("open", full)));
    assert!(scene.start().unwrap().backup().is_err());
    assert_eq!(scene.waits(), [100, 200, 400, 800, 1_600, 3_200, 6_400]);
    assert_eq!(scene.world.calls().last().map(String::as_str), Some("(link)"));
}

#[test]
fn whoever_waits_is_answered_by_a_round_that_succeeds() {
    let scene = Scene::new();
    scene.world.with(|w| w.commits = [1, 1].into());
    let mut follower = scene.start().unwrap();
    follower.poll_once().unwrap();
    let handle = follower.handle();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.catch_up(seconds(60)));
        while handle.asked() == 0 {
            std::thread::yield_now();
        }
        scene.world.fails("round", [full()]);
        follower.poll_once().unwrap_err();
        assert!(!waiting.is_finished());
        follower.poll_once().unwrap();
        assert_eq!(waiting.join().unwrap().map(rewound::Position::get), Some(2));
    });
    assert_eq!(handle.catch_up(Duration::from_millis(1)), None);
}
