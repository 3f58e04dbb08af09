//! Every system call of a launch and of its teardown fails once; every process of it dies, and hangs, at each of its steps;
//! the supervisor is asked to end, and is killed, at each of its own. Whatever it is: an error that says what it was, in
//! time, and nothing left behind.
//!
//! The list of calls is not written here: a run without a fault gives it ([`tracer`]).
#![expect(clippy::unwrap_used, reason = "a test that cannot make its surroundings has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;
#[path = "support/tracer.rs"]
mod tracer;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::tree::{Scratch, Tree};
use support::{await_some, leftovers, program};
use tracer::{Call, Role, Run, Strike};

/// What the payload prints, to be told from one that never ran.
const RAN: &str = "the payload ran";

/// What goes with the last process of a machine goes a while after it: its links, and the process itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// One test at a time: machines that start and end at once share directories above theirs, and a fault in making one of
/// those is another test's surprise.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tree of one's own, and the arguments that run a machine from it.
struct Scene {
    tree: Tree,
    arguments: Vec<String>,
    /// For what the program writes.
    scratch: Scratch,
}

impl Scene {
    fn new(verb: &str, options: &[&str], payload: &[&str]) -> Self {
        assert!(
            !Path::new("/run/systemd/system").exists(),
            "where systemd is PID 1 there is one process more than this test knows of"
        );
        let tree = Tree::minimal();
        tree.executable("usr/sbin/init", &format!("#!/bin/sh\necho {RAN}\nexec poweroff -f\n"));
        let path = tree.path().display().to_string();
        let first = [verb, "--register=no", "-M", tree.name()];
        let last = [&path, "--"];
        let arguments = first.iter().chain(options).chain(&last).chain(payload);
        let arguments = arguments.map(|argument| (*argument).to_owned()).collect();
        Self { tree, arguments, scratch: Scratch::new() }
    }

    /// An init, with everything that a boot has, on a throw-away layer.
    fn boot() -> Self {
        Self::new("boot", &["--ephemeral", "--network=veth", "--console=pipe"], &[])
    }

    /// A command of a user's under the stub init, on a pty, on the tree itself.
    fn run() -> Self {
        let options =
            ["--as-pid2", "--uid=nobody", "--console=read-only", "--bind-ro=/etc:/mnt", "--tmpfs=/var"];
        let options = options.iter().chain(&["--network=none", "--clock=zero"]).copied().collect::<Vec<_>>();
        Self::new("run", &options, &["/bin/echo", RAN])
    }

    fn trace(&self, strike: Option<(&Call, Strike)>) -> Run {
        tracer::run(&program(), &self.arguments, self.scratch.path(), strike)
    }

    /// A run without a fault: the calls that there are.
    fn calls(&self) -> Vec<Call> {
        let run = self.trace(None);
        assert_eq!(self.clean(&run, &[]), Ok(Outcome::Went), "{run:?}");
        run.calls
    }

    /// What is left; what is on its way out is waited for.
    fn leftovers(&self, allowed: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = leftovers::of(self.tree.name(), &self.tree.path());
            found.retain(|leftover| !allowed(leftover));
            if found.is_empty() || Instant::now() > deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether it is a machine that went, or an error that says what it was; `codes` are further exit codes that fit.
    fn clean(&self, run: &Run, codes: &[i32]) -> Result<Outcome, String> {
        let said = run.stderr.replace(self.tree.name(), "NAME");
        if run.hung {
            return Err("it hangs".to_owned());
        }
        match run.code {
            0 if run.stdout.contains(RAN) && said.is_empty() => Ok(Outcome::Went),
            125 => judge(&said).map(|()| Outcome::Said(said)),
            code if codes.contains(&code) && (said.is_empty() || judge(&said).is_ok()) => Ok(Outcome::Ended),
            code => Err(format!("it ends with {code}")),
        }
    }

    /// As [`Scene::clean`], with nothing left of it.
    fn judge(&self, run: &Run, codes: &[i32], allowed: impl Fn(&str) -> bool) -> Result<Outcome, String> {
        let outcome = self.clean(run, codes)?;
        let left = self.leftovers(allowed);
        if left.is_empty() { Ok(outcome) } else { Err(format!("it leaves {left:?}")) }
    }

    /// The same machine once more: it runs, and nothing is left of it or of the one before.
    fn runs_again(&self) -> Result<(), String> {
        let run = self.trace(None);
        match self.judge(&run, &[], |_| false) {
            Ok(Outcome::Went) => Ok(()),
            outcome => Err(format!("the next one: {outcome:?}")),
        }
    }
}

/// How a run with a fault in it ended, where that is well.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The machine ran as if nothing had been.
    Went,
    /// With an error.
    Said(String),
    /// With an exit code that fits the fault.
    Ended,
}

