//! `osier migrate` on one host: a machine goes on under another name and from another tree, and whatever breaks on the way, it
//! runs on exactly one side and nothing of it is left on the other. tests/between_hosts.rs has two hosts.
//!
//! Needs root and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(
    clippy::print_stderr,
    reason = "what was said and how long it took is shown with the failure, or with --nocapture"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[path = "support/carrier.rs"]
mod carrier;
#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carrier::Cut;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::machine::{Machine, await_death, osier, output, show};
use support::tree::{Scratch, Tree};
use support::{await_some, await_that, leftovers, program, unique};

/// It counts in memory: who has its file sees it run.
const INIT: &str = r"#!/bin/sh
export PATH=/bin:/sbin
trap 'poweroff -f' 15 38
echo counting
count=0
while :; do
    count=$((count + 1))
    echo $count >/run/count
    sleep 0.02
done
";

/// A place for a machine: a name, and a tree of that name.
struct Side {
    name: String,
    tree: PathBuf,
}

impl Side {
    fn below(directory: &Path) -> Self {
        let name = unique("mig");
        Self { tree: directory.join(&name), name }
    }

    /// What it has counted to, if it is here.
    fn count(&self) -> Option<u64> {
        let record = fs::read(format!("/run/osier/machines/{}.json", self.name)).ok()?;
        let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
        let path = format!("/proc/{}/root/run/count", record["leader"]);
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    fn is_there(&self) -> bool {
        show(&self.name).is_some()
    }

    /// It counts on.
    fn assert_runs(&self) {
        let first = await_some(&format!("the count of {}", self.name), || self.count());
        await_that(&format!("{} to count on from {first}", self.name), || {
            self.count().is_some_and(|count| count > first)
        });
    }

    fn assert_nothing(&self) {
        leftovers::assert_none(&self.name, &self.tree);
        let beside = self.tree.parent().unwrap();
        let entries = fs::read_dir(beside).unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = entries.filter(|entry| entry.to_string_lossy().starts_with(".#")).collect();
        assert!(left.is_empty(), "{left:?} in {}", beside.display());
    }

    fn terminate(&self) {
        let ended = output(&mut osier(["terminate", &self.name]));
        assert!(ended.status.success(), "{ended:?}");
    }
}

/// A machine, the way to the other side, and what would be left if a test failed.
struct Course {
    here: Side,
    there: Side,
    machine: Option<Machine>,
    scratch: Scratch,
    _tree: Tree,
}

impl Course {
    fn new() -> Self {
        Self::of(INIT)
    }

    fn of(init: &str) -> Self {
        let tree = Tree::minimal();
        tree.executable("sbin/init", init);
        tree.file("etc/machine-id", format!("{:032x}\n", u128::from(std::process::id()) << 64 | 0x4a));
        let scratch = Scratch::new();
        let there = Side::below(scratch.path());
        let here = Side { name: tree.name().to_owned(), tree: tree.path() };
        let machine = Some(Machine::start(&tree, &["--checkpointable"]));
        let course = Self { here, there, machine, scratch, _tree: tree };
        await_that("the first count", || course.here.count().is_some());
        course
    }

    fn ssh(&self, cut: Option<Cut>) -> PathBuf {
        carrier::script(self.scratch.path(), "carries_what_is_to_break", cut)
    }

    /// `osier migrate`, from one side to the other.
    fn command(from: &Side, to: &Side, ssh: &Path) -> Command {
        let mut command = osier(["migrate", &from.name, "there"]);
        command.arg(format!("--ssh={}", ssh.display()));
        command.arg(format!("--remote-osier={}", program().display()));
        command.args([format!("--to-name={}", to.name), format!("--tree={}", to.tree.display())]);
        if let Some(criu) = std::env::var_os("OSIER_CRIU") {
            let criu = criu.into_string().unwrap();
            command.args([format!("--criu={criu}"), format!("--remote-criu={criu}")]);
        }
        command
    }

