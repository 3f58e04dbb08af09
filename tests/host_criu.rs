//! CRIU driven by osier: a process tree in namespaces of its own, with a root of its own, is dumped and brought back.
//!
//! Needs root and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use osier::criu::images::Clocks;
use osier::criu::{Criu, Dump, Failed, Hook, Leave, Memory, Restore, Restored};
use osier::error::Error;
use osier::interrupt::Interrupt;
use support::leftovers::cgroup2;
use support::tree::{Scratch, Tree};
use support::{await_some, await_that, unique};

fn criu() -> Criu {
    let given = std::env::var_os("OSIER_CRIU").map(PathBuf::from);
    Criu::find(given.as_deref()).expect("a criu: start the tests with tests/run, or set OSIER_CRIU")
}

/// A process tree: PID 1 counts, and has children: one that does nothing, one of another user, and two that talk by TCP.
struct Subject {
    tree: Tree,
    scratch: Scratch,
    cgroup: PathBuf,
    outer: Option<Child>,
    pid: Pid,
}

/// Run in the new namespaces: the root as CRIU can dump it, one plain mount with a tmpfs for /run.
const ENTER: &str = r#"
    set -e
    mount --make-rprivate /
    mount --bind "$0" "$0"
    cd "$0"
    mount -t proc proc proc
    mount -t tmpfs dev dev
    mknod dev/null c 1 3
    mount -t tmpfs run run
    pivot_root . mnt
    umount -l /mnt
    exec </dev/null >/dev/null 2>&1
    # Not what this shell keeps aside.
    exec setsid /bin/busybox sh -c 'exec 10<&-; exec /subject'
"#;

const PROGRAM: &str = r"#!/bin/sh
cd /
sleep 1000000 &
# Of another user, whose limits are not everybody's to ask for.
su -s /bin/sh nobody -c 'exec sleep 2000000' &
# A connection that is always in use.
ip link set lo up
nc -ll -p 80 -e cat &
sleep 0.2
while :; do echo .; sleep 0.02; done | nc 127.0.0.1 80 > /run/echo &
# Where a test has put it there.
[ ! -x /holder ] || OSIER_HOLDER=yes /holder --exact holds_itself_by_path &
i=0
while :; do
    i=$((i + 1))
    cut -d' ' -f1 /proc/uptime > /run/new
    echo $i >> /run/new
    mv /run/new /run/state
    sleep 0.02
done
";

impl Subject {
    fn start() -> Self {
        Self::start_in(Tree::minimal())
    }