/// Whether an operator can make sense of it: one sentence that names what could not be done, and at most a hint.
fn judge(said: &str) -> Result<(), String> {
    let mut lines = said.lines();
    let sentence = lines.next().unwrap_or_default();
    let hint = lines.next().is_none_or(|line| line.starts_with("hint: "));
    let Some(what) = sentence.strip_prefix("osier: cannot ").and_then(|rest| rest.split_once(": cannot "))
    else {
        return Err(format!("it says {said:?}"));
    };
    let well = what.0.contains("/NAME'") && what.1.contains(": ") && hint && lines.next().is_none();
    let clumsy =
        ["Failed", "failed to", "os error", "panicked", "Error"].iter().any(|word| said.contains(word));
    if well && !clumsy { Ok(()) } else { Err(format!("it says {said:?}")) }
}

/// What a whole test found.
#[derive(Default)]
struct Tally {
    went: usize,
    said: BTreeMap<String, usize>,
    ended: usize,
    /// Calls that did not come this time: how often somebody waits, or finds a cgroup busy, is the scheduler's to say.
    missed: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn add(&mut self, call: &Call, strike: Strike, outcome: Result<Outcome, String>) {
        match outcome {
            Ok(Outcome::Went) => self.went += 1,
            Ok(Outcome::Said(said)) => *self.said.entry(said).or_default() += 1,
            Ok(Outcome::Ended) => self.ended += 1,
            Err(wrong) => self.wrong.push(format!("{call} {strike:?}: {wrong}")),
        }
    }

    /// Fails with what was wrong; prints what was said and how often what happened.
    fn end(self, what: &str) {
        let errors: usize = self.said.values().sum();
        let mut text = String::new();
        for (said, count) in &self.said {
            write!(text, "{count:5} {said}").unwrap();
        }
        let struck = self.went + errors + self.ended + self.wrong.len();
        println!(
            "{text}{what}: {struck} faults: {errors} errors, {} without effect, {} relayed, {} wrong",
            self.went,
            self.ended,
            self.wrong.len()
        );
        assert!(self.missed * 20 <= struck, "{what}: {} of {struck} calls did not come", self.missed);
        assert!(self.wrong.is_empty(), "{what}:\n{}", self.wrong.join("\n"));
        assert!(errors > 0, "{what}: no fault has had an effect");
    }
}

