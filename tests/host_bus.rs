//! The bus on real ground: PID 1's scopes, machined's registrations, and what is left of them.
//!
//! Scenarios of tier `host` want to be run by root inside a host with systemd as PID 1 and machined. Elsewhere they are
//! reported as NOT RUN, which is a failure where `OSIER_TIER=host` says that they must. Each scenario is a process of its
//! own with one thread: this program, started again with `scenario NAME`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use osier::bus::{BusError, Event, Property, Registrar, Registration, Unit, UnitWanted, machined, systemd};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Where a scenario can run.
#[derive(PartialEq)]
enum Tier {
    /// Anywhere.
    InPlace,
    /// Root on a host with systemd and machined.
    Host,
}

const SCENARIOS: &[(&str, Tier, fn())] = &[
    ("without_a_bus_the_caller_is_told_so", Tier::InPlace, without_a_bus),
    ("a_bus_that_hangs_does_not_hang_the_caller", Tier::InPlace, a_bus_that_hangs),
    ("the_registrar_inherits_nothing", Tier::InPlace, the_registrar_inherits_nothing),
    ("a_registrar_that_died_is_reported", Tier::InPlace, a_registrar_that_died),
    ("a_machine_is_registered_twice_over_and_gone", Tier::Host, registered_and_gone),
    ("properties_reach_the_scope", Tier::Host, properties_reach_the_scope),
    ("a_name_in_use_is_refused", Tier::Host, a_name_in_use),
    ("a_stop_request_reaches_the_supervisor", Tier::Host, a_stop_request),
    ("a_forged_stop_request_does_not", Tier::Host, a_forged_stop_request),
    ("machinectl_terminate_is_a_stop_request", Tier::Host, machinectl_terminate),
    ("machinectl_terminate_with_a_leader_further_down", Tier::Host, terminate_further_down),
    ("a_killed_supervisor_leaves_nothing", Tier::Host, a_killed_supervisor),
    ("what_pid_1_refuses_leaves_nothing", Tier::Host, a_refused_property),
    ("a_leader_that_died_leaves_nothing", Tier::Host, a_dead_leader),
    ("a_unit_that_is_kept_is_found_and_stays", Tier::Host, a_kept_unit),
    ("verbs_see_and_kill_machines", Tier::Host, verbs),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["scenario", name] => run(name),
        ["supervisor", name] => supervise_until_killed(name),
        ["keep", name] => keep(name),
        ["--list", ..] => SCENARIOS.iter().for_each(|(name, ..)| println!("{name}: test")),
        _ => return run_all(arguments.iter().find(|argument| !argument.starts_with('-'))),
    }
    ExitCode::SUCCESS
}

fn run(name: &str) {
    let scenario = SCENARIOS.iter().find(|(known, ..)| *known == name).expect("a scenario of this name");
    (scenario.2)();
}

