//! How a follower ends: from each phase, and with nothing held.

use super::fake::{Fault, full, mismatch, misused};
use super::scene::Scene;
use super::seconds;
use crate::report::State;

#[test]
fn a_stop_in_each_phase_leaves_nothing_held() {
    type Begins = fn(&Scene);
    let away: Begins = |scene| scene.world.always(Some(("attach", || Fault::Locked)));
    let attached: Begins = |scene| scene.world.always(Some(("open", full)));
    let joined: Begins = |scene| scene.world.always(Some(("begin", full)));
    let following: Begins = |_| {};
    for (name, begin, error, last) in [
        ("away", away, Some("locked"), &["attach", "doubt: locked, locked"][..]),
        ("attached", attached, Some("full"), &["open", "let go", "(link)"]),
        ("joined", joined, Some("full"), &["begin", "(archive)", "let go", "(link)"]),
        ("following", following, None, &["look and round", "(archive)", "(link)", "part"]),
    ] {
        let scene = Scene::new();
        begin(&scene);
        let mut follower = scene.start().unwrap();
        scene.world.calls();
        let handle = follower.handle();
        handle.stop();
        let done = follower.run();
        let told = done.as_ref().err().map(ToString::to_string);
        assert_eq!(told.is_some(), error.is_some(), "{name}: {told:?}");
        assert!(told.is_none_or(|told| told.contains(error.unwrap())), "{name}");
        let calls = scene.world.calls();
        assert!(
            calls.ends_with(&last.iter().map(ToString::to_string).collect::<Vec<_>>()),
            "{name}: {calls:?}"
        );
        assert_eq!(handle.status().state, State::Stopped, "{name}");
        assert_eq!((handle.catch_up(seconds(60)), scene.waits()), (None, vec![]), "{name}");
        drop(follower);
        assert_eq!(scene.world.calls(), [""; 0], "{name}: ended once");
    }
}

#[test]
fn a_stop_ends_a_pause_after_a_failure() {
    let scene = Scene::new();
    scene.world.always(Some(("attach", || Fault::Locked)));
    let mut follower = scene.start().unwrap();
    scene.stop_at(seconds(1), &follower.handle());
    assert!(matches!(follower.run(), Err(Fault::Locked)));
    assert_eq!(scene.waits(), [100, 200, 400, 800]);
}

#[test]
fn what_was_opened_and_not_begun_is_closed() {
    let scene = Scene::new();
    let follower = scene.start().unwrap();
    scene.world.calls();
    follower.close().unwrap();
    assert_eq!(scene.world.calls(), ["(archive)", "close", "let go", "(link)"]);
}

#[test]
fn dropping_is_closing() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    follower.poll_once().unwrap();
    scene.world.calls();
    drop(follower);
    assert_eq!(scene.world.calls(), ["(archive)", "(link)", "part"]);
    assert_eq!((handle.status().state, handle.catch_up(seconds(60))), (State::Stopped, None));
}

#[test]
fn a_round_after_the_end_begins_anew() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    follower.handle().stop();
    follower.run().unwrap();
    scene.world.calls();
    follower.poll_once().unwrap();
    assert_eq!(scene.world.calls(), ["attach", "open", "begin", "look and round"]);
    assert_eq!(follower.handle().status().state, State::Following);
}

/// What made the database doubtful does not become true again because the follower has ended.
#[test]
fn what_was_doubted_before_the_end_is_doubted_after_it() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    scene.world.fails("look and round", [mismatch()]);
    scene.world.fails("attach", [misused()]);
    follower.run().unwrap_err();
    assert_eq!(follower.handle().status().state, State::Stopped);
    scene.world.calls();
    scene.world.fails("attach", [mismatch()]);
    follower.poll_once().unwrap_err();
    let doubts = scene.world.calls().pop().unwrap();
    assert_eq!(doubts.matches("the previous image").count(), 2, "{doubts}");
}

#[test]
fn a_transition_that_panics_leaves_nothing_held() {
    let scene = Scene::new();
    let mut follower = scene.start().unwrap();
    let handle = follower.handle();
    follower.on_event(|_| panic!("a callback"));
    scene.world.calls();
    let round = std::panic::AssertUnwindSafe(|| follower.poll_once());
    assert!(std::panic::catch_unwind(round).is_err());
    assert_eq!(scene.world.calls(), ["begin", "(archive)", "(link)"]);
    drop(follower);
    assert_eq!((handle.status().state, handle.catch_up(seconds(60))), (State::Stopped, None));
}
