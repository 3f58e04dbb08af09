//! Machines that mean harm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;

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

/// Whoever swaps directories for links while they are copied gets nothing out and nothing in.
#[test]
fn links_swapped_in_during_the_copy_lead_nowhere() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let outside = scratch.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/file"), "secret").unwrap();
    let outside_now = describe(&outside);
    for name in ["race/sub", "merge/sub"] {
        fs::create_dir_all(running.inside(name)).unwrap();
        fs::write(running.inside(name).join("file"), "harmless").unwrap();
    }
    let path = outside.join("sub");
    let hammer = format!(
        "cd /; while :; do for d in race merge; do mv $d/sub $d/kept; ln -s {0} $d/sub; rm $d/sub; mv $d/kept $d/sub; \
         for t in .osier-copy-*/sub; do mv $t /stolen.$$; ln -s {0} $t; rm -f $t; done 2>/dev/null; done; done",
        path.display()
    );
    let leader = running.machine.leader().to_string();
    let mut attacker = std::process::Command::new("nsenter")
        .args(["--target", &leader, "--all", "--", "/bin/sh", "-c", &hammer])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    scratch.file("tree/sub/file", "payload");
    let tree = scratch.path().join("tree");
    let quietly = |arguments: &[&std::ffi::OsStr]| output(&mut osier(arguments)).status.success();
    let mut counts = [0; 3];
    for round in 0..150 {
        let out = scratch.path().join(format!("out-{round}"));
        let name = running.name().as_ref();
        let from = quietly(&["copy-from".as_ref(), name, "/race".as_ref(), out.as_ref()]);
        // A link that was there at that moment is copied as one.
        if !out.join("sub").is_symlink() {
            let read = fs::read_to_string(out.join("sub/file")).unwrap_or_default();
            assert!(!read.contains("secret"), "round {round}");
        }
        let merged = quietly(&["copy-to".as_ref(), "-f".as_ref(), name, tree.as_ref(), "/merge".as_ref()]);
        let target = format!("/to-{round}");
        let to = quietly(&["copy-to".as_ref(), name, tree.as_ref(), target.as_ref()]);
        for (count, done) in counts.iter_mut().zip([from, merged, to]) {
            *count += u32::from(done);
        }
    }
    attacker.kill().unwrap();
    attacker.wait().unwrap();
    assert_eq!(
        describe(&outside),
        outside_now,
        "something was written outside: {counts:?} of 150 copies done"
    );
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
