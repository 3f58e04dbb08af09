//! `--checkpointable`: what is refused in such a machine, what of the host's is not in it, and that CRIU saves and restores it,
//! whichever init it runs. Needs root, the trees (tests/run makes them), and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use osier::console::pty;
use osier::criu::{Criu, Dump, Hook, Leave, Memory, Restore};

use support::machine::{Machine, enter, osier, output, stdout_of_run};
use support::tree::{Layered, Tree, debian};
use support::{await_that, leftovers, tree};

const ABLE: &str = "--checkpointable";

fn criu() -> Criu {
    let given = std::env::var_os("OSIER_CRIU").map(PathBuf::from);
    Criu::find(given.as_deref()).expect("a criu: start the tests with tests/run, or set OSIER_CRIU")
}

fn boot(tree: &Path, name: &str) -> Machine {
    let mut command = osier(["boot", ABLE]);
    command.arg(tree);
    Machine::spawn(command, name, tree)
}

/// The machine ends and leaves nothing but what it ran from.
fn end_on(machine: Machine, tree: &Layered) {
    machine.end_leaving();
    tree.assert_only(&tree.name);
}

#[test]
fn what_cannot_be_saved_is_refused_to_all_that_runs_in_the_machine() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[ABLE]);
    let shell = |script: &str| {
        let output = output(&mut osier(["shell", &machine.name, "--", "sh", "-c", script]));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    for (pid, who) in [("1", "init"), ("self", "a shell")] {
        let status = shell(&format!("cat /proc/{pid}/status"));
        assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t0"), "{who}: {status}");
    }
    for kind in ["-u", "-i", "-U", "-p -f"] {
        let said = shell(&format!("unshare {kind} true"));
        assert!(said.contains("ot permitted"), "unshare {kind}: {said}");
    }
    for kind in ["-m", "-n"] {
        assert_eq!(shell(&format!("unshare {kind} echo yes")), "yes", "unshare {kind}");
    }
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);

    let script = "unshare -u echo yes; grep Seccomp: /proc/self/status";
    assert_eq!(stdout_of_run(&tree, &[], &["sh", "-c", script]), "yes\nSeccomp:\t0\n");
    let options = [ABLE, "--network=none", "--console=read-only"];
    let said = stdout_of_run(&tree, &options, &["sh", "-c", script]);
    assert!(said.contains("ot permitted") && said.contains("Seccomp:\t2"), "{said}");
}

