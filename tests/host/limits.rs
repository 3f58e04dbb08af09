//! What limits do. They need controllers in cgroup2, which the tier `vm` has; on the tier `host` each option is refused for the
//! controller that is missing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::machine::{
    Machine, cgroup_of, inside, osier, refused, said, shown, tree, tried, unique, unit, until,
};

/// Whether this tier has the controllers; where it has not, `option` has to be refused.
pub(crate) fn has(option: &str, controller: &str) -> bool {
    if std::env::var("OSIER_TIER").is_ok_and(|tier| tier == "vm") {
        return true;
    }
    let (tree, name) = (tree(), format!("--machine={}", unique("limited")));
    let (code, error) =
        refused(&tried(&osier(), &["run", "--ephemeral", &name, option, &tree, "--", "true"]));
    assert_eq!(code, Some(125), "{error}");
    assert!(error.contains(&format!(" has no {controller} controller")), "{error}");
    false
}

pub(crate) fn text(cgroup: &Path, file: &str) -> String {
    fs::read_to_string(cgroup.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

/// A flat keyed file of cgroup2.
fn keyed(cgroup: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = text(cgroup, file);
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(key, value)| (key.to_owned(), value.parse().expect("a number"))).collect()
}

fn scope(machine: &Machine) -> PathBuf {
    cgroup_of(&machine.scope())
}

fn osier_set(arguments: &[&str]) {
    said(&osier(), &[&["set"], arguments].concat());
}

/// The numbers of the disk that the host runs from.
pub(crate) fn disk() -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    root.split(' ').nth(2).expect("its device").to_owned()
}

/// A machine's settings file, removed after the scenario.
pub(crate) struct Kept(PathBuf);

