//! The model test: random histories, and every commit of them asked back.
//!
//! A program is a list of steps: batches of all kinds of ops, alone and side by side, ticks, cuts,
//! reopened writers, power cuts at any operation, layers, snapshots, base copies of an engine that
//! goes on committing. Beside the archive runs a [`Model`] that holds the whole state after each
//! commit in plain memory. In the end, and here and there before it, every retained commit is
//! restored and compared with the model byte by byte, and every kind of target has to name the
//! commit that it means: each commit's time, the times just around it, restore points, marks.
//!
//! Numbers in steps are taken modulo what is there when they are carried out, so that any part of a
//! program is a program: it shrinks well. What a run found is kept in `regressions` and is run
//! first; `PROPTEST_CASES` sets the number of programs.

mod draft;
mod engine;
mod history;
mod oracle;
mod program;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use self::engine::World;
use self::program::{Program, forking, program};

fn config(regressions: &'static str, cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        max_shrink_iters: 4_000,
        max_shrink_time: 180_000,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

fn run(program: &Program) {
    let mut world = World::new(program);
    for step in &program.steps {
        world.step(step);
    }
    world.finish();
}

proptest! {
    // Some twenty seconds on two cores, without optimisation.
    #![proptest_config(config("tests/it/regressions/model.txt", 48))]

    #[test]
    fn every_commit_of_any_history_comes_back(program in program()) {
        run(&program);
    }
}

proptest! {
    #![proptest_config(config("tests/it/regressions/forks.txt", 24))]

    #[test]
    fn every_commit_of_every_timeline_comes_back(program in forking()) {
        run(&program);
    }
}