#[test]
fn nothing_in_the_machine_is_the_hosts_but_its_console() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[ABLE]);
    let record = machine.show();
    let console = &record["checkpointable"]["console"];
    let mountinfo = machine.sh("cat /proc/1/mountinfo");
    assert!(!mountinfo.contains("master:"), "{mountinfo}");
    assert!(!mountinfo.contains("/run/host/incoming"), "{mountinfo}");
    // Of every mount but root and console the file system is the machine's.
    let of_host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let device = |line: &str| line.split(' ').nth(2).unwrap().to_owned();
    let hosts: Vec<_> = of_host.lines().map(device).collect();
    let shared: Vec<_> = mountinfo
        .lines()
        .filter(|line| hosts.contains(&device(line)) && !line.contains(" - cgroup2 "))
        .map(|line| line.split(' ').nth(4).unwrap().to_owned())
        .collect();
    assert_eq!(
        {
            let mut sorted = shared;
            sorted.sort();
            sorted
        },
        ["/", "/dev/console"],
        "{mountinfo}"
    );
    assert_eq!(machine.sh("stat -c %t:%T /dev/console"), {
        let rdev = console["rdev"].as_u64().unwrap();
        format!("{:x}:{:x}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
    });
    // The terminal of the first process is that one, opened in its own root.
    assert_eq!(machine.sh("readlink /proc/1/fd/0"), "/dev/console");
    let refused = output(&mut osier(["bind", &machine.name, "/etc"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("--checkpointable"), "{said}");
    assert!(said.contains("hint: `osier copy-to`"), "{said}");
    assert_eq!(machine.sh("cat /proc/1/mountinfo"), mountinfo);
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    // A machine that is not to be saved says nothing of it.
    let machine = Machine::minimal(&tree, &[]);
    assert!(machine.show()["checkpointable"].is_null());
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
    // A settings file asks for it as the command line does.
    fs::write(tree.outside().join(format!("{}.nspawn", tree.name())), "[X-Osier]\nCheckpointable=yes\n")
        .unwrap();
    let machine = Machine::minimal(&tree, &[]);
    assert!(!machine.show()["checkpointable"].is_null());
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn systemd_in_the_machine_is_told_what_a_restore_loses() {
    let tree = Layered::over(&debian());
    let machine = boot(&tree.path(), &tree.name);
    machine.await_output(" login: ");
    assert_eq!(machine.sh("systemctl is-system-running --wait"), "running");
    let told =
        |unit: &str| machine.sh(&format!("systemctl show -P NotifyAccess -P MemoryPressureWatch {unit}"));
    let is_told = |unit: &str| assert_eq!(told(unit), "all\nno", "{unit}");
    ["systemd-journald", "systemd-logind", "dbus", "user@0"].iter().for_each(|unit| is_told(unit));
    // As it was told at first, so after it has read all its files again.
    machine.sh("systemctl daemon-reload");
    is_told("systemd-journald");
    machine.sh("systemctl daemon-reexec");
    is_told("systemd-logind");
    assert_eq!(machine.sh("systemctl is-active dev-hugepages.mount || true"), "inactive");
    let of = |who: &str| machine.sh(&format!("readlink /proc/{who}/ns/mnt"));
    assert_eq!(of("$(systemctl show -P MainPID systemd-logind)"), of("1"));
    let watched = machine.sh("ls -l /proc/[0-9]*/fd | grep -c memory.pressure || true");
    assert_eq!(watched, "0");
    machine.signal(Signal::SIGTERM);
    end_on(machine, &tree);
}

/// Saved, ended and restored with each init, at the same time.
#[test]
fn criu_saves_and_restores_the_machine_whichever_init_it_runs() {
    let inits = ["debian-12", "debian-11", "sysvinit", "openrc", "runit", "busybox", "s6", "finit"];
    let trees = inits.iter().map(|name| (*name, tree::of(name))).chain([("debian", debian())]);
    let trees: Vec<_> = trees.collect();
    thread::scope(|scope| {
        let started = trees.iter().map(|(name, path)| {
            let named = thread::Builder::new().name((*name).to_owned());
            (name, named.spawn_scoped(scope, || live_on(path)).unwrap())
        });
        let started: Vec<_> = started.collect();
        let failed: Vec<_> =
            started.into_iter().filter_map(|(name, thread)| thread.join().err().map(|_| name)).collect();
        assert!(failed.is_empty(), "what failed in each of {failed:?} stands above");
    });
}

/// What runs in a machine, by name.
fn processes(leader: u32) -> Vec<String> {
    let script = "for process in /proc/[0-9]*; do cat $process/comm; done";
    let output = enter(leader, &["/bin/sh", "-c", script]);
    let mut names: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    // These two.
    names.retain(|name| !["sh", "cat"].contains(&name.as_str()));
    names.sort();
    names
}

/// Errors of a dump that the next one does not have.
const PASSING: [&str; 2] =
    ["netlink: The socket has data to read", "parse_fdinfo_pid_s: error parsing [inotify"];

fn live_on(lower: &Path) {
    let tree = Layered::over(lower);
    let machine = boot(&tree.path(), &tree.name);
    machine.await_output(" login: ");
    let is_systemd = machine.show()["init"] == "systemd";
    if is_systemd {
        assert_eq!(machine.sh("systemctl is-system-running --wait"), "running");
    }
    let saved = Saved::of(&machine, &tree);
    saved.dump(machine.leader(), Leave::Running);
    let before = processes(machine.leader());
    saved.dump(machine.leader(), Leave::Dead);
    end_on(machine, &tree);

    let restored = saved.restore(&tree);
    assert_eq!(processes(restored.leader()), before);
    if is_systemd {
        let state = enter(restored.leader(), &["systemctl", "is-system-running"]);
        assert_eq!(String::from_utf8_lossy(&state.stdout), "running\n");
        let ran = enter(restored.leader(), &["systemd-run", "--wait", "--pipe", "echo", "here"]);
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "here\n", "{ran:?}");
    }
}

/// Where a machine is saved, and what its record says of it.
struct Saved {
    images: PathBuf,
    log: PathBuf,
    /// CRIU's name for its console.
    terminal: String,
    /// Its payload's cgroup.
    payload: PathBuf,
}

impl Saved {
    fn of(machine: &Machine, tree: &Layered) -> Self {
        let record = machine.show();
        let number = |key: &str| record["checkpointable"]["console"][key].as_u64().unwrap();
        let images = tree.scratch.path().join("images");
        fs::create_dir(&images).unwrap();
        Self {
            images,
            log: tree.scratch.path().join("criu.log"),
            terminal: format!("tty[{:x}:{:x}]", number("rdev"), number("dev")),
            payload: Path::new(record["cgroup"].as_str().unwrap()).join("payload"),
        }
    }

    fn dump(&self, leader: u32, leave: Leave) {
        let dump = Dump {
            pid: Pid::from_raw(leader.cast_signed()),
            images: &self.images,
            log: &self.log,
            leave,
            external: vec![self.terminal.clone(), "mnt[/dev/console]:console".to_owned()],
            cgroup_root: Some(in_cgroup2(&self.payload)),
            ghost_limit: 128 << 20,
            watched: Vec::new(),
            memory: Memory::Whole,
            interrupt: None,
        };
        await_that("a moment at which it can be saved", || {
            fs::remove_dir_all(&self.images).unwrap();
            fs::create_dir(&self.images).unwrap();
            let result = criu().dump(&dump, &mut |_| Ok(()));
            // What systemd has not read yet, and its watch on a cgroup that it has just removed, are gone in a moment.
            let told = errors(&self.log);
            let is_passing = PASSING.iter().any(|text| told.contains(text));
            match result {
                Err(failed) if !is_passing => panic!("{failed}: {told}"),
                result => result.is_ok(),
            }
        });
    }

    /// Restores it in another cgroup; its root is a mount in a mount namespace of this thread.
    fn restore(&self, tree: &Layered) -> Restored {
        let pty = pty::open().unwrap();
        let slave = pty::open_peer(&pty.master).unwrap();
        let cgroup = leftovers::cgroup2().join(format!("osier-{}", tree.name));
        let payload = cgroup.join("payload");
        fs::create_dir_all(&payload).unwrap();
        let mut restored = Restored { leader: None, cgroup, _console: pty.master };
        let root = tree.scratch.path().join("root");
        fs::create_dir(&root).unwrap();
        let none: Option<&str> = None;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some(&tree.path()), &root, none, MsFlags::MS_BIND, none).unwrap();
        let (link, _) = osier::net::host_ifname(&tree.name.parse().unwrap());
        let console = format!("mnt[console]:{}", pty.slave_path.display());
        let restore = Restore {
            images: &self.images,
            log: &self.log,
            root: &root,
            external: vec![console, format!("veth[host0]:{link}")],
            inherit: vec![(self.terminal.clone(), slave.as_fd())],
            cgroup_root: Some(&in_cgroup2(&payload)),
            lazy: None,
            interrupt: None,
        };
        let result = criu().restore(&restore, &mut |hook, _| match hook {
            Hook::PostSetupNamespaces => up(&link),
            _ => Ok(()),
        });
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        let found = result.unwrap_or_else(|failed| panic!("{failed}: {}", errors(&self.log)));
        restored.leader = Some(found.pid);
        restored
    }
}

/// What was restored: ended with this, and its cgroups removed.
struct Restored {
    leader: Option<Pid>,
    cgroup: PathBuf,
    /// Without it everything on the console is hung up.
    _console: OwnedFd,
}

impl Restored {
    fn leader(&self) -> u32 {
        self.leader.unwrap().as_raw().unsigned_abs()
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            let _ = kill(leader, Signal::SIGKILL);
            let _ = waitpid(leader, None);
        }
        await_that("the cgroups to be empty", || {
            directories(&self.cgroup).iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
            !self.cgroup.exists()
        });
    }
}

/// A cgroup's directory as the kernel names it.
fn in_cgroup2(directory: &Path) -> String {
    format!("/{}", directory.strip_prefix(leftovers::cgroup2()).unwrap().display())
}

fn up(link: &str) -> io::Result<()> {
    let said = Command::new("ip").args(["link", "set", link, "up"]).status()?;
    if said.success() { Ok(()) } else { Err(io::Error::other("ip link")) }
}

fn errors(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter(|line| line.contains("Error")).collect::<Vec<_>>().join("\n")
}

/// A directory and all below it, outer ones first.
fn directories(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut at = 0;
    while at < found.len() {
        let entries = fs::read_dir(&found[at]).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
        at += 1;
    }
    found
}