impl Kept {
    pub(crate) fn of(name: &str) -> Self {
        Self(Path::new("/etc/systemd/nspawn").join(format!("{name}.nspawn")))
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Killed are the hog and nobody else: neither what runs beside it in the machine, nor another machine, nor the host's.
pub(crate) fn memory() {
    if !has("--memory=96M", "memory") {
        return;
    }
    let kills = |cgroup: &Path| keyed(cgroup, "memory.events")["oom_kill"];
    let host = Path::new("/sys/fs/cgroup/system.slice");
    let before = kills(host);
    let other = Machine::hold("bystander", &["--memory=96M"]);
    let script =
        "sleep 1000 & tail /dev/zero; echo hog: $?; kill -0 $! && echo the rest lives; exec sleep infinity";
    let hog = Machine::run("hog", &["--memory=96M"], &["/bin/sh", "-c", script]);
    until("the hog's end", || hog.output().contains("hog: 137"));
    until("word of the rest", || hog.output().contains("the rest lives"));
    assert_eq!(text(&scope(&hog), "memory.max"), "100663296");
    assert_eq!(unit(&hog.scope(), "MemoryMax"), "100663296");
    assert_eq!(kills(&scope(&hog)), 1);
    assert_eq!(kills(&scope(&other)), 0);
    assert_eq!(kills(host), before);
    other.stop();
    hog.stop();
}

pub(crate) fn tasks() {
    if !has("--tasks=40", "pids") {
        return;
    }
    let script = "b() { b | b & }; b; exec sleep infinity";
    let machine = Machine::run("bomb", &["--tasks=40"], &["/bin/sh", "-c", script]);
    let cgroup = scope(&machine);
    assert_eq!(text(&cgroup, "pids.max"), "40");
    // Each shell that cannot fork ends, so that the bomb goes out by itself.
    until("a process too many", || keyed(&cgroup, "pids.events")["max"] > 0);
    std::thread::sleep(Duration::from_secs(2));
    let (peak, refusals) = (text(&cgroup, "pids.peak"), keyed(&cgroup, "pids.events")["max"]);
    println!("fork bomb: {peak} processes at most, {refusals} refused");
    assert_eq!(peak, "40");
    said("true", &[]);
    machine.stop();
}

pub(crate) fn cpu() {
    if !has("--cpus=0.5", "cpu") {
        return;
    }
    let script = "while :; do :; done & while :; do :; done";
    let machine = Machine::run("busy", &["--cpus=0.5"], &["/bin/sh", "-c", script]);
    let cgroup = scope(&machine);
    assert_eq!(text(&cgroup, "cpu.max"), "50000 100000");
    let share = |seconds| {
        let used = || keyed(&cgroup, "cpu.stat")["usage_usec"];
        let (start, before) = (Instant::now(), used());
        std::thread::sleep(Duration::from_secs(seconds));
        (used() - before) as f64 / start.elapsed().as_micros() as f64
    };
    let half = share(8);
    osier_set(&["--runtime", &machine.name, "cpu.max=120%"]);
    share(1);
    let more = share(8);
    println!("CPUs used: {half:.3} of 0.5, {more:.3} of 1.2");
    assert!((0.45..=0.55).contains(&half), "{half} CPUs of 0.5");
    assert!((1.08..=1.32).contains(&more), "{more} CPUs of 1.2");
    machine.stop();
}

pub(crate) fn io() {
    let disk = disk();
    let option = format!("--io={disk} rbps=1M wiops=100");
    if !has(&option, "io") {
        return;
    }
    let machine = Machine::hold("io", &[&option]);
    assert_eq!(text(&scope(&machine), "io.max"), format!("{disk} rbps=1048576 wbps=max riops=max wiops=100"));
    assert_eq!(unit(&machine.scope(), "IOReadBandwidthMax"), format!("/dev/block/{disk} 1048576"));
    machine.stop();
}

/// What `osier set` is given, with the property and the file that say it then.
const LIVE: [(&str, &str, &str, &str); 6] = [
    ("memory.max=600M", "MemoryMax", "629145600", "629145600"),
    ("memory.high=500M", "MemoryHigh", "524288000", "524288000"),
    ("cpu.max=150%", "CPUQuotaPerSecUSec", "1.500000s", "150000 100000"),
    ("cpu.weight=50", "CPUWeight", "50", "50"),
    ("pids.max=300", "TasksMax", "300", "300"),
    ("cpuset.cpus=0", "AllowedCPUs", "0", "0"),
];

/// Waits until PID 1, which answers first and writes then, has written it all.
fn await_live(scope: &str) {
    for (limit, property, shown, written) in LIVE {
        assert_eq!(unit(scope, property), shown, "{property}");
        let file = limit.split('=').next().unwrap_or_default();
        until(file, || text(&cgroup_of(scope), file) == written);
    }
    until("io.max", || text(&cgroup_of(scope), "io.max").contains("rbps=2097152"));
}

/// Live, by the unit's properties; kept over a reboot and for the next machine of the name; all or none.
pub(crate) fn set() {
    if !has("--memory=1G", "memory") {
        return;
    }
    let machine = Machine::boot("set", &[]);
    let (name, scope, kept) = (machine.name.clone(), machine.scope(), Kept::of(&machine.name));
    let io = format!("io.max={} rbps=2M", disk());
    osier_set(&[&[name.as_str(), &io][..], &LIVE.map(|(limit, ..)| limit)].concat());
    await_live(&scope);
    let before = kept.text();
    for line in ["[X-Osier]", "MemoryMax=600M", "CPUQuota=150%", "TasksMax=300", "AllowedCPUs=0"] {
        assert!(before.lines().any(|found| found == line), "{line}: {before}");
    }

    for wrong in ["memory.max=1", "io.max=/dev/osier-none rbps=1"] {
        let (code, error) = refused(&tried(&osier(), &["set", &name, "pids.max=10", wrong]));
        assert_eq!(code, Some(2), "{error}");
    }
    // PID 1 takes what the kernel then refuses: there is no such disk.
    let none = "io.max=240:240 rbps=1M";
    let (code, error) = refused(&tried(&osier(), &["set", &name, "pids.max=10", none]));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("it does not hold there"), "{error}");
    until("the limit of before", || unit(&scope, "TasksMax") == "300");
    let named = format!("--machine={}", unique("nodisk"));
    let run = ["run", "--ephemeral", &named, "--io=240:240 rbps=1M", &tree(), "--", "true"];
    let (code, error) = refused(&tried(&osier(), &run));
    assert_eq!(code, Some(125), "{error}");
    osier_set(&["--runtime", &name, "cpu.weight=70"]);
    assert_eq!(unit(&scope, "CPUWeight"), "70");
    osier_set(&["--runtime", &name, "cpu.weight=50"]);
    await_live(&scope);
    assert_eq!(kept.text(), before);

    let leader = shown(&name, "Leader");
    inside(&name, "systemctl --no-block reboot");
    until("another leader", || listed_leader(&name).is_some_and(|other| other != leader));
    await_live(&scope);
    machine.signal(nix::sys::signal::Signal::SIGTERM);
    machine.end();

    let next = Machine::hold("set", &["--cpus=1"]);
    assert_eq!((unit(&scope, "TasksMax"), unit(&scope, "CPUQuotaPerSecUSec")), ("300".into(), "1s".into()));
    next.stop();
}

/// What is not the limits' stays byte for byte; a file that would be hidden is not.
pub(crate) fn set_in_files() {
    if !has("--tasks=70", "pids") {
        return;
    }
    let machine = Machine::hold("setfile", &[]);
    let (name, kept) = (machine.name.as_str(), Kept::of(&machine.name));
    let other = Kept(Path::new("/run/systemd/nspawn").join(format!("{name}.nspawn")));
    fs::write(&other.0, "[Exec]\nHostname=willow\n").expect("a file in /run");
    let (code, error) = refused(&tried(&osier(), &["set", name, "pids.max=80"]));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("it would hide '/run/systemd/nspawn/") && error.contains("--runtime"), "{error}");
    assert_eq!(unit(&machine.scope(), "TasksMax"), "16384");
    osier_set(&["--runtime", name, "pids.max=80"]);
    assert_eq!(unit(&machine.scope(), "TasksMax"), "80");

