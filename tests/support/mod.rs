//! What tests of running machines share: [`tree`] makes what they run from, [`machine`] runs the program, [`terminal`]
//! is a user at a terminal, [`leftovers`] looks for what should be gone.
//!
//! Everything a test makes has a name of its own ([`unique`]), so that tests can run at the same time.

pub(crate) mod leftovers;
pub(crate) mod machine;
pub(crate) mod terminal;
pub(crate) mod tree;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// So long any one thing may take on a busy machine of two processors.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A name that no other test has, in this process or another.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("t-{what}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The program under test.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("OSIER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_osier").into(), PathBuf::from)
}

/// Asks until the answer is there; `what` is named when it never comes.
pub(crate) fn await_some<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until it is so.
pub(crate) fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    await_some(what, || is_so().then_some(()));
}
