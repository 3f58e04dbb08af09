//! Machines that mean harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::support::machine::{osier, output};
use super::support::tree::Scratch;
use super::{Running, below, describe, hidden};

#[test]
fn links_that_the_machine_planted_lead_to_places_inside() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let secret = scratch.file("secret", "secret");
    let file = scratch.file("file", "payload");
    symlink(&outside, running.inside("absolute")).unwrap();
    symlink("../".repeat(30) + outside.to_str().unwrap(), running.inside("relative")).unwrap();
    symlink(&secret, running.inside("bait")).unwrap();
    symlink(scratch.path(), running.inside("baits")).unwrap();
    for link in ["absolute", "relative"] {
        running.refused_to(&[], &file, &format!("/{link}/"));
        running.refused_to(&["--force"], &scratch.path().join("outside"), &format!("/{link}"));
    }
    // Where the same path is there inside, it is that one.
    running.machine.sh(&format!("mkdir -p {}", outside.display()));
    running.copy_to(&[], &file, "/relative/");
    running.copy_to(&[], &file, "/absolute/two");
    assert_eq!(below(&outside, Path::new("")), Vec::<PathBuf>::new());
    running.machine.sh(&format!("test -f {0}/file && test -f {0}/two", outside.display()));

    running.refused_from(&[], "/baits/secret", &scratch.path().join("out"));
    running.copy_from(&[], "/bait", &scratch.path().join("out"));
    assert_eq!(fs::read_link(scratch.path().join("out")).unwrap(), secret, "a link stays one");
    // Magic links of processes whose root is elsewhere: the machine cannot see any, so osier's own is the one to try.
    for magic in ["/proc/self/root", "/proc/1/root", "/proc/self/cwd"] {
        running.refused_from(&[], &format!("{magic}/etc/"), &scratch.path().join("out"));
        running.refused_to(&[], &file, &format!("{magic}/planted"));
    }
    assert!(!Path::new("/planted").exists());
    running.end();
}

/// Swaps a directory for a link and back, as fast as it goes, until told to stop. It does so from outside: the system calls
/// are those that a process in the machine would make on the same file system.
fn swap(stop: &AtomicBool, mut pair: impl FnMut() -> Option<(PathBuf, PathBuf)>) {
    while !stop.load(Ordering::Relaxed) {
        let Some((directory, link)) = pair() else { continue };
        // As often as it takes for the directory to be there, and then an even number of times.
        for _ in 0..200 {
            let _ = renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE);
        }
    }
}

/// Tells the swapping threads to stop, however the rounds end.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A copy that grows in this directory.
fn growing(directory: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(directory).ok()?.flatten();
    let found = entries.find(|entry| entry.file_name().as_encoded_bytes().starts_with(b".osier-copy-"));
    found.map(|entry| entry.path())
}

/// Copies out of, over and beside what is swapped; which of these came to their end.
fn attempt(running: &Running, scratch: &Scratch, round: u32) -> [bool; 3] {
    let (out, tree) = (scratch.path().join(format!("out-{round}")), scratch.path().join("tree"));
    let copy = |verb: &str, options: &[&str], source: &Path, target: &Path| {
        let mut osier = osier([verb]);
        osier.args(options).arg(running.name()).args([source, target]);
        output(&mut osier).status.success()
    };
    let from = copy("copy-from", &[], Path::new("/race"), &out);
    // A link that was there at that moment is copied as one.
    if !out.join("sub").is_symlink() {
        let read = fs::read_to_string(out.join("sub/file")).unwrap_or_default();
        assert!(!read.contains("secret"), "round {round}");
    }
    let merged = copy("copy-to", &["--force"], &tree.join("merged"), Path::new("/merge"));
    let to = copy("copy-to", &[], &tree.join("new"), Path::new(&format!("/to-{round}")));
    [from, merged, to]
}

/// Whoever swaps directories for links while they are copied gets nothing out and nothing in.
#[test]
fn links_swapped_in_during_the_copy_lead_nowhere() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "secret").unwrap();
    let outside_now = describe(&outside);
    for name in ["race/sub", "merge/sub"] {
        fs::create_dir_all(running.inside(name)).unwrap();
        fs::write(running.inside(name).join("file"), "harmless").unwrap();
    }
    for number in 0..30 {
        scratch.file(&format!("tree/new/{number}/payload"), "payload");
    }
    scratch.file("tree/merged/sub/payload", "payload");
    let planted = ["race-link", "merge-link", "link"].map(|name| running.inside(name));
    planted.iter().for_each(|link| symlink(&outside, link).unwrap());
    let fixed = |name: &str, link: &Path| (running.inside(name).join("sub"), link.to_owned());
    let in_copy = || Some((growing(&running.tree.path())?.join("7"), planted[2].clone()));
    let (stop, mut counts) = (AtomicBool::new(false), [0; 3]);
    std::thread::scope(|scope| {
        scope.spawn(|| swap(&stop, || Some(fixed("race", &planted[0]))));
        scope.spawn(|| swap(&stop, || Some(fixed("merge", &planted[1]))));
        scope.spawn(|| swap(&stop, in_copy));
        let _stopped = Stopped(&stop);
        let begun = Instant::now();
        // Where three threads in a circle leave the copies little of the processors, fewer have to do.
        for round in (0..150).take_while(|_| begun.elapsed() < Duration::from_secs(15)) {
            let done = attempt(&running, &scratch, round);
            counts.iter_mut().zip(done).for_each(|(count, done)| *count += u32::from(done));
        }
    });
    assert_eq!(describe(&outside), outside_now, "written outside: {counts:?} copies done");
    assert!(counts.iter().all(|count| *count > 0), "the attacker left no copy a chance: {counts:?}");
    running.machine.signal(Signal::SIGTERM);
    assert_eq!(running.machine.end().0, 0);
}

#[test]
fn trees_deeper_than_any_path_are_refused_and_deep_ones_are_copied() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let script = "i=0; while [ $i -lt $1 ]; do mkdir d && cd d || exit; i=$((i+1)); done; touch bottom";
    for depth in ["900", "1100"] {
        fs::create_dir(running.inside(depth)).unwrap();
        running.machine.sh(&format!("cd /{depth}; set -- {depth}; {script}"));
    }
    let out = scratch.path().join("out");
    running.copy_from(&[], "/900", &out);
    let found = std::process::Command::new("find")
        .args([&out])
        .args(["-name".as_ref(), Path::new("bottom")])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&found.stdout).ends_with("/d/d/d/bottom\n"));
    let said = running.refused_from(&[], "/1100", &scratch.path().join("other"));
    assert!(said.ends_with("directories are nested too deeply\n"), "{said}");
    assert!(!scratch.path().join("other").exists() && hidden(scratch.path()).is_empty());
    running.end();
}