/// The errno that a call can plausibly give; none for those that cannot fail, or whose failure is of no consequence.
fn errno(call: &Call) -> Option<Errno> {
    const F_GETFD: &str = "0x1";
    Some(match call.number {
        libc::SYS_fcntl if call.object == F_GETFD => return None,
        // A machine goes on when who reads its console is gone.
        libc::SYS_write if call.object.ends_with("/stdout") => return None,
        libc::SYS_brk | libc::SYS_mmap | libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_madvise => {
            return None;
        }
        libc::SYS_close
        | libc::SYS_exit_group
        | libc::SYS_umask
        | libc::SYS_sysinfo
        | libc::SYS_getrandom => return None,
        libc::SYS_getpid | libc::SYS_gettid | libc::SYS_getuid | libc::SYS_geteuid | libc::SYS_getpgrp => {
            return None;
        }
        libc::SYS_rt_sigaction
        | libc::SYS_rt_sigprocmask
        | libc::SYS_rt_sigreturn
        | libc::SYS_sigaltstack => return None,
        libc::SYS_set_robust_list | libc::SYS_sched_getaffinity | libc::SYS_futex => return None,
        libc::SYS_poll | libc::SYS_ppoll | libc::SYS_wait4 | libc::SYS_waitid | libc::SYS_rt_sigtimedwait => {
            Errno::EINTR
        }
        libc::SYS_open | libc::SYS_openat | libc::SYS_openat2 | libc::SYS_open_tree => Errno::EMFILE,
        libc::SYS_socket | libc::SYS_socketpair | libc::SYS_dup2 | libc::SYS_pidfd_open => Errno::EMFILE,
        libc::SYS_mkdir | libc::SYS_mkdirat | libc::SYS_mknodat | libc::SYS_symlink => Errno::ENOSPC,
        libc::SYS_write | libc::SYS_rename | libc::SYS_bind => Errno::ENOSPC,
        libc::SYS_mount | libc::SYS_umount2 | libc::SYS_move_mount | libc::SYS_pivot_root => Errno::EPERM,
        libc::SYS_mount_setattr | libc::SYS_chmod | libc::SYS_chown | libc::SYS_fchmod => Errno::EPERM,
        libc::SYS_unshare | libc::SYS_prctl | libc::SYS_capset | libc::SYS_setgroups => Errno::EPERM,
        libc::SYS_clone | libc::SYS_clone3 => Errno::EAGAIN,
        libc::SYS_rmdir => Errno::EBUSY,
        libc::SYS_execve => Errno::EACCES,
        libc::SYS_sendmsg | libc::SYS_recvmsg | libc::SYS_sendto | libc::SYS_recvfrom => Errno::ENOMEM,
        _ => Errno::EIO,
    })
}

fn scenes() -> [Scene; 2] {
    [Scene::boot(), Scene::run()]
}

/// Makes every call of `roles` fail.
fn fail_all(roles: &[Role]) {
    let mut tally = Tally::default();
    for scene in scenes() {
        let calls = scene.calls();
        let before = scene.tree.fingerprint();
        for call in calls.iter().filter(|call| roles.contains(&call.role)) {
            let Some(errno) = errno(call) else { continue };
            let strike = Strike::Fail(errno);
            let run = scene.trace(Some((call, strike)));
            // 126 is for a payload that cannot be executed.
            let codes = if call.number == libc::SYS_execve { &[126][..] } else { &[] };
            let mut outcome = scene.judge(&run, codes, |leftover| excused(call, leftover));
            tally.missed += usize::from(!run.struck);
            if !leftovers::of(scene.tree.name(), &scene.tree.path()).is_empty() {
                outcome = outcome.and_then(|outcome| scene.runs_again().map(|()| outcome));
            }
            tally.add(call, strike, outcome);
        }
        assert_eq!(scene.tree.fingerprint(), before, "the tree has changed");
    }
    tally.end(&format!("calls of {roles:?} that fail"));
}

/// What a removal that fails does not remove, until the machine of that name is started again.
fn excused(call: &Call, leftover: &str) -> bool {
    match call.number {
        libc::SYS_rmdir | libc::SYS_unlink => leftover == call.object,
        // An empty file that could not be locked: without the lock it may be another's.
        libc::SYS_fcntl => {
            leftover.ends_with(".json") || leftover.contains("/locks/") || leftover.ends_with(".lck")
        }
        _ => false,
    }
}

#[test]
fn calls_of_the_supervisor_fail() {
    let _alone = alone();
    fail_all(&[Role::Supervisor]);
}

#[test]
fn calls_of_the_outer_fail() {
    let _alone = alone();
    fail_all(&[Role::Outer]);
}

#[test]
fn calls_of_the_leader_fail() {
    let _alone = alone();
    fail_all(&[Role::Leader, Role::Second]);
}

