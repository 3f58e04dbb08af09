//! `osier checkpoint`, `restore` and `migrate` where systemd has the cgroups and machined the registrations.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::limits;
use crate::machine::{
    Machine, cgroup_of, command, inside, listed, osier, refused, said, scope_of, shown, tree, tried, unique,
    unit, until,
};
use crate::machinectl::on_bus;
use crate::terminal::Terminal;

/// A tree of a machine's own, in the image search path under the machine's name: what a throw-away layer holds cannot be saved.
struct Image {
    name: String,
    /// What the machine writes, and what is saved of it.
    own: PathBuf,
}

impl Image {
    fn new(tail: &str) -> Self {
        let name = unique(tail);
        let own = Path::new("/var/lib/machines").join(format!(".{name}"));
        let image = Self { name, own };
        let (upper, work) = (image.own.join("upper"), image.own.join("work"));
        for directory in [&upper, &work, &image.path()] {
            fs::create_dir_all(directory).expect("a directory");
        }
        // Without an index and handles inotify watches have nothing by which to find their files again.
        let options = format!(
            "index=on,nfs_export=on,lowerdir={},upperdir={},workdir={}",
            tree(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &image.path(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .expect("an overlay");
        image
    }

    fn path(&self) -> PathBuf {
        Path::new("/var/lib/machines").join(&self.name)
    }

    fn text(&self) -> String {
        self.path().display().to_string()
    }

    fn saved(&self, name: &str) -> PathBuf {
        self.own.join(name)
    }

    fn boot(&self, options: &[&str]) -> Machine {
        let (named, path) = (format!("--machine={}", self.name), self.text());
        let always = ["boot", "--checkpointable", "--console=read-only", "--notify-ready=yes", &named];
        let mut machine = Machine::spawn(self.name.clone(), &[&always, options, &[&path]].concat());
        machine.await_ready();
        assert_eq!(inside(&self.name, "systemctl is-system-running --wait").trim(), "running");
        machine
    }

    /// Goes on from there, with osier for a child of this process.
    fn restored(&self, saved: &str) -> Machine {
        let from = self.saved(saved).display().to_string();
        let mut machine =
            Machine::spawn(self.name.clone(), &["restore", "--console=read-only", "--quiet", &from]);
        machine.await_ready();
        machine
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(self.path());
        let _ = fs::remove_dir_all(&self.own);
    }
}

/// `osier checkpoint`, to a place that is the image's.
fn checkpoint(image: &Image, saved: &str, options: &[&str]) -> Command {
    let to = format!("--to={}", image.saved(saved).display());
    command(&osier(), &[&["checkpoint", &to, &image.name], options].concat())
}

fn save(image: &Image, saved: &str, options: &[&str]) -> String {
    let output = checkpoint(image, saved, options).output().expect("osier");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Nothing of it is on this host: no name, no unit, no cgroup.
fn assert_nothing(name: &str) {
    assert!(!listed().iter().any(|listed| listed == name), "machined knows '{name}'");
    assert_eq!(unit(&scope_of(name), "LoadState"), "not-found");
    let below = Path::new("/sys/fs/cgroup/machine.slice").join(scope_of(name));
    let record = format!("/run/osier/machines/{name}.json");
    for path in [&below, Path::new(&record)] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert_eq!(said("systemctl", &["--failed", "--plain", "--no-legend"]), "");
}

/// machined and PID 1 know it as one that osier has booted.
fn assert_known(image: &Image, machine: &Machine) {
    let name = image.name.as_str();
    assert_eq!(listed().iter().filter(|listed| *listed == name).count(), 1);
    let list = said("machinectl", &["list", "--no-legend"]);
    let row = list.lines().find(|line| line.starts_with(name)).expect("a row");
    assert_eq!(
        row.split_whitespace().skip(1).take(4).collect::<Vec<_>>(),
        ["container", "osier", "debian", "13"]
    );
    let id = fs::read_to_string(image.path().join("etc/machine-id")).expect("a machine ID");
    for (property, value) in [
        ("Name", name),
        ("Class", "container"),
        ("Service", "osier"),
        ("State", "running"),
        ("Unit", &scope_of(name)),
        ("RootDirectory", &image.text()),
        ("Leader", &machine.leader()),
        ("Id", id.trim()),
    ] {
        assert_eq!(shown(name, property), value, "{property}");
    }
    let index = fs::read_to_string(format!("/sys/class/net/{}/ifindex", machine.link()));
    assert_eq!(on_bus(name, "NetworkInterfaces"), format!("ai 1 {}", index.expect("the link").trim()));
    let status = said("machinectl", &["status", name]);
    for part in ["Service: osier; class container", "└─payload", "/usr/lib/systemd/systemd", "OS: Debian GNU"]
    {
        assert!(status.contains(part), "no '{part}': {status}");
    }
    let scope = scope_of(name);
    for (property, value) in [
        ("ActiveState", "active"),
        ("Description", &*format!("Machine {name}")),
        ("Slice", "machine.slice"),
        ("Delegate", "yes"),
        ("Transient", "yes"),
        ("TasksMax", "16384"),
        ("CollectMode", "inactive-or-failed"),
    ] {
        assert_eq!(unit(&scope, property), value, "{property}");
    }
    assert!(unit(&scope, "Controller").starts_with(':'), "nobody is asked before it is stopped");
    // As after a boot: nothing beside the machine.
    let below = fs::read_dir(cgroup_of(&scope)).expect("its cgroup").flatten();
    let below: Vec<_> = below.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).collect();
    assert_eq!(below, ["payload"]);
    assert_eq!(fs::read_to_string(cgroup_of(&scope).join("cgroup.procs")).expect("a list"), "");
}

/// It is usable from outside, and well inside.
fn assert_usable(name: &str) {
    let state = inside(name, "systemctl is-system-running || journalctl -b --no-pager --priority=warning");
    assert_eq!(state.trim(), "running");
    assert_eq!(said(&osier(), &["shell", name, "--", "echo", "here"]), "here\n");
    let script = "echo one-$((1+1)); id -un";
    let mut shell =
        Terminal::start(&mut command("machinectl", &["--quiet", "shell", name, "/bin/sh", "-c", script]));
    shell.expect("one-2");
    shell.expect("root");
    assert_eq!(shell.end(), Some(0));
    let list = said(&osier(), &["list", "--no-legend"]);
    assert_eq!(list.lines().filter(|line| line.starts_with(name)).count(), 1, "{list}");
}

/// A service inside that is there from before a checkpoint.
struct Witness(String);

impl Witness {
    fn start(name: &str) -> Self {
        inside(name, "systemd-run --quiet --unit=witness sleep infinity");
        Self(Self::pid(name))
    }

    fn pid(name: &str) -> String {
        inside(
            name,
            "systemctl show --value --property=MainPID witness.service; cat /proc/sys/kernel/random/boot_id",
        )
    }

    fn assert_there(&self, name: &str) {
        assert_eq!(Self::pid(name), self.0);
    }
}

pub(crate) fn saved_and_restored() {
    let image = Image::new("saved");
    let name = image.name.as_str();
    let machine = image.boot(&["--register=yes"]);
    let witness = Witness::start(name);
    print!("{}", save(&image, "first", &[]));
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert_nothing(name);

    let start = Instant::now();
    let machine = image.restored("first");
    println!("restored in {} ms", start.elapsed().as_millis());
    assert_known(&image, &machine);
    assert_usable(name);
    witness.assert_there(name);

    save(&image, "second", &[]);
    assert_eq!(machine.end().code, Some(0));
    assert_nothing(name);
    let machine = image.restored("second");
    assert_known(&image, &machine);
    witness.assert_there(name);

    let leader = machine.leader();
    said("machinectl", &["reboot", name]);
    until("another leader", || {
        let record = tried(&osier(), &["show", name, "--value", "--property=Leader"]);
        let now = String::from_utf8_lossy(&record.stdout).trim().to_owned();
        record.status.success() && now != leader
    });
    until("the next boot", || {
        tried(&osier(), &["show", name, "--value", "--property=State"]).stdout == b"running\n"
    });
    assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
    assert_known(&image, &machine);
    assert_usable(name);
    said("machinectl", &["poweroff", name]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert_nothing(name);
}

/// Whatever becomes of a checkpoint, the machine is where it was.
pub(crate) fn saved_in_vain() {
    let image = Image::new("vain");
    let name = image.name.as_str();
    let machine = image.boot(&[]);
    let (leader, witness) = (machine.leader(), Witness::start(name));
    let untouched = |what: &str| {
        assert_eq!(machine.leader(), leader, "{what}");
        assert_known(&image, &machine);
        assert_eq!(inside(name, "systemctl is-system-running").trim(), "running", "{what}");
        witness.assert_there(name);
    };
    save(&image, "running", &["--leave-running"]);
    untouched("left running");

    inside(name, "mount -t ramfs ramfs /mnt");
    let (code, error) = refused(&checkpoint(&image, "culprit", &[]).output().expect("osier"));
    assert!(code == Some(1) && error.contains("ramfs at /mnt"), "{code:?}: {error}");
    inside(name, "umount /mnt");
    untouched("a culprit");

    let events = cgroup_of(&machine.scope()).join("payload/cgroup.events");
    let mut child = checkpoint(&image, "interrupted", &["--with-tree"]).spawn().expect("osier");
    until("the middle of it", || fs::read_to_string(&events).is_ok_and(|text| text.contains("frozen 1")));
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("its status").code(), Some(1));
    untouched("an interrupted one");
    assert!(!image.saved("interrupted").exists() && !image.saved("culprit").exists());
    machine.stop();
}

/// PID 1 and machined have nothing of a restore that fails, and the next one succeeds; stopping its scope ends the machine.
pub(crate) fn restored_in_vain() {
    let image = Image::new("again");
    let name = image.name.as_str();
    let machine = image.boot(&[]);
    let link = machine.link();
    save(&image, "saved", &[]);
    assert_eq!(machine.end().code, Some(0));
    let from = image.saved("saved").display().to_string();

    // Found when its scope is there: somebody's link of that name, which does not go away.
    said("ip", &["link", "add", &link, "type", "veth", "peer", "name", "osier-peer"]);
    let output = tried(&osier(), &["restore", "--background", &from]);
    said("ip", &["link", "delete", &link]);
    let (code, error) = refused(&output);
    assert!(code == Some(125) && error.contains(&format!("the link '{link}'")), "{code:?}: {error}");
    until("the scope's end", || unit(&scope_of(name), "LoadState") == "not-found");
    assert_nothing(name);

    let machine = image.restored("saved");
    assert_known(&image, &machine);
    let (code, error) = refused(&tried(&osier(), &["restore", "--background", &from]));
    assert_eq!(code, Some(125), "{error}");
    assert_known(&image, &machine);
    said("systemctl", &["stop", &machine.scope()]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("halt.target"), "{}", end.output);
    assert_nothing(name);
}

/// A file of this host's that goes with the scenario.
struct Placed(PathBuf);

impl Placed {
    fn put(path: String, text: &str) -> Self {
        let path = PathBuf::from(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, text).expect("a file");
        Self(path)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// It has ended for good.
fn assert_stopped(service: &str) {
    until("the unit's end", || unit(service, "ActiveState") == "inactive");
    thread::sleep(std::time::Duration::from_secs(1));
    for (property, value) in
        [("ActiveState", "inactive"), ("Result", "success"), ("NRestarts", "0"), ("ExecMainStatus", "0")]
    {
        assert_eq!(unit(service, property), value, "{property}");
    }
}

/// Saves what the service has booted, which ends for good, and goes on from there beside it.
fn saved_from(image: &Image, service: &str, saved: &str) -> (Machine, Witness) {
    let name = image.name.as_str();
    assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
    let witness = Witness::start(name);
    save(image, saved, &[]);
    assert_stopped(service);
    assert_nothing(name);

    let machine = image.restored(saved);
    assert_known(image, &machine);
    witness.assert_there(name);
    assert_eq!(unit(service, "ActiveState"), "inactive");
    (machine, witness)
}

/// So does one of somebody's own, in which the machine has a scope beside it.
pub(crate) fn of_a_unit_of_its_own() {
    let image = Image::new("own");
    let name = image.name.as_str();
    let service = format!("{name}-boots.service");
    let text = format!(
        "[Service]\nType=notify\nNotifyAccess=main\nRestart=always\nRestartSec=0\n\
         ExecStart={} boot --checkpointable --console=read-only --notify-ready=yes --machine={name} {}\n",
        osier(),
        image.text()
    );
    let file = Placed::put(format!("/run/systemd/system/{service}"), &text);
    said("systemctl", &["daemon-reload"]);
    said("systemctl", &["start", &service]);
    assert_eq!(shown(name, "Unit"), scope_of(name));
    let (machine, _) = saved_from(&image, &service, "saved");
    machine.stop();
    drop(file);
    said("systemctl", &["daemon-reload"]);
}

/// The unit ends as if somebody had stopped it. What goes on from there is in a scope, or in the unit that it is restored in.
pub(crate) fn of_the_unit() {
    let image = Image::new("unit");
    let name = image.name.as_str();
    let service = format!("osier@{name}.service");
    let settings = format!("/etc/systemd/nspawn/{name}.nspawn");
    let _settings = Placed::put(settings, "[X-Osier]\nCheckpointable=yes\n");
    let always = "[Service]\nRestart=always\nRestartSec=0\n";
    let restart = Placed::put(format!("/run/systemd/system/{service}.d/restart.conf"), always);
    said("systemctl", &["daemon-reload"]);
    said("systemctl", &["start", &service]);
    assert_eq!(unit(&service, "Restart"), "always");
    let (machine, witness) = saved_from(&image, &service, "first");
    save(&image, "second", &[]);
    assert_eq!(machine.end().code, Some(0));

    let own = format!("{name}.service");
    let from = image.saved("second").display().to_string();
    let run = ["--quiet", "--collect", &format!("--unit={own}"), "--property=Type=notify"];
    let run = [&run[..], &["--property=Delegate=yes", "--property=KillMode=mixed"]].concat();
    let restore = [&osier(), "restore", "--quiet", "--keep-unit", "--console=read-only", &from];
    said("systemd-run", &[&run[..], &restore].concat());
    assert_eq!(shown(name, "Unit"), own);
    assert_eq!(unit(&scope_of(name), "LoadState"), "not-found");
    let members = cgroup_of(&own).join("payload/init.scope/cgroup.procs");
    assert_eq!(fs::read_to_string(members).expect("its init").trim(), shown(name, "Leader"));
    witness.assert_there(name);
    assert_usable(name);
    said("systemctl", &["stop", &own]);
    until("the unit's end", || unit(&own, "LoadState") == "not-found");
    assert_nothing(name);
    let directory = restart.0.parent().expect("a directory").to_owned();
    drop(restart);
    let _ = fs::remove_dir(directory);
    said("systemctl", &["daemon-reload"]);
}

/// Two that talk to each other by pipes of this process, which keeps count of who is there.
fn carry(mut sender: Child, mut receiver: Child) -> [(Option<i32>, String); 2] {
    fn pump(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) {
        thread::spawn(move || {
            let mut bytes = [0; 1 << 16];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if to.write_all(&bytes[..count]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
        });
    }
    pump(sender.stdout.take().expect("a pipe"), receiver.stdin.take().expect("a pipe"));
    pump(receiver.stdout.take().expect("a pipe"), sender.stdin.take().expect("a pipe"));
    [sender, receiver].map(|mut child| {
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        (child.wait().expect("its status").code(), said)
    })
}

fn piped(arguments: &[&str]) -> Child {
    let mut command = command(&osier(), arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("osier")
}

/// Sends the machine of `from` to the name and the tree of `to`, which is on this very host.
fn migrate(from: &str, to: &Image, options: &[&str]) {
    let (named, path) = (format!("--to-name={}", to.name), format!("--tree={}", to.text()));
    let start = Instant::now();
    let sender = piped(&[&["migrate", "--to-pipe", from], options].concat());
    let receiver = piped(&["migrate", "--from-pipe", &named, &path]);
    let ended = carry(sender, receiver);
    assert!(ended.iter().all(|(code, _)| *code == Some(0)), "{ended:?}");
    println!("migrated in {} ms", start.elapsed().as_millis());
}

/// Under one name it leaves, under the other one it is there: each known once, or not at all.
pub(crate) fn migrated() {
    let (here, there) = (Image::new("here"), Image::new("there"));
    let machine = here.boot(&[]);
    let witness = Witness::start(&here.name);
    // Whatever else is in it becomes what it is here.
    let id = fs::read(here.path().join("etc/machine-id")).expect("a machine ID");
    fs::write(there.path().join("etc/machine-id"), id).expect("the same");
    migrate(&here.name, &there, &[]);
    assert_eq!(machine.end().code, Some(0));
    assert_nothing(&here.name);
    assert_eq!(listed().iter().filter(|listed| **listed == there.name).count(), 1);
    assert_eq!(shown(&there.name, "Unit"), scope_of(&there.name));
    assert_eq!(shown(&there.name, "RootDirectory"), there.text());
    assert_usable(&there.name);
    witness.assert_there(&there.name);
    said("machinectl", &["poweroff", &there.name]);
    until("its end", || !listed().contains(&there.name));
    until("the scope's end", || unit(&scope_of(&there.name), "LoadState") == "not-found");
    assert_nothing(&there.name);
}

/// What is said at the start, in its settings file, and at run time by osier and by systemctl: all of it is the kernel's again, and
/// inside as well. A limit that was lifted stays lifted.
pub(crate) fn limited() {
    if !limits::has("--memory=1G", "memory") {
        return;
    }
    let image = Image::new("limited");
    let (name, scope) = (image.name.as_str(), scope_of(&image.name));
    let _kept = limits::Kept::of(name);
    let machine = image.boot(&["--memory=600M", "--cpus=1.5", "--tasks=300"]);
    inside(name, "systemd-run --quiet --unit=small -p MemoryMax=64M -p TasksMax=7 sleep infinity");
    let io = format!("io.max={} rbps=2M", limits::disk());
    said(&osier(), &["set", "--runtime", name, "memory.max=700M", "pids.max=max", "cpuset.cpus=0", &io]);
    said(&osier(), &["set", name, "cpu.weight=50"]);
    said("systemctl", &["set-property", "--runtime", &scope, "MemoryHigh=500M"]);
    let small = "payload/system.slice/small.service";
    let hold = |when: &str| {
        for (file, value) in [
            ("memory.max", "734003200"),
            ("memory.high", "524288000"),
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "50"),
            ("pids.max", "max"),
            ("cpuset.cpus", "0"),
            (&*format!("{small}/memory.max"), "67108864"),
            (&*format!("{small}/pids.max"), "7"),
        ] {
            // PID 1 answers first and writes then.
            until(&format!("{file}={value} {when}"), || limits::text(&cgroup_of(&scope), file) == value);
        }
        until("io.max", || limits::text(&cgroup_of(&scope), "io.max").contains("rbps=2097152"));
        for (property, value) in [("MemoryMax", "734003200"), ("CPUWeight", "50"), ("TasksMax", "infinity")] {
            assert_eq!(unit(&scope, property), value, "{property} {when}");
        }
    };
    hold("at first");
    save(&image, "saved", &[]);
    assert_eq!(machine.end().code, Some(0));
    let machine = image.restored("saved");
    hold("after a restore");
    assert_eq!(inside(name, "systemctl show --value --property=MemoryMax small.service").trim(), "67108864");
    // Saved once more they are what it was started with.
    save(&image, "again", &[]);
    assert_eq!(machine.end().code, Some(0));
    let machine = image.restored("again");
    hold("after another one");
    said("machinectl", &["poweroff", name]);
    assert_eq!(machine.end().code, Some(0));
}

/// Beforehand goes what does not change: the machine stands still for what does. A kernel that cannot tell refuses.
pub(crate) fn precopied() {
    let (here, there) = (Image::new("copied"), Image::new("received"));
    let machine = here.boot(&[]);
    let witness = Witness::start(&here.name);
    let ballast = "$x = chr(7) x 96e6; while (1) { $n++; select undef, undef, undef, 0.01 }";
    fs::write(here.path().join("ballast.pl"), ballast).expect("a script");
    inside(&here.name, "systemd-run --quiet --unit=ballast perl /ballast.pl");
    let ssh = here.own.join("ssh");
    fs::write(&ssh, "#!/bin/sh\nshift 2\nexec sh -c \"$1\"\n").expect("a script");
    said("chmod", &["+x", &ssh.display().to_string()]);
    let migrate = |from: &Image, to: &Image, options: &[&str]| {
        let options = options.iter().map(|option| (*option).to_owned());
        let fixed = [
            "migrate".to_owned(),
            format!("--ssh={}", ssh.display()),
            format!("--remote-osier={}", osier()),
            format!("--to-name={}", to.name),
            format!("--tree={}", to.text()),
            from.name.clone(),
            "there".to_owned(),
        ];
        let all: Vec<_> = fixed.into_iter().chain(options).collect();
        tried(&osier(), &all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let id = fs::read(here.path().join("etc/machine-id")).expect("a machine ID");
    fs::write(there.path().join("etc/machine-id"), id).expect("the same");

    let able = tried("criu", &["check", "--feature", "mem_dirty_track"]).status.success();
    let output = migrate(&here, &there, &["--precopy"]);
    if !able {
        let (code, error) = refused(&output);
        assert!(code == Some(1) && error.contains("does not track which pages change"), "{code:?}: {error}");
        println!("no precopy: this kernel does not track which pages change");
        assert_known(&here, &machine);
        witness.assert_there(&here.name);
        assert_nothing(&there.name);
        machine.stop();
        return;
    }
    assert!(output.status.success(), "{output:?}");
    print!("with precopy: {}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(machine.end().code, Some(0));
    assert_usable(&there.name);
    witness.assert_there(&there.name);
    // And back, for what it would have been.
    let output = migrate(&there, &here, &[]);
    assert!(output.status.success(), "{output:?}");
    print!("without: {}", String::from_utf8_lossy(&output.stdout));
    assert_usable(&here.name);
    witness.assert_there(&here.name);
    assert_eq!(inside(&here.name, "systemctl is-active ballast.service").trim(), "active");
    assert_nothing(&there.name);
    said(&osier(), &["terminate", &here.name]);
}