    /// Runs it, and looks all the time whether only one of both runs.
    fn migrate(&self, command: &mut Command) -> Output {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = BTreeMap::<&str, (u64, u64)>::new();
                while !over.load(Ordering::Relaxed) {
                    for side in [&self.here, &self.there] {
                        let Some(count) = side.count() else { continue };
                        let (_, last) = seen.entry(&side.name).or_insert((count, count));
                        *last = count;
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                seen
            });
            let ended = output(command);
            // As long as a second one would need to be seen.
            std::thread::sleep(Duration::from_millis(60));
            over.store(true, Ordering::Relaxed);
            let seen = watch.join().unwrap();
            if let (Some(here), Some(there)) = (seen.get(&*self.here.name), seen.get(&*self.there.name)) {
                let (newcomer, other) = if here.0 < there.0 { (there, here) } else { (here, there) };
                assert!(newcomer.1 == newcomer.0 || other.1 <= newcomer.0, "two have run: {seen:?}");
            }
            ended
        })
    }

    /// Begins it, and comes back when this word is about to be carried: the source, and the file that holds it up.
    fn paused(&self, direction: &'static str, word: &'static str) -> (Child, PathBuf) {
        let ssh = self.ssh(Some(Cut { direction, word, when: "pause" }));
        let mut command = Self::command(&self.here, &self.there, &ssh);
        let source = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pause = self.scratch.path().join("cut");
        await_that(word, || pause.exists());
        (source, pause)
    }

    fn sides(&self) -> [&Side; 2] {
        [&self.here, &self.there]
    }

    /// One side runs, and nothing is left on the other: that one's.
    fn assert_one(&self) -> &Side {
        let [here, there] = [self.here.is_there(), self.there.is_there()];
        assert!(here != there, "here: {here}, there: {there}");
        let (one, other) = if here { (&self.here, &self.there) } else { (&self.there, &self.here) };
        one.assert_runs();
        other.assert_nothing();
        one
    }

    fn assert_stayed(&self) {
        assert_eq!(self.assert_one().name, self.here.name);
    }

    /// Ends it, wherever it is.
    fn end(mut self) {
        let one = self.assert_one();
        one.terminate();
        await_that("its end", || !one.is_there());
        self.machine.take().unwrap().end_leaving();
        self.sides().into_iter().for_each(Side::assert_nothing);
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        if self.machine.is_some() {
            for side in self.sides() {
                let _ = osier(["terminate", &side.name]).stderr(Stdio::null()).status();
            }
        }
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn assert_went(output: &Output) {
    assert!(output.status.success(), "{}", said(output));
}

/// It failed, with one error that has all of these words in it.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let said = said(output);
    assert!(!output.status.success(), "{said}");
    for word in words {
        assert!(said.contains(word), "no '{word}' in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Not a test: what the script of [`carrier::script`] starts.
#[test]
fn carries_what_is_to_break() {
    carrier::relay();
}

#[test]
fn there_and_back_and_only_the_difference_is_sent() {
    let course = Course::new();
    let ssh = course.ssh(None);
    let (here, there) = (&course.here, &course.there);
    let began = here.count().unwrap();
    let first = course.migrate(&mut Course::command(here, there, &ssh));
    assert_went(&first);
    assert!(said(&first).contains("goes on at there"), "{}", said(&first));
    assert_eq!(course.assert_one().name, there.name);
    assert!(there.count().unwrap() >= began);
    let busybox = there.tree.join("bin/busybox");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = [inode(&busybox), inode(&here.tree.join("bin/busybox"))];
    // What changes there is what comes back, and nothing else is written anew.
    fs::write(there.tree.join("root/new"), "new").unwrap();
    fs::remove_file(there.tree.join("etc/group")).unwrap();
    let back = course.migrate(&mut Course::command(there, here, &ssh));
    assert_went(&back);
    assert_eq!(course.assert_one().name, here.name);
    assert_eq!(fs::read_to_string(here.tree.join("root/new")).unwrap(), "new");
    assert!(!here.tree.join("etc/group").exists());
    let again = course.migrate(&mut Course::command(here, there, &ssh));
    assert_went(&again);
    assert_eq!(course.assert_one().name, there.name);
    assert_eq!([inode(&busybox), inode(&here.tree.join("bin/busybox"))], before);
    assert!(here.count().is_none() && there.count().unwrap() > began);
    course.end();
}

#[test]
fn a_link_that_breaks_leaves_it_on_one_side() {
    let course = Course::new();
    // Before `Go` has arrived it is the source's.
    let cuts = [
        ("up", "{\"Hello\"", "before"),
        ("up", "{\"Hello\"", "after"),
        ("down", "{\"Welcome\"", "before"),
        ("up", "\"Listing\"", "within"),
        ("down", "\"Wanted\"", "within"),
        ("up", "\"Tree\"", "within"),
        ("up", "\"Frozen\"", "before"),
        ("up", "\"Frozen\"", "after"),
        ("up", "{\"Images\"", "within"),
        ("down", "\"Restored\"", "before"),
        ("up", "\"Go\"", "before"),
    ];
    for (direction, word, when) in cuts {
        let cut = Cut { direction, word, when };
        let ssh = course.ssh(Some(cut));
        let went = course.migrate(&mut Course::command(&course.here, &course.there, &ssh));
        let done = course.scratch.path().join("cut");
        assert!(done.exists(), "{cut:?} never came: {}", said(&went));
        fs::remove_file(done).unwrap();
        assert!(!went.status.success(), "{cut:?}: {}", said(&went));
        eprintln!("{cut:?}: {}", said(&went).trim());
        // The target may need a moment to see it.
        await_that("the target's end", || leftovers::of(&course.there.name, &course.there.tree).is_empty());
        course.assert_stayed();
    }
    course.end();
}

#[test]
fn a_link_that_breaks_at_the_last_word_is_asked_over() {
    let cuts = [
        // `Go` may or may not come back the other way before the link is gone.
        ("down", "\"Restored\"", "after"),
        ("up", "\"Go\"", "after"),
        ("down", "\"Running\"", "before"),
        ("down", "\"Running\"", "after"),
    ];
    for (direction, word, when) in cuts {
        let course = Course::new();
        let cut = Cut { direction, word, when };
        let ssh = course.ssh(Some(cut));
        let went = course.migrate(&mut Course::command(&course.here, &course.there, &ssh));
        assert!(course.scratch.path().join("cut").exists(), "{cut:?} never came: {}", said(&went));
        eprintln!("{cut:?}: {}", said(&went).trim());
        let one = course.assert_one();
        // The exit code says on which.
        assert_eq!(went.status.success(), one.name == course.there.name, "{cut:?}: {}", said(&went));
        if word == "\"Running\"" {
            assert_eq!(one.name, course.there.name, "{cut:?}");
        }
        course.end();
    }
}

#[test]
fn a_target_that_refuses_says_why() {
    let course = Course::new();
    let ssh = course.ssh(None);
    let (here, there) = (&course.here, &course.there);
    let refused = |to: &Side, options: &[&str], words: &[&str]| {
        let mut command = Course::command(here, to, &ssh);
        let went = course.migrate(command.args(options));
        assert_refused(&went, words);
        course.assert_stayed();
    };
    // Its own name is in use, on one host.
    let taken = Side { name: here.name.clone(), tree: there.tree.clone() };
    refused(&taken, &[], &["in use there", "--to-name"]);
    // Its own tree, which it runs from.
    let taken = Side { name: there.name.clone(), tree: here.tree.clone() };
    refused(&taken, &[], &["a machine runs from it"]);
    // Another machine's.
    let other = Tree::minimal();
    other.file("etc/machine-id", format!("{:032x}\n", 7));
    let before = other.fingerprint();
    let taken = Side { name: there.name.clone(), tree: other.path() };
    refused(&taken, &[], &["a tree of another machine", "--tree"]);
    assert_eq!(other.fingerprint(), before);
    let bad = Side { name: "no/name".to_owned(), tree: there.tree.clone() };
    refused(&bad, &[], &["no machine name"]);
    // It arrives, and cannot be what it was there.
    fs::rename(here.tree.join("sbin/init"), here.tree.join("sbin/gone")).unwrap();
    let went = course.migrate(&mut Course::command(here, there, &ssh));
    let text = said(&went);
    let reason = text.lines().find(|line| line.starts_with("osier: cannot migrate")).unwrap_or_default();
    assert!(!went.status.success() && reason.contains("has no init"), "{text}");
    course.assert_stayed();
    course.end();
}

#[test]
fn no_osier_or_no_criu_or_another_version_at_the_other_end() {
    let course = Course::new();
    let script = |text: &str| {
        let path = course.scratch.path().join("garbage");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let (here, there) = (&course.here, &course.there);
    let attempt = |ssh: &Path, replace: &[(&str, &str)], words: &[&str]| {
        let whole = Course::command(here, there, ssh);
        let replaced = |argument: &str| replace.iter().any(|(flag, _)| argument.starts_with(flag));
        let arguments = whole.get_args().map(|argument| argument.to_str().unwrap().to_owned());
        let mut command = osier(arguments.filter(|argument| !replaced(argument)));
        command.args(replace.iter().map(|(flag, value)| format!("{flag}={value}")));
        let went = course.migrate(&mut command);
        eprintln!("{replace:?}: {}", said(&went).trim());
        assert_refused(&went, words);
        course.assert_stayed();
    };
    let ssh = course.ssh(None);
    attempt(&ssh, &[("--remote-osier", "/nonexistent")], &["cannot migrate"]);
    attempt(&ssh, &[("--remote-criu", "/nonexistent")], &["/nonexistent"]);
    attempt(&ssh, &[("--criu", "/nonexistent")], &["/nonexistent"]);
    attempt(Path::new("/nonexistent"), &[], &["cannot start '/nonexistent'"]);
    attempt(
        &script("#!/bin/sh\necho Permission denied, please try again\n"),
        &[],
        &["Permission denied, please"],
    );
    attempt(&script("#!/bin/sh\nexit 255\n"), &[], &["cannot migrate"]);
    attempt(&script("#!/bin/sh\nexec cat\n"), &[], &["cannot migrate"]);
    attempt(&script("#!/bin/sh\nexec head -c 100000 /dev/urandom\n"), &[], &["cannot migrate"]);
    course.end();
}

/// The word during which the source or the target gets a signal, and what it is.
#[test]
fn a_source_that_is_killed_leaves_it_running() {
    let course = Course::new();
    // The carrier holds on to the link at that word, so that there is a moment to do it in.
    for (word, signal) in [
        ("{\"Hello\"", Signal::SIGKILL),
        ("{\"Hello\"", Signal::SIGINT),
        ("\"Frozen\"", Signal::SIGKILL),
        ("\"Frozen\"", Signal::SIGINT),
        ("{\"Images\"", Signal::SIGKILL),
    ] {
        let (mut source, pause) = course.paused("up", word);
        kill(Pid::from_raw(source.id().cast_signed()), signal).unwrap();
        let status = support::machine::wait(&mut source, &|| format!("{word} {signal}"));
        assert!(!status.success());
        fs::remove_file(pause).unwrap();
        await_that("the target's end", || leftovers::of(&course.there.name, &course.there.tree).is_empty());
        course.assert_stayed();
    }
    let ssh = course.ssh(None);
    assert_went(&course.migrate(&mut Course::command(&course.here, &course.there, &ssh)));
    course.end();
}

/// It was given away, and whoever did so is gone before the answer: only who can look at both sides may let it go on here.
#[test]
fn a_source_that_is_killed_after_the_last_word_lets_nothing_go_on() {
    let course = Course::new();
    let (mut source, pause) = course.paused("down", "\"Running\"");
    course.there.assert_runs();
    kill(Pid::from_raw(source.id().cast_signed()), Signal::SIGKILL).unwrap();
    source.wait().unwrap();
    fs::remove_file(pause).unwrap();
    let count = await_some("the count here", || course.here.count());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(course.here.count(), Some(count), "two run");
    course.here.terminate();
    await_that("the end here", || !course.here.is_there());
    course.end();
}

#[test]
fn a_target_that_is_killed_leaves_it_running_at_the_source() {
    let course = Course::new();
    let mut left = 0;
    for (direction, word) in [("down", "{\"Welcome\""), ("up", "{\"Images\""), ("down", "\"Restored\"")] {
        let (mut source, pause) = course.paused(direction, word);
        let target = course.target();
        kill(Pid::from_raw(target.cast_signed()), Signal::SIGKILL).unwrap();
        await_death(target);
        fs::remove_file(pause).unwrap();
        let status = support::machine::wait(&mut source, &|| format!("{direction} {word}"));
        assert!(!status.success());
        await_that("the target's end", || leftovers::of(&course.there.name, &course.there.tree).is_empty());
        course.here.assert_runs();
        // Half a tree of a receiver that could not remove it is under no machine's name, and is the next one's to remove.
        assert!(course.halves().len() <= 1, "{:?}", course.halves());
        left += course.halves().len();
    }
    assert!(left > 0, "none was killed in the middle");
    let ssh = course.ssh(None);
    assert_went(&course.migrate(&mut Course::command(&course.here, &course.there, &ssh)));
    course.end();
}

/// Who is at work at the target: a process, and the CRIU that it has started, which is stopped as long as this is there.
struct Stopped {
    receiver: u32,
    supervisor: u32,
    criu: Pid,
}

impl Stopped {
    /// Stops the CRIU that restores for the target `pid` as soon as there is one.
    fn catch(pid: u32) -> Self {
        let receiver = receiver(pid);
        // It changes its own title when it has begun; what it restores is in a pid namespace of its own.
        let link = |pid: u32, name: &str| fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let restores = |pid: &u32| {
            let exe = link(*pid, "exe");
            let here = link(*pid, "ns/pid") == link(std::process::id(), "ns/pid");
            here && exe != program() && exe.components().count() > 1
        };
        let (supervisor, criu) = await_some("a CRIU that restores", || {
            let is_osier = |pid: &u32| link(*pid, "exe") == program();
            let found = children(receiver).into_iter().filter(is_osier);
            found.filter_map(|child| Some((child, children(child).into_iter().find(restores)?))).next()
        });
        let criu = Pid::from_raw(criu.cast_signed());
        kill(criu, Signal::SIGSTOP).unwrap();
        Self { receiver, supervisor, criu }
    }

    /// Waits until it may run there: the word has been passed on, and nothing of what follows has come of it yet.
    fn await_go(&self) {
        let descriptors = format!("/proc/{}/fd", self.supervisor);
        await_that("the word to be written down", || {
            let open = fs::read_dir(&descriptors).unwrap().flatten();
            open.filter_map(|entry| fs::read_link(entry.path()).ok())
                .any(|file| file.extension().is_some_and(|state| state == "going"))
        });
    }

    fn kill(&self, pid: u32) {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        await_death(pid);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.criu, Signal::SIGCONT);
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn cmdline(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

impl Course {
    /// What grows beside the tree there, or has been left.
    fn halves(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.scratch.path()).unwrap().flatten();
        entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b".#") && entry.path().is_dir())
            .map(|entry| entry.path())
            .collect()
    }

    fn target(&self) -> u32 {
        fs::read_to_string(self.scratch.path().join("target")).unwrap().parse().unwrap()
    }

    /// Begins it with these options, and comes back when it was given away, may run there by now and does not.
    fn at_go(&self, options: &[&str]) -> (Child, Stopped) {
        let ssh = self.ssh(Some(Cut { direction: "down", word: "\"Restored\"", when: "pause" }));
        let mut command = Self::command(&self.here, &self.there, &ssh);
        let mut source = command.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pause = self.scratch.path().join("cut");
        await_that("it to be restored", || {
            if source.try_wait().unwrap().is_some() {
                let mut said = String::new();
                source.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("it was not restored: {said}");
            }
            pause.exists()
        });
        let stopped = Stopped::catch(self.target());
        fs::remove_file(pause).unwrap();
        stopped.await_go();
        (source, stopped)
    }

    /// A supervisor that was killed there has taken the machine along, and could not clean up.
    fn clean_there(&self) {
        await_that("the machine's end there", || self.there.count().is_none());
        await_that("what is left of it to be removed", || {
            let cleaned = output(&mut osier(["check", "--clean"]));
            assert!(cleaned.status.success(), "{cleaned:?}");
            leftovers::of(&self.there.name, &self.there.tree).is_empty()
        });
    }
}

/// The process that receives is killed when the machine has been let run and nobody knows that it does.
#[test]
fn a_target_that_is_killed_after_the_last_word_is_asked_for() {
    let course = Course::new();
    let (source, stopped) = course.at_go(&[]);
    stopped.kill(stopped.receiver);
    drop(stopped);
    let went = source.wait_with_output().unwrap();
    assert_went(&went);
    assert_eq!(course.assert_one().name, course.there.name);
    course.end();
}

/// Whoever could have said whether it has run is dead, and the machine with it.
#[test]
fn a_supervisor_that_is_killed_after_the_last_word_lets_nothing_go_on() {
    let course = Course::new();
    let (source, stopped) = course.at_go(&[]);
    stopped.kill(stopped.supervisor);
    // It would wait for the end of the first process, which waits for those that it holds by ptrace(2).
    kill(stopped.criu, Signal::SIGKILL).unwrap();
    drop(stopped);
    let went = source.wait_with_output().unwrap();
    assert_refused(&went, &["it may have run there, and has ended", "osier thaw"]);
    course.clean_there();
    course.assert_held_here();
    course.end();
}

/// Nobody is left to let it run: a restore that takes long is not waited for.
#[test]
fn a_source_that_is_killed_while_it_is_restored_there_is_not_waited_for() {
    for options in [&[][..], &["--postcopy"]] {
        let course = Course::new();
        let ssh = course.ssh(Some(Cut { direction: "up", word: "{\"Images\"", when: "pause" }));
        let mut command = Course::command(&course.here, &course.there, &ssh);
        let mut source = command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let pause = course.scratch.path().join("cut");
        await_that("it to be sent", || pause.exists());
        fs::remove_file(pause).unwrap();
        let stopped = Stopped::catch(course.target());
        source.kill().unwrap();
        source.wait().unwrap();
        await_that("the target's end", || leftovers::of(&course.there.name, &course.there.tree).is_empty());
        drop(stopped);
        course.assert_stayed();
        course.end();
    }
}

#[test]
fn two_pipes_are_a_way() {
    let course = Course::new();
    let [up, down] = ["up", "down"].map(|name| course.scratch.path().join(name));
    for fifo in [&up, &down] {
        nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    // Both ends open for both: neither open waits for the other.
    let open = |path: &Path| fs::File::options().read(true).write(true).open(path).unwrap();
    let (up, down) = (open(&up), open(&down));
    let criu = std::env::var("OSIER_CRIU").map(|criu| format!("--criu={criu}")).ok();
    let mut source = osier(["migrate", &course.here.name, "--to-pipe"]);
    source.args(&criu).stdin(down.try_clone().unwrap()).stdout(up.try_clone().unwrap());
    let mut target = osier(["migrate", "--from-pipe"]);
    target.args(&criu).args([format!("--to-name={}", course.there.name)]);
    target.arg(format!("--tree={}", course.there.tree.display()));
    target.stdin(up).stdout(down);
    let mut target = target.spawn().unwrap();
    let mut source = source.spawn().unwrap();
    let source = support::machine::wait(&mut source, &|| "the source".to_owned());
    let target = support::machine::wait(&mut target, &|| "the target".to_owned());
    assert!(source.success() && target.success(), "{source} {target}");
    assert_eq!(course.assert_one().name, course.there.name);
    course.end();
}

/// It has some memory that it can say whether it is what it was.
const HEAVY: &str = r#"#!/bin/sh
export PATH=/bin:/sbin
trap 'poweroff -f' 15 38
memory=$(head -c 24000000 /dev/urandom | base64)
sum=$(echo "$memory" | md5sum)
echo counting
count=0
while :; do
    count=$((count + 1))
    echo $count >/run/count
    if [ -e /run/compare ]; then
        rm /run/compare
        [ "$(echo "$memory" | md5sum)" = "$sum" ] && echo same >/run/compared || echo other >/run/compared
    fi
    sleep 0.02
done
"#;

impl Side {
    /// How much of its first process's memory is there, KiB.
    fn resident(&self) -> u64 {
        let leader = show(&self.name).unwrap()["leader"].clone();
        let status = fs::read_to_string(format!("/proc/{leader}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Its memory is what it was.
    fn assert_same(&self) {
        let leader = show(&self.name).unwrap()["leader"].clone();
        let run = PathBuf::from(format!("/proc/{leader}/root/run"));
        let _ = fs::remove_file(run.join("compared"));
        fs::write(run.join("compare"), "").unwrap();
        let said = await_some("its memory to be compared", || {
            fs::read_to_string(run.join("compared")).ok().filter(|said| said.ends_with('\n'))
        });
        assert_eq!(said, "same\n");
    }
}

impl Course {
    fn lazily(&self, ssh: &Path) -> Command {
        let mut command = Self::command(&self.here, &self.there, ssh);
        command.arg("--postcopy");
        command
    }

    /// Begins it with post-copy, and comes back when it runs there and the source has not been told: the source, and the file that
    /// holds the word up.
    fn running_there(&self) -> (Child, PathBuf) {
        let ssh = self.ssh(Some(Cut { direction: "down", word: "\"Running\"", when: "pause" }));
        let mut command = self.lazily(&ssh);
        let source = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pause = self.scratch.path().join("cut");
        await_that("it to run there", || pause.exists());
        (source, pause)
    }

    /// It stands still here and is not there; who knows that may let it go on.
    fn assert_held_here(&self) {
        await_that("the target's end", || leftovers::of(&self.there.name, &self.there.tree).is_empty());
        let count = await_some("the count here", || self.here.count());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(self.here.count(), Some(count), "it goes on");
        let thawed = output(&mut osier(["thaw", &self.here.name]));
        assert!(thawed.status.success(), "{thawed:?}");
        self.assert_stayed();
    }
}

/// Most of its memory comes when it runs there already.
#[test]
fn what_it_does_not_touch_is_not_there_when_it_runs() {
    let course = Course::of(HEAVY);
    let whole = course.here.resident();
    assert!(whole > 24_000, "{whole} KiB");
    let (mut source, pause) = course.running_there();
    let few = course.there.resident();
    assert!(few < whole / 2, "{few} KiB of {whole} are there at once");
    fs::remove_file(pause).unwrap();
    let status = support::machine::wait(&mut source, &|| "the source".to_owned());
    assert!(status.success(), "{status}");
    let all = course.there.resident();
    assert!(all > whole - 2_000, "{all} KiB of {whole} have come");
    course.there.assert_same();
    course.end();
}

#[test]
fn post_copy_there_and_back() {
    let course = Course::of(HEAVY);
    let ssh = course.ssh(None);
    let (here, there) = (&course.here, &course.there);
    let began = here.count().unwrap();
    for (from, to) in [(here, there), (there, here)] {
        let went = course.migrate(Course::command(from, to, &ssh).arg("--postcopy"));
        eprintln!("{}", said(&went).trim());
        assert_went(&went);
        assert_eq!(course.assert_one().name, to.name);
        to.assert_same();
        assert_eq!(leftovers::logs(&to.name), Vec::<PathBuf>::new());
    }
    assert!(here.count().unwrap() > began);
    // All of it is there: it can go on from there without.
    let on = course.migrate(&mut Course::command(here, there, &ssh));
    eprintln!("without: {}", said(&on).trim());
    assert_went(&on);
    there.assert_same();
    course.end();
}

#[test]
fn a_link_that_breaks_under_post_copy_leaves_it_here() {
    let course = Course::of(HEAVY);
    // While it is the source's, and when it is not any more.
    for (direction, word, when, words) in [
        ("up", "{\"Images\"", "within", "cannot migrate"),
        ("down", "\"Restored\"", "before", "cannot migrate"),
        ("up", "\"Go\"", "before", "the link broke at the last moment"),
        ("down", "\"Running\"", "before", "it ran there and has ended"),
        ("down", "\"Running\"", "after", "it ran there and has ended"),
    ] {
        let cut = Cut { direction, word, when };
        let ssh = course.ssh(Some(cut));
        let went = course.migrate(&mut course.lazily(&ssh));
        let done = course.scratch.path().join("cut");
        assert!(done.exists(), "{cut:?} never came: {}", said(&went));
        fs::remove_file(done).unwrap();
        eprintln!("{cut:?}: {}", said(&went).trim());
        assert_refused(&went, &[words]);
        match word {
            "\"Running\"" => {
                course.assert_held_here();
                course.here.assert_same();
            }
            _ => {
                await_that("the target's end", || {
                    leftovers::of(&course.there.name, &course.there.tree).is_empty()
                });
                course.assert_stayed();
            }
        }
    }
    // All has come, and only the word for it has not.
    let ssh = course.ssh(Some(Cut { direction: "down", word: "\"Whole\"", when: "before" }));
    assert_went(&course.migrate(&mut course.lazily(&ssh)));
    assert_eq!(course.assert_one().name, course.there.name);
    course.there.assert_same();
    course.end();
}

#[test]
fn whoever_is_killed_under_post_copy_it_runs_on_one_side() {
    for kills in ["source", "target", "supervisor"] {
        let course = Course::of(HEAVY);
        let (mut source, pause) = course.running_there();
        // What of it is not there cannot be saved either.
        let mut save = osier(["checkpoint", &course.there.name]);
        save.args(std::env::var("OSIER_CRIU").map(|criu| format!("--criu={criu}")).ok());
        assert_refused(&output(&mut save), &["still arriving"]);
        let pid = match kills {
            "source" => source.id(),
            "target" => receiver(course.target()),
            _ => u32::try_from(show(&course.there.name).unwrap()["supervisor"].as_u64().unwrap()).unwrap(),
        };
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
        if kills != "source" {
            await_death(pid);
        }
        fs::remove_file(pause).unwrap();
        let status = support::machine::wait(&mut source, &|| kills.to_owned());
        assert!(!status.success(), "{kills}");
        if kills == "supervisor" {
            course.clean_there();
        }
        course.assert_held_here();
        course.here.assert_same();
        course.end();
    }
}

/// The process that receives is killed when the machine may run there, and has little of its memory.
#[test]
fn a_target_that_is_killed_after_the_last_word_under_post_copy_leaves_it_here() {
    let course = Course::of(HEAVY);
    let (source, stopped) = course.at_go(&["--postcopy"]);
    stopped.kill(stopped.receiver);
    drop(stopped);
    let went = source.wait_with_output().unwrap();
    assert_refused(&went, &["it ran there and has ended"]);
    course.assert_held_here();
    course.here.assert_same();
    course.end();
}

/// A machine that ends by itself was there, however much of its memory was not.
#[test]
fn what_ends_by_itself_under_post_copy_has_gone_over() {
    let course = Course::of(HEAVY);
    let (mut source, pause) = course.running_there();
    fs::remove_file(pause).unwrap();
    let off = output(&mut osier(["terminate", &course.there.name]));
    assert!(off.status.success(), "{off:?}");
    let status = support::machine::wait(&mut source, &|| "the source".to_owned());
    assert!(status.success(), "{status}");
    await_that("its end", || course.sides().iter().all(|side| !side.is_there()));
    let Course { machine, here, there, .. } = &mut { course };
    machine.take().unwrap().end_leaving();
    [here, there].into_iter().for_each(|side| side.assert_nothing());
}

/// Neither who thaws nor who has it shut down gets it to run here as well.
#[test]
fn what_was_given_away_does_not_go_on_here() {
    let course = Course::of(HEAVY);
    let (mut source, pause) = course.running_there();
    let count = await_some("the count here", || course.here.count());
    assert_refused(&output(&mut osier(["thaw", &course.here.name])), &["migrating it just now"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(course.here.count(), Some(count), "it goes on");
    let off = output(&mut osier(["poweroff", &course.here.name]));
    assert!(off.status.success(), "{off:?}");
    fs::remove_file(pause).unwrap();
    let status = support::machine::wait(&mut source, &|| "the source".to_owned());
    assert!(status.success(), "{status}");
    assert_eq!(course.assert_one().name, course.there.name);
    course.there.assert_same();
    course.end();
}

/// The process that receives, which the shell `pid` has started or has become.
fn receiver(pid: u32) -> u32 {
    let is_osier = |pid: &u32| cmdline(*pid).starts_with(program().to_str().unwrap());
    if is_osier(&pid) { pid } else { children(pid).into_iter().find(is_osier).unwrap() }
}

#[test]
fn post_copy_is_refused_where_criu_cannot() {
    let course = Course::new();
    let ssh = course.ssh(None);
    // It answers what is asked before anything comes: that it is 4.1.1, and what it can do, which is nothing. (The 10 in two bytes,
    // at one the shell takes it for the end of a line and of the packet.)
    let criu = course.scratch.path().join("criu");
    let script = r"#!/bin/bash
kind=$(dd bs=4096 count=1 <&$3 2>/dev/null | od -An -tu1 -N2)
case $kind in
    *' 10') printf '\x08\x8a\x00\x10\x01\x52\x06\x08\x04\x10\x01\x20\x01' >&$3 ;;
    *' 9') printf '\x08\x09\x10\x01\x42\x04\x08\x00\x10\x00' >&$3 ;;
esac
";
    fs::write(&criu, script).unwrap();
    fs::set_permissions(&criu, fs::Permissions::from_mode(0o755)).unwrap();
    let whole = course.lazily(&ssh);
    let arguments = whole.get_args().map(|argument| argument.to_str().unwrap().to_owned());
    let mut command = osier(arguments.filter(|argument| !argument.starts_with("--remote-criu")));
    command.arg(format!("--remote-criu={}", criu.display()));
    let went = course.migrate(&mut command);
    assert_refused(&went, &["--postcopy", "CONFIG_USERFAULTFD"]);
    course.assert_stayed();
    course.end();
}