/// Strikes at every call of `roles`, two strikes in turn.
fn strike_all(what: &str, roles: &[Role], strikes: [Strike; 2], codes: impl Fn(&[Call], &Call) -> Vec<i32>) {
    let mut tally = Tally::default();
    for scene in scenes() {
        let calls = scene.calls();
        let struck = calls.iter().filter(|call| roles.contains(&call.role) && errno(call).is_some());
        for (call, strike) in struck.zip(strikes.iter().cycle()) {
            let run = scene.trace(Some((call, *strike)));
            let outcome = scene.judge(&run, &codes(&run.calls, call), |_| false);
            tally.missed += usize::from(!run.struck);
            tally.add(call, *strike, outcome);
        }
    }
    tally.end(what);
}

#[test]
fn the_outer_dies() {
    let _alone = alone();
    strike_all("deaths of the outer", &[Role::Outer], [Strike::Kill; 2], |_, _| Vec::new());
}

#[test]
fn the_leader_dies() {
    let _alone = alone();
    // From when it waits for its last word it is recorded: then a death is the machine's end, as somebody may have killed it.
    let recorded = |calls: &[Call], _: &Call| {
        let waits = |call: &Call| (call.role, call.number, call.nth) == (Role::Leader, libc::SYS_recvmsg, 2);
        if calls.iter().any(waits) { vec![128 + libc::SIGKILL] } else { Vec::new() }
    };
    strike_all("deaths of the leader", &[Role::Leader, Role::Second], [Strike::Kill; 2], recorded);
}

#[test]
fn the_outer_and_the_leader_hang() {
    let _alone = alone();
    let strikes = [Strike::Hold(Signal::SIGTERM), Strike::Hold(Signal::SIGINT)];
    let roles = [Role::Outer, Role::Leader, Role::Second];
    // The signals meant for the payload kill it: `run` has SIGKILL for that, and a boot one more than there are handlers.
    strike_all("hangs", &roles, strikes, |_, _| vec![128 + libc::SIGKILL]);
}

#[test]
fn the_supervisor_is_asked_to_end() {
    let _alone = alone();
    let strikes = [Strike::Signal(Signal::SIGTERM), Strike::Signal(Signal::SIGINT)];
    let codes = |calls: &[Call], _: &Call| {
        // Before they are caught there is nothing to give back.
        let caught = calls.iter().any(|call| call.role != Role::Supervisor || call.number == libc::SYS_mkdir);
        if caught { vec![128 + libc::SIGKILL] } else { vec![128 + libc::SIGTERM, 128 + libc::SIGINT] }
    };
    strike_all("signals", &[Role::Supervisor], strikes, codes);
}

#[test]
fn the_supervisor_is_killed() {
    let _alone = alone();
    let mut tally = Tally::default();
    for scene in scenes() {
        let calls = scene.calls();
        for call in calls.iter().filter(|call| call.role == Role::Supervisor && errno(call).is_some()) {
            let run = scene.trace(Some((call, Strike::Kill)));
            let outcome = match (run.struck, run.hung, run.code) {
                (false, false, 0) | (true, false, 137) => {
                    let left =
                        scene.leftovers(|leftover| leftover.starts_with('/') && !leftover.contains("/net/"));
                    if left.is_empty() { scene.runs_again() } else { Err(format!("it leaves {left:?}")) }
                }
                how => Err(format!("{how:?}")),
            };
            tally.missed += usize::from(!run.struck);
            tally.add(call, Strike::Kill, outcome.map(|()| Outcome::Said(String::new())));
        }
    }
    tally.end("deaths of the supervisor");
}