fn run_all(filter: Option<&String>) -> ExitCode {
    let is_host = systemd::is_running() && rustix::process::getuid().is_root();
    let must = std::env::var("OSIER_TIER").is_ok_and(|tier| tier == "host" || tier == "vm");
    let (mut passed, mut failed, mut not_run) = (0, 0, 0);
    for (name, tier, _) in SCENARIOS.iter().filter(|(name, ..)| filter.is_none_or(|part| name.contains(part)))
    {
        if *tier == Tier::Host && !is_host {
            not_run += 1;
            println!("test {name} ... NOT RUN: wants root on a host with systemd as PID 1");
            continue;
        }
        let output = again().args(["scenario", name]).output().expect("this program");
        let success = output.status.success();
        println!("test {name} ... {}", if success { "ok" } else { "FAILED" });
        if success {
            passed += 1;
        } else {
            failed += 1;
            println!(
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    if must {
        failed += not_run;
    }
    // As the usual harness closes, for tests/run to count. What is for another tier is not skipped: it runs there.
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; {not_run} for another tier"
    );
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// This program, to be started again.
fn again() -> Command {
    Command::new(std::env::current_exe().expect("the path of this program"))
}

// ── support ──

/// A process that stands for a leader; killed at the end.
struct Leader {
    child: Child,
    pidfd: OwnedFd,
}

impl Leader {
    fn start() -> Self {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().expect("sleep");
        let pidfd = pidfd_open(pid(child.id()), PidfdFlags::empty()).expect("a pidfd");
        Self { child, pidfd }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.end();
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().expect("a pid")).expect("a pid")
}

/// A name that no other run has, with a dash, which unit names escape.
fn unique(tail: &str) -> String {
    format!("osier-{}-{tail}", std::process::id())
}

fn machine(name: &str, leader: &Leader) -> Registration {
    Registration {
        name: name.to_owned(),
        id: *b"0123456789abcdef",
        leader: leader.child.id(),
        supervisor: std::process::id(),
        root: PathBuf::from("/srv/tree"),
        ifindices: Vec::new(),
        unit: UnitWanted::Scope { slice: "machine.slice".to_owned(), properties: Vec::new() },
    }
}

fn open(registrar: &mut Registrar, machine: &Registration, leader: &Leader) -> Unit {
    let unit = registrar.open_unit(machine, leader.pidfd.as_fd()).expect("a scope");
    registrar.register(machine, leader.pidfd.as_fd()).expect("a registration");
    unit
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn next_event(registrar: &mut Registrar, limit: Duration) -> Option<Event> {
    let deadline = Instant::now() + limit;
    loop {
        match registrar.event().expect("events") {
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}

fn assert_nothing_left(name: &str, unit: Option<&Unit>) {
    assert_eq!(machined::get(name), Ok(None), "machined still knows it");
    let scope = systemd::scope_name(name);
    assert_eq!(systemd::has_unit(&scope), Ok(false), "PID 1 still knows it");
    let listed = said("systemctl", &["list-units", "--all", "--no-legend", "--plain"]);
    assert!(!listed.contains(&scope), "{listed}");
    if let Some(unit) = unit {
        assert!(!cgroup(unit).exists(), "{} is left", cgroup(unit).display());
    }
}

fn cgroup(unit: &Unit) -> PathBuf {
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find(|root| Path::new(root).exists());
    Path::new(root.expect("cgroup2")).join(unit.control_group.trim_start_matches('/'))
}

fn children() -> Vec<u32> {
    let id = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("children");
    list.split_whitespace().map(|child| child.parse().expect("a pid")).collect()
}

// ── anywhere ──

fn without_a_bus() {
    // The address is the environment's, which a process with one thread has from its start.
    if std::env::var_os("DBUS_SYSTEM_BUS_ADDRESS")
        .is_none_or(|address| address != "unix:path=/nonexistent/bus")
    {
        let status = again()
            .args(["scenario", "without_a_bus_the_caller_is_told_so"])
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
            .status();
        assert!(status.expect("this program").success());
        return;
    }
    assert!(!osier::bus::available());
    let mut registrar = Registrar::start().expect("a registrar");
    let error = registrar.claim("web").expect_err("no bus");
    assert_eq!(error, BusError::NoBus("no such file or directory".to_owned()));
    // It can be asked again.
    assert!(matches!(registrar.claim_machine("web"), Err(BusError::NoBus(_))));
    // Nothing was registered: nothing to take back.
    registrar.close().expect("a clean end");
}

fn a_bus_that_hangs() {
    let path = std::env::temp_dir().join(unique("bus"));
    let address = format!("unix:path={}", path.display());
    if std::env::var("DBUS_SYSTEM_BUS_ADDRESS").is_ok_and(|address| address.starts_with("unix:path=/")) {
        let mut registrar = Registrar::start().expect("a registrar");
        registrar.set_limit(Duration::from_millis(300));
        let start = Instant::now();
        assert!(matches!(registrar.claim("web"), Err(BusError::TimedOut(_))));
        assert_eq!(registrar.claim("web"), Err(BusError::Lost));
        drop(registrar);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(children(), Vec::<u32>::new());
        return;
    }
    // Takes connections and says nothing.
    let _listener = UnixListener::bind(&path).expect("a socket");
    let status = again()
        .args(["scenario", "a_bus_that_hangs_does_not_hang_the_caller"])
        .env("DBUS_SYSTEM_BUS_ADDRESS", address)
        .status();
    std::fs::remove_file(&path).expect("the socket");
    assert!(status.expect("this program").success());
}

fn the_registrar_inherits_nothing() {
    let (_reader, _writer) = std::io::pipe().expect("a pipe");
    let _file = std::fs::File::open("/proc/self/status").expect("a file");
    let registrar = Registrar::start().expect("a registrar");
    let [child] = children()[..] else { panic!("one child: {:?}", children()) };
    until("the registrar has detached", || {
        std::fs::read_dir(format!("/proc/{child}/fd")).expect("descriptors").count() == 5
    });
    let mut links: Vec<String> = std::fs::read_dir(format!("/proc/{child}/fd"))
        .expect("descriptors")
        .map(|fd| std::fs::read_link(fd.expect("a descriptor").path()).expect("a link").display().to_string())
        .collect();
    links.retain(|link| link != "/dev/null");
    // Standard error, its socket, its signals.
    assert_eq!(links.iter().filter(|link| link.starts_with("anon_inode:[signalfd]")).count(), 1, "{links:?}");
    assert!(!links.iter().any(|link| link.starts_with("/proc/")), "{links:?}");
    assert_eq!(std::fs::read_to_string(format!("/proc/{child}/comm")).expect("a name"), "osier-bus\n");
    assert_eq!(std::fs::read_link(format!("/proc/{child}/cwd")).expect("a directory"), Path::new("/"));
    drop(registrar);
    assert_eq!(children(), Vec::<u32>::new());
}

fn a_registrar_that_died() {
    let mut registrar = Registrar::start().expect("a registrar");
    let [child] = children()[..] else { panic!("one child: {:?}", children()) };
    // machined sends a signal for the supervisor to whoever registered.
    kill_process(pid(child), Signal::TERM).expect("a signal");
    assert_eq!(next_event(&mut registrar, Duration::from_secs(5)), Some(Event::StopRequested));
    kill_process(pid(child), Signal::KILL).expect("a signal");
    assert_eq!(next_event(&mut registrar, Duration::from_secs(5)), Some(Event::Lost));
    assert_eq!(registrar.claim("web"), Err(BusError::Lost));
    assert_eq!(registrar.close(), Err(BusError::Lost));
    assert_eq!(children(), Vec::<u32>::new());
}

// ── on a host ──

fn registered_and_gone() {
    let name = unique("twice");
    let mut registrar = Registrar::start().expect("a registrar");
    registrar.claim(&name).expect("a free name");
    // The second time is a reboot in place.
    for _ in 0..2 {
        let mut leader = Leader::start();
        let machine = machine(&name, &leader);
        let unit = open(&mut registrar, &machine, &leader);
        assert_eq!(unit.name, systemd::scope_name(&name));
        assert_eq!(unit.control_group, format!("/machine.slice/{}", unit.name));
        let of_leader =
            std::fs::read_to_string(format!("/proc/{}/cgroup", machine.leader)).expect("its cgroup");
        assert!(of_leader.trim_end().ends_with(&unit.control_group), "{of_leader}");
        let shown = said("machinectl", &["show", &name]);
        for line in [
            format!("Name={name}"),
            "Id=30313233343536373839616263646566".to_owned(),
            "Service=osier".to_owned(),
            "Class=container".to_owned(),
            "RootDirectory=/srv/tree".to_owned(),
            format!("Leader={}", machine.leader),
            format!("Unit={}", unit.name),
            "State=running".to_owned(),
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        leader.end();
        registrar.release().expect("release");
        assert_nothing_left(&name, Some(&unit));
    }
    registrar.close().expect("close");
}

fn properties_reach_the_scope() {
    let name = unique("properties");
    let leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let mut machine = machine(&name, &leader);
    let properties = [
        "MemoryMax=2G",
        "TasksMax=500",
        "CPUQuota=150%",
        "KillMode=mixed",
        "TimeoutStopSec=7s",
        "Description=Something else",
        "AllowedCPUs=0",
        "MemoryHigh=50%",
        "Documentation=man:osier(1)",
        "DeviceAllow=/dev/fuse rw",
        "IOWeight=200",
        "RuntimeMaxSec=1h",
        "OOMPolicy=continue",
        "CPUWeight=300",
    ];
    machine.unit = UnitWanted::Scope {
        slice: "osiertest.slice".to_owned(),
        properties: properties.iter().map(|text| Property::parse(text).expect("a property")).collect(),
    };
    let unit = open(&mut registrar, &machine, &leader);
    let shown = said("systemctl", &["show", &unit.name]);
    for line in [
        "MemoryMax=2147483648",
        "TasksMax=500",
        "CPUQuotaPerSecUSec=1.500000s",
        "KillMode=mixed",
        "TimeoutStopUSec=7s",
        "Description=Something else",
        "Delegate=yes",
        "Slice=osiertest.slice",
        "AllowedCPUs=0",
        "CollectMode=inactive-or-failed",
        "IOWeight=200",
        "RuntimeMaxUSec=1h",
        "OOMPolicy=continue",
        "CPUWeight=300",
        "Documentation=\"man:osier(1)\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    // The leader lives: what is left in the scope goes with it.
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
    said("systemctl", &["stop", "osiertest.slice"]);
}

fn a_name_in_use() {
    let name = unique("used");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let first = machine(&name, &leader);
    let unit = open(&mut registrar, &first, &leader);
    let mut second = Registrar::start().expect("a registrar");
    assert_eq!(second.claim_unit(&name), Err(BusError::NameTaken(format!("unit {}", unit.name))));
    assert_eq!(second.claim_machine(&name), Err(BusError::NameTaken(format!("machine '{name}'"))));
    // Whoever does not ask first, or was overtaken.
    let other = Leader::start();
    let wanted = machine(&name, &other);
    assert!(matches!(second.open_unit(&wanted, other.pidfd.as_fd()), Err(BusError::NameTaken(_))));
    assert!(matches!(second.register(&wanted, other.pidfd.as_fd()), Err(BusError::NameTaken(_))));
    // What the second could not have is not the second's to take back.
    second.close().expect("close");
    assert!(machined::get(&name).expect("machined").is_some());
    assert_eq!(leader.child.try_wait().expect("the leader"), None);
    leader.end();
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

fn a_stop_request() {
    let name = unique("stop");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let unit = open(&mut registrar, &machine(&name, &leader), &leader);
    assert_eq!(registrar.event().expect("events"), None);
    // PID 1 is another peer on the bus after this, and still has its controller.
    said("systemctl", &["daemon-reexec"]);
    said("systemctl", &["stop", "--no-block", &unit.name]);
    assert_eq!(next_event(&mut registrar, Duration::from_secs(5)), Some(Event::StopRequested));
    // It is a request: the supervisor ends the machine.
    assert_eq!(leader.child.try_wait().expect("the leader"), None);
    leader.end();
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

fn a_forged_stop_request() {
    let name = unique("forged");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let unit = open(&mut registrar, &machine(&name, &leader), &leader);
    let controller = said("systemctl", &["show", "--value", "--property=Controller", &unit.name]);
    let path = "/org/freedesktop/systemd1/unit/x";
    let forge = [
        "--system",
        "--type=signal",
        &format!("--dest={}", controller.trim()),
        path,
        "org.freedesktop.systemd1.Scope.RequestStop",
    ];
    said("dbus-send", &forge);
    assert_eq!(next_event(&mut registrar, Duration::from_millis(500)), None);
    leader.end();
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

fn machinectl_terminate() {
    let name = unique("terminate");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let unit = open(&mut registrar, &machine(&name, &leader), &leader);
    said("machinectl", &["terminate", &name]);
    assert_eq!(next_event(&mut registrar, Duration::from_secs(5)), Some(Event::StopRequested));
    leader.end();
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

/// As a kept unit has it, whose leader is in a subgroup before it can be registered. Newer machineds (seen: 262,
/// not 257) then do not stop the unit, but signal the machine's supervisor, which to them is whoever registered.
fn terminate_further_down() {
    let name = unique("further");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let machine = machine(&name, &leader);
    let unit = registrar.open_unit(&machine, leader.pidfd.as_fd()).expect("a scope");
    let payload = cgroup(&unit).join("payload");
    std::fs::create_dir(&payload).expect("a subgroup");
    std::fs::write(payload.join("cgroup.procs"), machine.leader.to_string()).expect("a move");
    registrar.register(&machine, leader.pidfd.as_fd()).expect("a registration");
    assert_eq!(machined::get(&name).expect("machined").expect("the machine").unit, unit.name);
    said("machinectl", &["terminate", &name]);
    assert_eq!(next_event(&mut registrar, Duration::from_secs(5)), Some(Event::StopRequested));
    leader.end();
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

/// For `a_killed_supervisor`: a supervisor that is killed from outside.
fn supervise_until_killed(name: &str) {
    let leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let unit = open(&mut registrar, &machine(name, &leader), &leader);
    println!("{}\n{}", leader.child.id(), unit.control_group);
    loop {
        std::thread::park();
    }
}

fn a_killed_supervisor() {
    use std::io::{BufRead, BufReader};
    let name = unique("killed");
    let mut supervisor =
        again().args(["supervisor", &name]).stdout(Stdio::piped()).spawn().expect("this program");
    let mut lines = BufReader::new(supervisor.stdout.take().expect("its output")).lines();
    let leader: u32 = lines.next().expect("a line").expect("text").parse().expect("a pid");
    let control_group = lines.next().expect("a line").expect("text");
    let registered = machined::get(&name).expect("machined").expect("the machine");
    assert_eq!(registered.leader, leader);
    supervisor.kill().expect("SIGKILL");
    supervisor.wait().expect("its end");
    // The leader here outlives its supervisor; the scope takes it along.
    let unit = Unit { name: systemd::scope_name(&name), control_group };
    until("machined and PID 1 have forgotten it", || {
        machined::get(&name) == Ok(None) && systemd::has_unit(&unit.name) == Ok(false)
    });
    assert_nothing_left(&name, Some(&unit));
    let is_gone = |pid: u32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    assert!(is_gone(leader));
}

fn a_refused_property() {
    let name = unique("refused");
    let leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let mut machine = machine(&name, &leader);
    let nonsense = Property::parse("KillMode=nonsense").expect("a text");
    machine.unit = UnitWanted::Scope { slice: "machine.slice".to_owned(), properties: vec![nonsense] };
    let error = registrar.open_unit(&machine, leader.pidfd.as_fd()).expect_err("no such mode");
    assert!(matches!(&error, BusError::Refused { text, .. } if text.contains("nonsense")), "{error}");
    assert_nothing_left(&name, None);
    // The registrar goes on.
    machine.unit = UnitWanted::Scope { slice: "machine.slice".to_owned(), properties: Vec::new() };
    let unit = open(&mut registrar, &machine, &leader);
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}

fn a_dead_leader() {
    let name = unique("dead");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let machine = machine(&name, &leader);
    leader.end();
    let error = registrar.open_unit(&machine, leader.pidfd.as_fd()).expect_err("a dead leader");
    println!("{error}");
    let error = registrar.register(&machine, leader.pidfd.as_fd()).expect_err("a dead leader");
    println!("{error}");
    registrar.close().expect("close");
    assert_nothing_left(&name, None);
}

/// For `a_kept_unit`: runs as a service.
fn keep(name: &str) {
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let mut machine = machine(name, &leader);
    machine.unit = UnitWanted::Keep { properties: Vec::new() };
    let unit = open(&mut registrar, &machine, &leader);
    assert_eq!(unit.name, format!("{name}.service"));
    assert_eq!(unit.control_group, format!("/system.slice/{name}.service"));
    assert_eq!(machined::get(name).expect("machined").expect("the machine").unit, unit.name);
    leader.end();
    registrar.close().expect("close");
    assert_eq!(machined::get(name), Ok(None));
    // This unit is not the registrar's: this process lives.
    println!("kept");
}

fn a_kept_unit() {
    let name = unique("keep");
    let program = std::env::current_exe().expect("this program").display().to_string();
    let unit = format!("--unit={name}.service");
    let output =
        said("systemd-run", &["--quiet", "--wait", "--collect", "--pipe", &unit, &program, "keep", &name]);
    assert_eq!(output, "kept\n");
}

fn verbs() {
    let name = unique("verbs");
    let mut leader = Leader::start();
    let mut registrar = Registrar::start().expect("a registrar");
    let unit = open(&mut registrar, &machine(&name, &leader), &leader);
    let listed = machined::list(&|_| true).expect("machines");
    let found = listed.iter().find(|machine| machine.name == name).expect("the machine");
    assert_eq!(found.leader, leader.child.id());
    assert_eq!(found.unit, unit.name);
    assert_eq!(found.root.as_deref(), Some(Path::new("/srv/tree")));
    assert!(listed.iter().any(|machine| machine.class == "host"));
    assert_eq!(machined::get("osier-no-such-machine"), Ok(None));
    assert!(matches!(
        machined::terminate("osier-no-such-machine"),
        Err(BusError::Refused { name, .. }) if name.ends_with("NoSuchMachine")
    ));
    machined::kill(&name, machined::Whom::Leader, 15).expect("a signal");
    let status = leader.child.wait().expect("the leader's end");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
    registrar.close().expect("close");
    assert_nothing_left(&name, Some(&unit));
}
