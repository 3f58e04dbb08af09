//! Timers that run while a machine is saved and goes on.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::await_that;
use crate::support::machine::{Machine, osier, show};
use crate::support::tree::{self, Layered};
use crate::{done, restoring, save};

/// What timers.pl sets: descriptors, and what sends signals.
const NAMES: [&str; 14] = [
    "absolute",
    "alarm",
    "alarm-repeated",
    "alarm-repeated-again",
    "calendar",
    "posix-absolute",
    "posix-length",
    "posix-relative",
    "posix-repeated",
    "posix-repeated-again",
    "posix-suspended",
    "relative",
    "repeated",
    "suspended",
];
/// And sets to nothing at once.
const UNSET: &str = "unset";
/// How late they may be seen on a busy machine.
const LATE: Duration = Duration::from_secs(2);
/// After which they expire again whose names say so.
const AGAIN: Duration = Duration::from_secs(1);

/// A machine in which they have been set to expire after this time.
struct Timed {
    tree: Layered,
    due: Duration,
}

impl Timed {
    fn boot(due: Duration) -> (Self, Machine) {
        let tree = Layered::over(&tree::of("sysvinit"));
        let inittab = tree.path().join("etc/inittab");
        let text = fs::read_to_string(&inittab).unwrap();
        let line =
            format!("tm:2345:once:/usr/bin/perl /usr/local/bin/timers.pl {} /root/timers", due.as_millis());
        fs::write(&inittab, format!("{text}\n{line}\n")).unwrap();
        for directory in ["root", "usr/local/bin"] {
            fs::create_dir_all(tree.path().join(directory)).unwrap();
        }
        fs::write(tree.path().join("usr/local/bin/timers.pl"), include_str!("timers.pl")).unwrap();
        let mut boot = osier(["boot", "--checkpointable"]);
        boot.arg(tree.path());
        let machine = Machine::spawn(boot, &tree.name, &tree.path());
        let timed = Self { tree, due };
        await_that("the timers to be set", || timed.written("set").len() == NAMES.len() + 1);
        (timed, machine)
    }

    /// By name, nanoseconds on the timer's own clock.
    fn written(&self, word: &str) -> BTreeMap<String, i64> {
        let text = fs::read_to_string(self.tree.path().join("root/timers")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().split_once(' '));
        lines.map(|(name, time)| (name.to_owned(), time.parse().unwrap())).collect()
    }

    /// Saves it, waits, and restores it with this option; gives how long all timers took from then on.
    fn restored(&self, machine: Machine, option: &str, gone: Duration) -> (Machine, Duration) {
        let saved = self.tree.scratch.path().join("saved");
        save(&self.tree.name, &saved, &[]);
        assert_eq!(machine.end_leaving().0, 0);
        assert!(self.written("seen").is_empty(), "too slow: they have expired before it was saved");
        thread::sleep(gone);
        let machine = Machine::spawn(restoring(&saved, &[option]), &self.tree.name, &self.tree.path());
        await_that("the machine", || show(&self.tree.name).is_some());
        let from = Instant::now();
        await_that("all timers to expire", || self.written("seen").len() == NAMES.len());
        (machine, from.elapsed())
    }

    /// None has expired early, and none but these late either.
    fn assert_in_time(&self, but: &[&str]) {
        let seen = self.written("seen");
        assert!(!seen.contains_key(UNSET), "what was not set has expired");
        for (name, due) in self.written("set").into_iter().filter(|(name, _)| name != UNSET) {
            let late = seen[&name] - due;
            assert!(late >= 0, "'{name}' has expired {} ns early, of {:?}", -late, self.due);
            let bound = but.contains(&&*name) || late < i64::try_from(LATE.as_nanos()).unwrap();
            assert!(bound, "'{name}' has expired {late} ns late");
        }
    }

    fn end(&self, machine: Machine) {
        done(&["poweroff", &self.tree.name]);
        let (code, console, _) = machine.end_leaving();
        assert_eq!(code, 0, "{console}");
        self.tree.assert_only(&self.tree.name);
    }
}

#[test]
fn when_time_stood_still_they_expire_by_the_clocks_inside() {
    let (timed, machine) = Timed::boot(Duration::from_secs(8));
    let (machine, _) = timed.restored(machine, "--clock=continue", Duration::from_secs(2));
    // The time of day has not stood still.
    timed.assert_in_time(&["calendar"]);
    timed.end(machine);
}

#[test]
fn when_the_time_between_counts_what_was_due_in_it_expires_at_once() {
    let (timed, machine) = Timed::boot(Duration::from_secs(12));
    let (machine, waited) = timed.restored(machine, "--clock=elapsed", Duration::from_secs(12));
    timed.assert_in_time(&NAMES);
    assert!(waited < LATE + AGAIN, "{waited:?}");
    timed.end(machine);
}