#[test]
fn a_payload_of_a_user_s_dies_with_the_supervisor() {
    let _alone = alone();
    for options in [&[][..], &["--as-pid2"]] {
        let options = [options, &["--uid=nobody", "--console=passive"]].concat();
        let scene = Scene::new("run", &options, &["/bin/sleep", "1000"]);
        let mut osier = Command::new(program()).args(&scene.arguments).stdin(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let is_payload = |line: &String| line.split(' ').nth(2) == Some("/bin/sleep");
        while !leftovers::of(scene.tree.name(), &scene.tree.path()).iter().any(is_payload) {
            assert!(Instant::now() < deadline, "it does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(osier.id().cast_signed()), Signal::SIGKILL).unwrap();
        osier.wait().unwrap();
        assert_eq!(scene.leftovers(|leftover| leftover.starts_with('/')), Vec::<String>::new());
        let tree = scene.tree.path().display().to_string();
        let again = ["run", "--register=no", "-M", scene.tree.name(), &tree, "--", "/bin/true"];
        assert!(Command::new(program()).args(again).stdin(Stdio::null()).status().unwrap().success());
        assert_eq!(scene.leftovers(|_| false), Vec::<String>::new());
    }
}

/// The tests above are worth what their eyes are worth.
#[test]
fn a_leftover_of_each_kind_is_seen() {
    let _alone = alone();
    let scene = Scene::run();
    let seen = || leftovers::of(scene.tree.name(), &scene.tree.path());
    assert_eq!(seen(), Vec::<String>::new());
    let stat = fs::metadata(scene.tree.path()).unwrap();
    let runtime = Path::new("/run/systemd/nspawn");
    let files = [
        Path::new("/run/osier/machines").join(format!("{}.json", scene.tree.name())),
        Path::new("/run/osier/machines").join(format!(".{}.json.new", scene.tree.name())),
        scene.tree.outside().join(format!(".#{}.lck", scene.tree.name())),
        runtime.join("locks").join(format!("inode-{}:{}", stat.dev(), stat.ino())),
    ];
    for file in files {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        File::create_new(&file).unwrap();
        assert_eq!(seen(), [file.display().to_string()]);
        fs::remove_file(&file).unwrap();
    }
    let elsewhere = leftovers::cgroup2().join(format!("machine-{}.scope", scene.tree.name()));
    for directory in [runtime.join("propagate").join(scene.tree.name()), elsewhere] {
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(seen(), [directory.display().to_string()]);
        fs::remove_dir(&directory).unwrap();
    }
    let mut process = Command::new("sh")
        .args(["-c", "read line", "osier"])
        .arg(scene.tree.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    // Its command line is empty for a moment in execve(2).
    let found = await_some("the process to be seen", || seen().first().cloned());
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(found.starts_with("process "), "{found:?}");
    assert_eq!(seen(), Vec::<String>::new());
}

#[test]
fn what_is_wrong_with_a_run_is_seen() {
    let _alone = alone();
    let scene = Scene::run();
    let run = |code, stdout: &str, said: &str| Run {
        code,
        stdout: stdout.to_owned(),
        stderr: said.replace("TREE", &scene.tree.path().display().to_string()),
        calls: Vec::new(),
        struck: true,
        hung: false,
    };
    let well = "osier: cannot run in 'TREE': cannot mount proc on /proc: operation not permitted\n";
    for wrong in [
        run(0, "", ""),
        run(0, RAN, well),
        run(1, RAN, ""),
        run(125, "", ""),
        run(125, "", "osier: cannot run in 'TREE'\n"),
        run(125, "", "osier: cannot run in 'TREE': cannot mount /proc: Nope (os error 1)\n"),
        run(125, "", &format!("{well}and more\n")),
        run(101, "", "thread 'main' panicked at src/main.rs\n"),
        Run { hung: true, ..run(137, "", "") },
    ] {
        assert!(scene.clean(&wrong, &[137]).is_err(), "{wrong:?}");
    }
    assert_eq!(scene.clean(&run(0, RAN, ""), &[]), Ok(Outcome::Went));
    assert!(matches!(scene.clean(&run(125, "", &format!("{well}hint: do\n")), &[]), Ok(Outcome::Said(_))));
    assert_eq!(scene.clean(&run(137, "", ""), &[137]), Ok(Outcome::Ended));
}
