//! What cannot be saved or restored: an error that says why, and a machine that goes on as if nothing had been.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::others::{await_more, counting};
use crate::support::machine::{Machine, osier, output, wait};
use crate::support::tree::{Layered, Scratch, Tree, of};
use crate::support::{await_that, leftovers};
use crate::{checkpoint, checkpointing, criu, restoring, said, save};

fn line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned()
}

/// What is in a directory.
fn listing(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn a_machine_that_was_not_booted_for_it_cannot_be_saved() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let target = tree.outside().join("saved");
    let refused = checkpoint(tree.name(), &target, &[]);
    let wanted =
        format!("osier: cannot checkpoint '{}': it was not booted so that it can be saved", tree.name());
    assert_eq!((refused.status.code(), line(&refused)), (Some(1), wanted));
    assert!(!target.exists());
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

/// A machine that counts, and goes on counting whatever is tried with it.
struct Subject {
    tree: Layered,
    machine: Machine,
    /// Where its checkpoints would be.
    place: PathBuf,
}

impl Subject {
    fn boot() -> Self {
        Self::over(Layered::over(&of("sysvinit")))
    }

    fn over(tree: Layered) -> Self {
        let machine = counting(&tree, "ct:2345:respawn:");
        let place = tree.scratch.path().join("place");
        fs::create_dir(&place).unwrap();
        Self { tree, machine, place }
    }

    fn target(&self) -> PathBuf {
        self.place.join("saved")
    }

    /// It goes on, and of the attempt there is nothing.
    fn assert_untouched(&self, what: &str) {
        assert_eq!(listing(&self.place), Vec::<PathBuf>::new(), "{what}");
        assert_eq!(self.machine.show()["state"], "running", "{what}");
        await_more(&self.tree, 3);
    }

    fn refuses(&self, what: &str, refused: &Output, why: &str) {
        let line = line(refused);
        assert!(refused.status.code() == Some(1) && line.contains(why), "{what}: {refused:?}");
        self.assert_untouched(what);
    }

    fn end(self) {
        self.machine.signal(Signal::SIGTERM);
        assert_eq!(self.machine.end_leaving().0, 0);
        self.tree.assert_only(&self.tree.name);
    }
}

#[test]
fn what_cannot_be_saved_goes_on() {
    let subject = Subject::boot();
    let (name, target) = (subject.tree.name.as_str(), subject.target());
    subject.refuses("a file system without room", &in_small(&subject), "no room: it needs about");
    let here = subject.tree.scratch.file("here", "");
    subject.refuses("something there", &checkpoint(name, &here, &[]), "there is something of that name");
    let none = said(&["checkpoint", "--criu=/nonexistent", &format!("--to={}", target.display()), name]);
    subject.refuses("no criu", &none, "/nonexistent");
    for (what, script, why) in CRIUS {
        let program = program(&subject.tree.scratch, what, script);
        let to = format!("--to={}", target.display());
        let refused = said(&["checkpoint", &format!("--criu={}", program.display()), &to, name]);
        subject.refuses(what, &refused, why);
        // A new one is of use where this one is old, and not where it was killed.
        let hint = String::from_utf8_lossy(&refused.stderr).contains("install criu 4.1");
        assert_eq!(hint, what == "old", "{what}: {refused:?}");
    }
    let nowhere = subject.tree.scratch.path().join("nowhere/saved");
    subject.refuses("no directory", &checkpoint(name, &nowhere, &[]), "no such file or directory");
    let usage = checkpoint(name, &target, &["--compress"]);
    assert!(!usage.status.success(), "{usage:?}");
    subject.assert_untouched("a directory, compressed");
    subject.end();
}

/// What is said to be criu, and cannot be used. An old one answers as one does: `criu_resp` with the version 3.17.
const CRIUS: [(&str, &str, &str); 2] = [
    (
        "old",
        // In one packet.
        "#!/bin/bash\nhead -c 1 <&\"$3\" >/dev/null\n\
         printf '\\010\\012\\020\\001\\122\\004\\010\\003\\020\\021' | \
         dd bs=64 iflag=fullblock status=none >&\"$3\"\n",
        "it is criu 3.17, and osier needs 4.1",
    ),
    ("killed", "#!/bin/sh\nkill -KILL $$\n", "it was ended by SIGKILL"),
];

/// A program in `scratch`.
fn program(scratch: &Scratch, name: &str, script: &str) -> PathBuf {
    let path = scratch.file(name, script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// What a process of the machine does, and the error that names it then. It stays until there is /root/over.
fn flaws() -> [(String, &'static str); 5] {
    let perl = |does: String| {
        format!(
            "exec perl -e '{does}; open(my $ready, \">\", \"/root/ready\") or die; \
             until (-e \"/root/over\") {{ select(undef, undef, undef, 0.05) }} kill KILL => $child if $child'"
        )
    };
    let huge = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
    [
        (
            "exec unshare -m sh -c 'mount -t ramfs none /mnt && touch /root/ready; until [ -e /root/over ]; do sleep 0.05; done'"
                .to_owned(),
            "has a file system of the type ramfs at /mnt",
        ),
        (
            perl(format!("syscall({}, 0, 2 << 20, 3, {huge}, -1, 0) == -1 and die", libc::SYS_mmap)),
            "has huge pages (hugetlbfs) in its memory",
        ),
        (
            perl(format!("my $type = \"tmpfs\"; syscall({}, $type, 0) == -1 and die", libc::SYS_fsopen)),
            "has a file system that is being mounted open",
        ),
        (
            // In a process group of its own: that of an orphan is not stopped by a terminal.
            // Nobody has waited for it.
            perl(
                "$child = fork // die; unless ($child) { setpgrp(0, 0); kill TTIN => $$; exit } \
                 until (do { local (@ARGV, $/) = \"/proc/$child/stat\"; <> } =~ / T /) { select(undef, undef, undef, 0.02) }"
                    .to_owned(),
            ),
            "was stopped by its terminal (SIGTTIN)",
        ),
        (
            // As a shell does: CRIU alone can tell then.
            perl(
                "$child = fork // die; unless ($child) { setpgrp(0, 0); kill TTIN => $$; exit } waitpid($child, 2)"
                    .to_owned(),
            ),
            "it was stopped by its terminal (SIGTTIN)",
        ),
    ]
}

#[test]
fn what_is_in_the_way_is_named() {
    let tree = Layered::over(&of("sysvinit"));
    let inittab = tree.path().join("etc/inittab");
    let text = fs::read_to_string(&inittab).unwrap();
    fs::write(&inittab, format!("{text}\nfl:2345:respawn:/bin/sh /usr/local/bin/flaw\n")).unwrap();
    let [root, local] = ["root", "usr/local/bin"].map(|directory| tree.path().join(directory));
    for directory in [&root, &local] {
        fs::create_dir_all(directory).unwrap();
    }
    // It runs what is put there, one after the other.
    let runs =
        "while :; do [ -e /root/flaw ] && mv /root/flaw /root/flawed && sh /root/flawed; sleep 0.05; done\n";
    fs::write(local.join("flaw"), runs).unwrap();
    let subject = Subject::over(tree);
    let [flaw, ready, over] = ["flaw", "ready", "over"].map(|name| root.join(name));
    for (script, why) in flaws() {
        fs::write(root.join("next"), &script).unwrap();
        fs::rename(root.join("next"), &flaw).unwrap();
        await_that(&script, || ready.exists());
        let refused = checkpoint(&subject.tree.name, &subject.target(), &[]);
        fs::remove_file(&ready).unwrap();
        fs::write(&over, "").unwrap();
        subject.refuses(&script, &refused, why);
        // With that out of the way it can be saved.
        await_that("its end", || {
            let saved = checkpoint(&subject.tree.name, &subject.target(), &["--leave-running"]);
            saved.status.success()
        });
        fs::remove_dir_all(subject.target()).unwrap();
        fs::remove_file(&over).unwrap();
    }
    subject.end();
}

/// Tries it on a file system of a few pages.
fn in_small(subject: &Subject) -> Output {
    let small = subject.tree.scratch.path().join("small");
    fs::create_dir(&small).unwrap();
    mount(Some("small"), &small, Some("tmpfs"), MsFlags::empty(), Some("size=64k")).unwrap();
    let refused = checkpoint(&subject.tree.name, &small.join("saved"), &[]);
    let left = listing(&small);
    umount2(&small, MntFlags::MNT_DETACH).unwrap();
    assert_eq!(left, Vec::<PathBuf>::new());
    refused
}

/// Waits until the attempt is in the middle: everything has been stopped.
fn await_middle(subject: &Subject) {
    let events = Path::new(subject.machine.show()["cgroup"].as_str().unwrap()).join("payload/cgroup.events");
    await_that("the machine to stand still", || {
        fs::read_to_string(&events).is_ok_and(|text| text.contains("frozen 1"))
    });
}

#[test]
fn a_machine_goes_on_when_who_saves_it_is_broken_off() {
    let subject = Subject::boot();
    for (signal, code) in [(Signal::SIGKILL, None), (Signal::SIGINT, Some(1))] {
        let mut command = checkpointing(&subject.tree.name, &subject.target(), &["--with-tree"]);
        let mut child = command.spawn().unwrap();
        await_middle(&subject);
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = wait(&mut child, &|| "osier checkpoint".to_owned());
        assert_eq!(status.code(), code, "{signal}");
        await_more(&subject.tree, 3);
        assert!(!subject.target().exists(), "{signal}");
    }
    // What one that was killed leaves goes with the next.
    assert_eq!(listing(&subject.place).len(), 0);
    let mut child = checkpointing(&subject.tree.name, &subject.target(), &[]).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        // Each of them: the first is only asked for its version, and may have said it.
        if let Some(criu) = of_parent(child.id()) {
            let _ = kill(criu, Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(wait(&mut child, &|| "osier checkpoint".to_owned()).code(), Some(1));
    subject.assert_untouched("criu killed");
    subject.end();
}

/// What was read of its tree would be of different moments: it is no checkpoint, and is not kept.
#[test]
fn what_was_thawed_meanwhile_is_not_saved() {
    let subject = Subject::boot();
    let name = subject.tree.name.as_str();
    let mut command = checkpointing(name, &subject.target(), &["--with-tree"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_that("the tree to be read", || {
        listing(&subject.place).iter().any(|draft| draft.join("checkpoint/tree.tar").exists())
    });
    assert!(said(&["thaw", name]).status.success());
    let refused = child.wait_with_output().unwrap();
    subject.refuses("thawed", &refused, "somebody let it go on meanwhile");
    subject.end();
}

/// The child of a process that is criu.
fn of_parent(parent: u32) -> Option<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let mut children = list.split_whitespace();
    let criu = children.find(|pid| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.windows(5).any(|part| part == b"swrk\0"))
    });
    Some(Pid::from_raw(criu?.parse().unwrap()))
}

/// CRIU says its version, and nothing more.
fn break_off_a_hanging_criu(tree: &Layered, saved: &Path, signal: Signal) {
    let [asked, hangs] = ["asked", "hangs"].map(|name| tree.scratch.path().join(name));
    let [_, real] =
        criu().split_once('=').map(|(option, real)| [option.to_owned(), real.to_owned()]).unwrap();
    let script = format!(
        "#!/bin/sh\n[ -e {asked} ] || {{ : >{asked}; exec {real} \"$@\"; }}\n: >{hangs}\nexec sleep 1000\n",
        asked = asked.display(),
        hangs = hangs.display()
    );
    let program = program(&tree.scratch, "hanging", &script);
    let mut restore = osier(["restore", &format!("--criu={}", program.display())]);
    let mut child = restore.arg(saved).stderr(Stdio::piped()).spawn().unwrap();
    await_that("criu to hang", || hangs.exists());
    kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
    wait(&mut child, &|| format!("osier restore, after {signal}"));
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(125), "{ended:?}");
    assert!(line(&ended).ends_with("it was asked to end"), "{ended:?}");
    tree.assert_only(&tree.name);
    for file in [asked, hangs] {
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_checkpoint_that_is_not_whole_is_not_used() {
    let subject = Subject::boot();
    let Subject { tree, machine, .. } = subject;
    let file = tree.scratch.path().join("saved.osier");
    save(&tree.name, &file, &[]);
    assert_eq!(machine.end_leaving().0, 0);
    let whole = fs::read(&file).unwrap();
    let bad = tree.scratch.path().join("bad.osier");
    let refuse = |what: &str, options: &[&str], why: &str| {
        let start = Instant::now();
        let refused = output(&mut restoring(&bad, options));
        let line = line(&refused);
        let begin = format!("osier: cannot restore from '{}': ", bad.display());
        assert_eq!(refused.status.code(), Some(125), "{what}: {line}");
        assert!(line.starts_with(&begin) && line.contains(why), "{what}: {line}");
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tree.assert_only(&tree.name);
    };
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    refuse("cut", &[], "it ends after");
    fs::write(&bad, &whole).unwrap();
    let mut altered = fs::OpenOptions::new().write(true).open(&bad).unwrap();
    altered.seek(SeekFrom::Start(whole.len() as u64 / 2)).unwrap();
    altered.write_all(b"what was never there").unwrap();
    refuse("altered", &[], "");
    fs::write(&bad, "something else\n").unwrap();
    refuse("foreign", &[], "");
    fs::remove_file(&bad).unwrap();
    refuse("missing", &[], "");
    fs::write(&bad, &whole).unwrap();
    refuse("no tree", &["--tree=/nonexistent"], "/nonexistent");
    assert_eq!(leftovers::of("nonexistent", Path::new("/nonexistent")), Vec::<String>::new());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        break_off_a_hanging_criu(&tree, &file, signal);
    }
    // None of this has done it any harm.
    let machine = Machine::spawn(restoring(&file, &[]), &tree.name, &tree.path());
    await_more(&tree, 3);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end_leaving().0, 0);
    tree.assert_only(&tree.name);
}