    fn start_in(tree: Tree) -> Self {
        tree.executable("subject", PROGRAM);
        // Of its own, as a machine has one: what is in CRIU's own cgroups is not moved at restore.
        let cgroup = cgroup2().join(format!("osier-{}", unique("criu")));
        fs::create_dir(&cgroup).unwrap();
        // Another test may be about to start a criu, with a socket that is to be inherited by that alone.
        let alone =
            r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done"#;
        let outer = Command::new("bash")
            .args(["-c", &format!(r#"{alone}; echo 0 >"$0/cgroup.procs" && exec "$@""#)])
            .arg(&cgroup)
            .args([
                "unshare",
                "--pid",
                "--mount",
                "--uts",
                "--ipc",
                "--net",
                "--cgroup",
                "--time",
                "--fork",
                "--kill-child",
            ])
            .args(["--boottime", "1000000", "--monotonic", "500000", "sh", "-c", ENTER])
            .arg(tree.path())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let pid = await_some("the first task", || fs::read_to_string(&children).unwrap().trim().parse().ok());
        let this =
            Self { tree, scratch: Scratch::new(), cgroup, outer: Some(outer), pid: Pid::from_raw(pid) };
        await_that("the subject to count", || this.count() > 2);
        this.assert_alive();
        this
    }

    fn state(&self) -> (f64, u64) {
        let text = fs::read_to_string(format!("/proc/{}/root/run/state", self.pid)).unwrap_or_default();
        let mut lines = text.lines();
        let mut next = || lines.next().and_then(|line| line.parse::<f64>().ok()).unwrap_or_default();
        let uptime = next();
        (uptime, next() as u64)
    }

    fn count(&self) -> u64 {
        self.state().1
    }

    fn assert_alive(&self) {
        let before = self.count();
        await_that("the subject to go on", || self.count() > before + 2);
        let before = self.echoed();
        await_that("the connection to go on", || self.echoed() > before);
    }

    fn echoed(&self) -> u64 {
        fs::metadata(format!("/proc/{}/root/run/echo", self.pid)).map_or(0, |echo| echo.len())
    }

    fn images(&self) -> PathBuf {
        let path = self.scratch.path().join("images");
        let _ = fs::create_dir(&path);
        path
    }

    fn log(&self) -> PathBuf {
        self.scratch.path().join("criu.log")
    }

    fn dump(&self, leave: Leave, ask: &mut dyn FnMut(Hook) -> io::Result<()>) -> Result<(), Failed> {
        let (images, log) = (self.images(), self.log());
        criu().dump(&Dump { leave, ..self.what(&images, &log) }, ask)
    }

    fn dump_until(
        &self,
        interrupt: &Interrupt,
        ask: &mut dyn FnMut(Hook) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let (images, log) = (self.images(), self.log());
        criu().dump(&Dump { interrupt: Some(interrupt), ..self.what(&images, &log) }, ask)
    }

    fn what<'a>(&self, images: &'a Path, log: &'a Path) -> Dump<'a> {
        Dump {
            pid: self.pid,
            images,
            log,
            leave: Leave::Dead,
            cgroup_root: None,
            external: Vec::new(),
            ghost_limit: 1 << 20,
            watched: Vec::new(),
            memory: Memory::Whole,
            interrupt: None,
        }
    }

    fn log_text(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Removes the images.
    fn clear(&self) {
        fs::remove_dir_all(self.images()).unwrap();
    }

    /// A command in it, as nsenter(1) runs it.
    fn run(&self, command: &str) -> String {
        self.try_to_run(command).unwrap_or_else(|output| panic!("{output:?}"))
    }

    fn try_to_run(&self, command: &str) -> Result<String, Output> {
        let output = Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--all", "--root", "--wd", "/bin/busybox", "sh", "-c"])
            .arg(command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(output) }
    }

    /// What is not as if nothing had been.
    fn trouble(&self) -> Option<String> {
        match self.try_to_run("ip link set lo up; ping -c1 -W2 127.0.0.1") {
            Ok(_) => {}
            Err(output) => return Some(format!("its network is locked: {output:?}")),
        }
        let stopped = "! grep -h '^State:.[tT]' /proc/[0-9]*/status";
        if let Err(output) = self.try_to_run(stopped) {
            return Some(format!("it is stopped: {output:?}"));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        let before = (self.count(), self.echoed());
        while self.count() <= before.0 + 2 || self.echoed() <= before.1 {
            if Instant::now() > deadline {
                return Some("it does not go on".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn lacks_a_task(&self) -> bool {
        let Ok(tasks) = self.try_to_run("ps") else { return true };
        ["sleep 1000000", "sleep 2000000", "nc -ll", "nc 127", "cat"].iter().any(|task| !tasks.contains(task))
    }

    fn uptime_of_a_new_process(&self) -> f64 {
        self.run("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap()
    }

    /// No packet is dropped in its network.
    fn assert_unlocked(&self) {
        self.run("ip link set lo up; ping -c1 -W2 127.0.0.1");
    }

    fn end(&mut self) {
        if let Some(mut outer) = self.outer.take() {
            let _ = kill(self.pid, Signal::SIGKILL);
            outer.wait().unwrap();
        }
    }

    /// Brings it back; its root is a mount in a mount namespace of this test's thread.
    fn restore(
        &mut self,
        ask: &mut dyn FnMut(Hook, Option<Pid>) -> io::Result<()>,
    ) -> Result<Restored, Failed> {
        self.end();
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let root = self.scratch.path().join("root");
        let _ = fs::create_dir(&root);
        mount(Some(&self.tree.path()), &root, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &root, none, MsFlags::MS_PRIVATE, none).unwrap();
        let (images, log) = (self.images(), self.log());
        let restore = Restore {
            images: &images,
            log: &log,
            root: &root,
            external: Vec::new(),
            inherit: Vec::new(),
            cgroup_root: None,
            lazy: None,
            interrupt: None,
        };
        let restored = criu().restore(&restore, ask);
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        if let Ok(restored) = &restored {
            self.pid = restored.pid;
        }
        restored
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        self.end();
        await_that("the cgroup to be empty", || fs::remove_dir(&self.cgroup).is_ok());
    }
}

/// Ends a restored tree; it is a child of this process.
fn end(restored: &Restored) {
    kill(restored.pid, Signal::SIGKILL).unwrap();
    waitpid(restored.pid, None).unwrap();
}

/// The children of this thread that are criu or come of it.
fn criu_children() -> Vec<i32> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap();
    let children = list.split_whitespace().map(|pid| pid.parse().unwrap());
    children
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The restored task has no command line as long as its memory is not its own.
            line.is_empty() || String::from_utf8_lossy(&line).contains("criu")
        })
        .collect()
}

fn kill_criu() {
    for pid in criu_children() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("swrk") || String::from_utf8_lossy(&line).contains("rpc") {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }
}

#[test]
fn a_tree_is_dumped_comes_back_and_is_dumped_again() {
    let mut subject = Subject::start();
    let (mut hooks, mut dumped) = (Vec::new(), None);
    let result = subject.dump(Leave::Dead, &mut |hook| {
        hooks.push(hook);
        dumped = Some(subject.state());
        Ok(())
    });
    let (uptime_then, count_then) = dumped.unwrap();
    result.unwrap_or_else(|failed| panic!("{failed}: {}", subject.log_text()));
    assert_eq!(hooks, [Hook::PreDump, Hook::NetworkLock, Hook::Other, Hook::PostDump]);
    std::thread::sleep(Duration::from_secs(3));

    let mut hooks = Vec::new();
    let before = Instant::now();
    let result = subject.restore(&mut |hook, pid| {
        // As often as this host is slow.
        if hook != Hook::Waiting {
            hooks.push((hook, pid));
        }
        Ok(())
    });
    let restored = result.unwrap_or_else(|failed| panic!("{failed}: {}", subject.log_text()));
    let pid = Some(restored.pid);
    assert_eq!(
        hooks[..3],
        [(Hook::PreRestore, None), (Hook::SetupNamespaces, pid), (Hook::PostSetupNamespaces, pid)]
    );
    assert!(hooks[3..].starts_with(&[
        (Hook::PostRestore, pid),
        (Hook::NetworkUnlock, pid),
        (Hook::PreResume, pid)
    ]));
    let status = fs::read_to_string(format!("/proc/{}/status", restored.pid)).unwrap();
    assert!(status.contains(&format!("\nPPid:\t{}\n", std::process::id())), "{status}");
    assert!(status.contains("\t1\n"), "{status}");
    // The time between does not count.
    subject.assert_alive();
    let (uptime, count) = subject.state();
    let since = before.elapsed().as_secs_f64() + 1.0;
    assert!((0.0..since).contains(&(uptime - uptime_then)), "{uptime} after {uptime_then}, in {since}");
    assert!(count > count_then, "{count} after {count_then}");
    assert!((0.0..5.0).contains(&(subject.uptime_of_a_new_process() - uptime)));

    subject.clear();
    let result = subject.dump(Leave::Running, &mut |_| Ok(()));
    result.unwrap_or_else(|failed| panic!("{failed}: {}", subject.log_text()));
    subject.assert_alive();
    end(&restored);
}

#[test]
fn a_dump_that_is_refused_or_interrupted_leaves_the_tree_running() {
    let subject = Subject::start();
    for refused in [Hook::PreDump, Hook::NetworkLock, Hook::PostDump] {
        let result = subject.dump(Leave::Dead, &mut |hook| match hook {
            hook if hook == refused => Err(io::Error::other("not now")),
            _ => Ok(()),
        });
        assert!(matches!(&result, Err(Failed::Hook(error)) if error.to_string() == "not now"), "{result:?}");
        subject.assert_alive();
        subject.assert_unlocked();
    }
    let interrupt = Interrupt::watch().unwrap();
    let result = subject.dump_until(&interrupt, &mut |hook| {
        if hook == Hook::NetworkLock {
            kill(Pid::this(), Signal::SIGINT).unwrap();
        }
        Ok(())
    });
    assert!(matches!(result, Err(Failed::Interrupted)), "{result:?}");
    subject.assert_alive();
    subject.assert_unlocked();
    assert_eq!(criu_children(), Vec::<i32>::new());
}

#[test]
fn a_dump_whose_criu_is_killed_leaves_the_tree_running() {
    let subject = Subject::start();
    for hook in [Hook::NetworkLock, Hook::PostDump] {
        let mut killing = |at| {
            if at == hook {
                kill_criu();
            }
            Ok(())
        };
        let result = subject.dump(Leave::Dead, &mut killing);
        let Err(failed @ Failed::Died { .. }) = result else { panic!("{result:?}") };
        assert_eq!(failed.to_string(), "criu was ended by SIGKILL");
        subject.assert_alive();
        subject.assert_unlocked();
    }
}

/// Not at a hook: wherever it happens to be, with its code in the tasks perhaps. A task in whose name it is executing a
/// system call at that moment runs into CRIU's trap and is killed; nobody but CRIU knows what it had been about. The others go on, and
/// nothing is locked or stopped.
#[test]
fn a_criu_that_is_killed_anywhere_leaves_everything_else_running() {
    let (mut whole, mut trapped) = (0, 0);
    for milliseconds in (1..40).step_by(4) {
        let subject = Subject::start();
        let result = subject.dump(Leave::Running, &mut |hook| {
            if hook == Hook::NetworkLock {
                let pids = criu_children();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(milliseconds));
                    for pid in pids {
                        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    }
                });
            }
            Ok(())
        });
        match result {
            Err(Failed::Died { .. }) => {}
            Ok(()) => continue,
            Err(failed) => panic!("{failed}: {}", subject.log_text()),
        }
        // The trap takes its time: what fails of a subject that lacks a task afterwards is its doing.
        let trouble = subject.trouble();
        if subject.lacks_a_task() {
            trapped += 1;
        } else if let Some(trouble) = trouble {
            panic!("{trouble}: {}", subject.log_text());
        } else {
            whole += 1;
        }
    }
    println!("{whole} whole, {trapped} with a task trapped");
    assert!(whole > 0, "{trapped} with a task trapped");
}

#[test]
fn a_program_that_holds_itself_by_path_comes_back() {
    let tree = Tree::minimal();
    fs::copy(std::env::current_exe().unwrap(), tree.path().join("holder")).unwrap();
    let mut subject = Subject::start_in(tree);
    await_that("the holder", || subject.run("ls /run").contains("held"));
    let flags = "for p in $(pidof holder); do cat /proc/$p/fdinfo/* | grep flags; done";
    assert!(subject.run(flags).contains("012000000"), "{}", subject.run(flags));
    subject
        .dump(Leave::Dead, &mut |_| Ok(()))
        .unwrap_or_else(|failed| panic!("{failed}: {}", subject.log_text()));
    let restored = subject.restore(&mut |_, _| Ok(()));
    let restored = restored.unwrap_or_else(|failed| panic!("{failed}: {}", subject.log_text()));
    subject.assert_alive();
    assert!(!subject.run(flags).contains("012000000"), "{}", subject.run(flags));
    end(&restored);
}

/// What [`a_program_that_holds_itself_by_path_comes_back`] runs inside, for ever.
#[test]
fn holds_itself_by_path() {
    if std::env::var_os("OSIER_HOLDER").is_none() {
        return;
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let _held = rustix::fs::open("/holder", flags, rustix::fs::Mode::empty()).unwrap();
    fs::write("/run/held", "").unwrap();
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

#[test]
fn saved_clocks_can_be_moved() {
    let mut subject = Subject::start();
    let uptime = subject.state().0;
    subject.dump(Leave::Dead, &mut |_| Ok(())).unwrap();
    let saved = Clocks::read(&subject.images()).unwrap().unwrap();
    assert!((saved.boottime as f64 / 1e9 - uptime).abs() < 5.0, "{saved:?} at {uptime}");
    let day = 86_400_000_000_000;
    let moved = Clocks { monotonic: saved.monotonic + day, boottime: saved.boottime + 2 * day };
    moved.write(&subject.images()).unwrap();
    let restored = subject.restore(&mut |_, _| Ok(())).unwrap();
    let now = subject.uptime_of_a_new_process();
    assert!((now - moved.boottime as f64 / 1e9).abs() < 5.0, "{now} after {moved:?}");
    end(&restored);
}

#[test]
fn pages_are_tracked_where_the_kernel_can_and_refused_where_not() {
    let subject = Subject::start();
    let (images, log) = (subject.images(), subject.log());
    let first = Dump { memory: Memory::Tracked, leave: Leave::Running, ..subject.what(&images, &log) };
    let able = criu().features().unwrap().dirty_pages;
    let result = criu().pre_dump(&first);
    println!("dirty pages: {able}, {result:?}");
    assert_eq!(result.is_ok(), able, "{result:?}");
    subject.assert_alive();
}

#[test]
fn a_restore_that_is_refused_or_killed_leaves_nothing() {
    let mut subject = Subject::start();
    subject.dump(Leave::Dead, &mut |_| Ok(())).unwrap();
    for kills in [false, true] {
        for refused in [
            Hook::PreRestore,
            Hook::SetupNamespaces,
            Hook::PostSetupNamespaces,
            Hook::PostRestore,
            Hook::PreResume,
        ] {
            let mut first = None;
            let result = subject.restore(&mut |hook, pid| {
                first = first.or(pid);
                match hook == refused {
                    true if kills => kill_criu(),
                    true => return Err(io::Error::other("no")),
                    false => {}
                }
                Ok(())
            });
            match &result {
                Err(Failed::Hook(_)) => assert!(!kills, "{refused:?}"),
                Err(Failed::Died { .. }) => assert!(kills, "{refused:?}"),
                _ => panic!("{refused:?}, killed {kills}: {result:?}"),
            }
            assert_eq!(criu_children(), Vec::<i32>::new(), "{refused:?}, killed {kills}");
            let gone = first.is_none_or(|pid| kill(pid, None).is_err());
            assert!(gone, "{refused:?}, killed {kills}: {first:?} is there");
            await_that("nobody in the cgroup", || {
                fs::read_to_string(subject.cgroup.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty())
            });
        }
    }
    let restored = subject.restore(&mut |_, _| Ok(())).unwrap();
    subject.assert_alive();
    end(&restored);
}

#[test]
fn what_cannot_be_dumped_is_named() {
    let subject = Subject::start();
    subject.run("setsid sh -c 'unshare -u sleep 1000' >/dev/null 2>&1 </dev/null &");
    await_that("a nested namespace", || subject.run("ps").contains("sleep 1000\n"));
    let result = subject.dump(Leave::Running, &mut |_| Ok(()));
    let Err(failed @ Failed::Refused { .. }) = &result else { panic!("{result:?}") };
    let text = failed.to_string();
    assert!(text.starts_with("task ") && text.contains(" (sleep): "), "{text}\n{}", subject.log_text());
    assert!(failed.log().is_some_and(Path::exists));
    subject.assert_alive();
}

#[test]
fn what_is_no_criu_is_refused() {
    let scratch = Scratch::new();
    let script = scratch.file("criu", "#!/bin/sh\necho 'no such library' >&2\nexit 127\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for (path, expected) in [
        (script.as_path(), "as criu: no such library"),
        (Path::new("/bin/true"), "cannot use '/bin/true' as criu"),
        (Path::new("/nowhere/criu"), "cannot find '/nowhere/criu'"),
    ] {
        let error = Error::from(Criu::find(Some(path)).unwrap_err());
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint_text().unwrap().contains("install criu 4.1"), "{error:?}");
    }
}