    fs::create_dir_all("/etc/systemd/nspawn").expect("a directory in /etc");
    let text = "# by hand\n[X-Osier]\nTasksMax = 5 \n; why\n\n[Exec]\nHostname=oak\n";
    fs::write(&kept.0, text).expect("a file in /etc");
    osier_set(&[name, "pids.max=90", "memory.max=50%"]);
    let expected = "# by hand\n[X-Osier]\nTasksMax=90\n; why\nMemoryMax=50%\n\n[Exec]\nHostname=oak\n";
    assert_eq!(kept.text(), expected);
    fs::write(&kept.0, "[X-Osier]\nTasksMax\n").expect("a file in /etc");
    let (code, error) = refused(&tried(&osier(), &["set", name, "pids.max=100"]));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains(&format!("{}:2: 'TasksMax' is neither", kept.0.display())), "{error}");
    assert_eq!(unit(&machine.scope(), "TasksMax"), "90");
    machine.stop();
}

fn listed_leader(name: &str) -> Option<String> {
    let shown = tried("machinectl", &["show", name, "--value", "--property=Leader"]);
    let text = String::from_utf8_lossy(&shown.stdout).trim().to_owned();
    (shown.status.success() && !text.is_empty()).then_some(text)
}

/// A unit that is kept gets them as properties.
pub(crate) fn kept_unit() {
    if !has("--memory=700M", "memory") {
        return;
    }
    let name = unique("keptlimit");
    let service = format!("{name}.service");
    let (osier, tree, machine) = (osier(), tree(), format!("--machine={name}"));
    let unit_option = format!("--unit={service}");
    let start = ["--quiet", "--collect", &unit_option, "--property=Type=notify", "--property=Delegate=yes"];
    let run = [
        &osier,
        "run",
        "--keep-unit",
        "--ephemeral",
        "--console=read-only",
        "--memory=700M",
        "--register=no",
    ];
    said("systemd-run", &[&start[..], &run, &[&machine, &tree, "--", "/bin/sleep", "infinity"]].concat());
    assert_eq!(unit(&service, "MemoryMax"), "734003200");
    until("memory.max", || text(&cgroup_of(&service), "memory.max") == "734003200");
    // Its record knows no unit: nobody was asked which it is.
    osier_set(&["--runtime", &name, "memory.max=800M"]);
    assert_eq!(unit(&service, "MemoryMax"), "838860800");
    said("systemctl", &["stop", &service]);
}

/// Where systemd is not PID 1, in a mount namespace that hides it, osier writes the files itself.
pub(crate) fn without_systemd() {
    if !has("--memory=96M", "memory") {
        return;
    }
    let (name, tree) = (unique("files"), tree());
    let named = format!("--machine={name}");
    let hide = "mount -t tmpfs tmpfs /run/systemd && exec \"$@\"";
    let (osier, options) = (osier(), ["--memory=96M", "--cpus=0.75", "--tasks=60", "--cpuset=1"]);
    let run = [&osier, "run", "--ephemeral", "--console=read-only", "--register=no", &named];
    let command = ["--mount", "/bin/sh", "-c", hide, "sh"];
    let sleep = [&tree, "--", "/bin/sleep", "infinity"];
    let mut machine =
        Machine::spawn_by("unshare", name.clone(), &[&command[..], &run, &options, &sleep].concat());
    machine.await_ready();
    let record = machine.record();
    assert!(record["unit"].is_null(), "{record}");
    let cgroup = PathBuf::from(record["cgroup"].as_str().expect("a cgroup"));
    let hold = |expected: &[(&str, &str)]| {
        for (file, value) in expected {
            assert_eq!(text(&cgroup, file), *value, "{file}");
        }
    };
    hold(&[
        ("memory.max", "100663296"),
        ("cpu.max", "75000 100000"),
        ("pids.max", "60"),
        ("cpuset.cpus", "1"),
    ]);

    let supervisor = format!("--target={}", machine.supervisor());
    let set = [&supervisor, "--mount", &osier, "set", "--runtime", &name];
    let io = format!("io.max={} wbps=3M", disk());
    said(
        "nsenter",
        &[&set[..], &["memory.max=128M", "cpu.max=20000 50000", "cpuset.cpus=all", &io]].concat(),
    );
    hold(&[("memory.max", "134217728"), ("cpu.max", "20000 50000"), ("cpuset.cpus", "0-1")]);
    assert!(text(&cgroup, "io.max").contains("wbps=3145728"));
    // The kernel refuses the last one: there is no such node. The earlier ones are put back.
    let output = tried("nsenter", &[&set[..], &["memory.max=max", "pids.max=5", "cpuset.mems=900"]].concat());
    let (code, error) = refused(&output);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("cannot set cpuset.mems=900"), "{error}");
    hold(&[("memory.max", "134217728"), ("pids.max", "60"), ("cpuset.mems", "")]);
    machine.signal(nix::sys::signal::Signal::SIGTERM);
    machine.end();
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}
