//! Launch plans as text, for hosts and trees that are not this one: tests/golden/NAME.txt. `UPDATE=1 cargo test --test plan`
//! writes the files anew; what changed is then in the diff. Needs no root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

use std::fs;
use std::path::{Path, PathBuf};

use osier::cgroup::limits::Key;
use osier::clock::{Now, Offsets};
use osier::console::Terminals;
use osier::error::{Error, Kind};
use osier::host::{First, HostFacts};
use osier::idrange::IdRange;
use osier::image::{FoundInit, Init};
use osier::plan::LaunchPlan;
use osier::settings::{LimitSetting, Setting, Settings};
use osier::spec::{Facts, MachineSpec, Ownership, Users};

const HOUR: i64 = 3_600_000_000_000;

fn host() -> HostFacts {
    HostFacts {
        cgroup2: Some("/sys/fs/cgroup".into()),
        own_cgroup: "system.slice/osier@web.service/supervisor".into(),
        delegated: Some("system.slice/osier@web.service".into()),
        controllers: ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"].map(str::to_owned).to_vec(),
        controllers_v1: Vec::new(),
        cpus: "0-7".to_owned(),
        mems: "0".to_owned(),
        first: First::Systemd,
        time_namespaces: true,
        user_namespaces: true,
        memory: 8 << 30,
        machine_id: Some("0123456789abcdef0123456789abcdef".parse().unwrap()),
        now: Now { monotonic: 10 * HOUR, boottime: 12 * HOUR, own: Offsets::default() },
        os_release: "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"13\"\n".to_owned(),
        term: Some("xterm-256color".to_owned()),
        uid: 0,
    }
}

/// A host as CI's: no systemd, cgroup2 beside version 1.
fn hybrid() -> HostFacts {
    HostFacts {
        cgroup2: Some("/sys/fs/cgroup/unified".into()),
        own_cgroup: PathBuf::new(),
        delegated: None,
        controllers: vec!["hugetlb".to_owned()],
        controllers_v1: ["cpu", "memory", "io", "freezer"].map(str::to_owned).to_vec(),
        first: First::Other,
        machine_id: None,
        os_release: String::new(),
        term: None,
        ..host()
    }
}

fn tree(init: Option<&str>) -> Facts {
    Facts {
        tree: "/var/lib/machines/web".into(),
        name: "web".to_owned(),
        os: Some("Debian GNU/Linux 13 (trixie)".to_owned()),
        init: init.map(|path| FoundInit { path: path.into(), init: Init::Systemd }),
        machine_id: Some("fedcba9876543210fedcba9876543210".parse().unwrap()),
        owner: 0,
        random_id: "11111111111141118111111111111111".parse().unwrap(),
        terminals: Terminals { stdin: false, stdout: false },
    }
}

fn flag(flag: &'static str, text: &str) -> Option<Setting> {
    Some(Setting::flag(flag, text))
}

fn flags(name: &'static str, texts: &[&str]) -> Vec<Setting> {
    texts.iter().map(|text| Setting::flag(name, *text)).collect()
}

fn limit(key: Key, flag: &'static str, text: &str) -> LimitSetting {
    LimitSetting { key, setting: Setting::flag(flag, text) }
}

fn resolve(settings: &Settings, facts: &Facts, host: &HostFacts) -> Result<LaunchPlan, Error> {
    LaunchPlan::resolve(&MachineSpec::resolve(settings, facts)?, host)
}

#[track_caller]
fn assert_golden(name: &str, plan: &Result<LaunchPlan, Error>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    let text = plan.as_ref().unwrap().to_string();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    for (at, (found, wanted)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, wanted, "{}:{}; if that is meant: UPDATE=1", path.display(), at + 1);
    }
    assert_eq!(text, expected, "{}; if that is meant: UPDATE=1", path.display());
}

#[test]
fn a_boot_by_default() {
    let init = tree(Some("/usr/lib/systemd/systemd"));
    assert_golden("boot", &resolve(&Settings::default(), &init, &host()));
    assert_golden("boot-hybrid", &resolve(&Settings::default(), &init, &hybrid()));
    let terminals = Terminals { stdin: true, stdout: true };
    assert_golden("boot-terminal", &resolve(&Settings::default(), &Facts { terminals, ..init }, &host()));
}

#[test]
fn each_init_is_asked_in_its_own_way() {
    let asked = |kind, settings: &Settings| {
        let facts = Facts { init: Some(FoundInit { path: "/sbin/init".into(), init: kind }), ..tree(None) };
        let ways = resolve(settings, &facts, &host()).unwrap().ways;
        [ways.stop, ways.power_off, ways.reboot].map(|way| way.to_string()).join(", ")
    };
    let default = Settings::default();
    assert_eq!(asked(Init::SysV, &default), "telinit 0, telinit 0, telinit 6");
    assert_eq!(asked(Init::BusyBox, &default), "SIGUSR1, SIGUSR2, SIGTERM");
    // One that nobody knows is taken to be as systemd.
    assert_eq!(asked(Init::Other, &default), "SIGRTMIN+3, SIGRTMIN+4, SIGRTMIN+5");
    let said = Settings { kill_signal: flag("--kill-signal", "SIGPWR"), ..Settings::default() };
    assert_eq!(asked(Init::SysV, &said), "SIGPWR, telinit 0, telinit 6");
}

#[test]
fn users_of_its_own() {
    let users = |text: &str| flag("--private-users", text);
    let settings = Settings {
        private_users: users("700000:1000"),
        read_only: flag("--read-only", "yes"),
        bind: flags("--bind", &["/etc:/host/etc:idmap", "/usr:/host/usr:rootidmap,norbind"]),
        arguments: vec!["/bin/true".into()],
        ..Settings::default()
    };
    assert_golden("run-users", &resolve(&settings, &tree(None), &host()));
    let picked = Settings { private_users: users("pick"), ..settings.clone() };
    let mut spec = MachineSpec::resolve(&picked, &tree(None)).unwrap();
    let error = LaunchPlan::resolve(&spec, &host()).unwrap_err();
    assert!(error.to_string().contains("no range of user IDs is free"), "{error}");
    let Users::Picked(range, Ownership::Auto) = &mut spec.users else { panic!("{:?}", spec.users) };
    *range = Some(IdRange::new(524_288, 65_536).unwrap());
    spec.root.owners = Ownership::Mapped;
    let map = LaunchPlan::resolve(&spec, &host()).unwrap().id_map;
    assert_eq!(map.to_string(), "0 is the host's 524288, 65536 IDs; the tree's files are mapped alike");
    let without = HostFacts { user_namespaces: false, ..host() };
    let error = LaunchPlan::resolve(&spec, &without).unwrap_err();
    assert!(error.to_string().contains("this kernel has no user namespaces"), "{error}");
    let facts = Facts { owner: 655_360, ..tree(None) };
    let of_tree = Settings { private_users: users("yes"), ..settings.clone() };
    assert_eq!(resolve(&of_tree, &facts, &host()).unwrap().id_map.root(), 655_360);
    let saved = Settings {
        checkpointable: flag("--checkpointable", "yes"),
        bind: Vec::new(),
        network: flags("--network", &["none"]),
        console: flag("--console", "read-only"),
        ..settings
    };
    let error = resolve(&saved, &tree(None), &host()).unwrap_err();
    assert!(error.to_string().contains("a machine with users of its own cannot be saved"), "{error}");
}

#[test]
fn a_run_by_default() {
    let settings = Settings { arguments: vec!["/bin/true".into()], ..Settings::default() };
    assert_golden("run", &resolve(&settings, &tree(None), &host()));
}

#[test]
fn a_boot_with_everything() {
    let settings = Settings {
        machine: flag("--machine", "mail"),
        uuid: flag("--uuid", "22222222-2222-4222-8222-222222222222"),
        hostname: flag("--hostname", "mail.example"),
        setenv: flags("--setenv", &["A=1", "TERM=dumb", "A=2"]),
        kill_signal: flag("--kill-signal", "SIGRTMIN+4"),
        notify_ready: flag("--notify-ready", "yes"),
        ephemeral: flag("--ephemeral", "yes"),
        read_only: flag("--read-only", "yes"),
        bind: flags("--bind", &["/etc:/a/b/c", "/usr:/a:norbind"]),
        bind_ro: flags("--bind-ro", &["/etc"]),
        tmpfs: flags("--tmpfs", &["/var/tmp:size=10%"]),
        inaccessible: flags("--inaccessible", &["/boot"]),
        uptime: flag("--uptime", "3d"),
        clock_monotonic: flag("--clock-monotonic", "-1h"),
        network: flags("--network", &["veth"]),
        console: flag("--console", "passive"),
        register: flag("--register", "yes"),
        slice: flag("--slice", "machine-mail.slice"),
        property: flags("--property", &["Description=mail"]),
        limits: vec![
            limit(Key::MemoryMax, "--memory", "50%"),
            limit(Key::Cpus, "--cpus", "1.5"),
            limit(Key::PidsMax, "--tasks", "500"),
            limit(Key::IoMax, "--io", "8:0 rbps=1M wiops=100"),
            limit(Key::CpusetCpus, "--cpuset", "0-1"),
        ],
        capability: flags("--capability", &["CAP_SYS_TIME"]),
        drop_capability: flags("--drop-capability", &["CAP_MKNOD,CAP_NET_ADMIN"]),
        api_vfs: flag("--api-vfs", "ro"),
        arguments: vec!["single".into()],
        ..Settings::default()
    };
    assert_golden("boot-everything", &resolve(&settings, &tree(Some("/sbin/init")), &host()));
}

#[test]
fn a_machine_that_can_be_saved() {
    let settings = Settings {
        tmpfs: flags("--tmpfs", &["/var/tmp"]),
        checkpointable: flag("--checkpointable", "yes"),
        ..Settings::default()
    };
    assert_golden("boot-checkpointable", &resolve(&settings, &tree(Some("/sbin/init")), &hybrid()));
    // Another init is told nothing.
    let other = Facts {
        init: Some(FoundInit { path: "/sbin/init".into(), init: Init::SysV }),
        ..tree(Some("/sbin/init"))
    };
    let plan = resolve(&settings, &other, &hybrid()).unwrap().to_string();
    assert!(plan.contains("\nrefused calls ") && !plan.contains("/run/systemd/system"), "{plan}");
    let off = Settings { checkpointable: flag("--checkpointable", "no"), ..Settings::default() };
    let plan = resolve(&off, &tree(Some("/sbin/init")), &hybrid()).unwrap().to_string();
    assert!(plan.contains("/run/host/incoming") && !plan.contains("refused calls"), "{plan}");
}

#[test]
fn what_cannot_be_saved_is_refused_before_a_machine_has_it() {
    let able = || Settings { checkpointable: flag("--checkpointable", "yes"), ..Settings::default() };
    for (settings, parts) in [
        (
            Settings { ephemeral: flag("--ephemeral", "yes"), ..able() },
            ["--checkpointable: the throw-away layer of --ephemeral", "osier image clone"],
        ),
        (
            Settings { network: flags("--network", &["host"]), ..able() },
            ["--checkpointable: connections of the host's network", "--network=veth"],
        ),
        (
            Settings { console: flag("--console", "pipe"), ..able() },
            ["--checkpointable: the caller's own streams", "--console=read-only"],
        ),
        (
            Settings { bind_ro: flags("--bind-ro", &["/etc:/a/b"]), ..able() },
            ["--checkpointable: '/a/b' is the host's", "osier copy-to"],
        ),
    ] {
        assert_refused(&settings, &host(), Kind::Usage, &parts);
    }
    let without = HostFacts { time_namespaces: false, ..host() };
    let settings = Settings { clock: flag("--clock", "host"), ..able() };
    assert_refused(
        &settings,
        &without,
        Kind::Unsupported,
        &["cannot make a machine that can be saved", "CONFIG_TIME_NS"],
    );
}

#[test]
fn a_run_with_everything() {
    let settings = Settings {
        uid: flag("--uid", "www-data"),
        chdir: flag("--chdir", "/srv"),
        process_two: flag("--as-pid2", "yes"),
        network: flags("--private-network", &["none"]),
        clock: flag("--clock", "zero"),
        console: flag("--console", "pipe"),
        register: flag("--register", "no"),
        keep_unit: flag("--keep-unit", "yes"),
        limits: vec![limit(Key::PidsMax, "--tasks", "max")],
        api_vfs: flag("--api-vfs", "rw"),
        arguments: vec!["sh".into(), "-c".into(), "exit 3".into()],
        ..Settings::default()
    };
    assert_golden("run-everything", &resolve(&settings, &tree(None), &host()));
}

#[track_caller]
fn assert_refused(settings: &Settings, host: &HostFacts, kind: Kind, parts: &[&str]) {
    let error = resolve(settings, &tree(Some("/sbin/init")), host).expect_err("it is refused");
    let text = format!("{error}\nhint: {}", error.hint_text().unwrap_or_default());
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is not in: {text}");
    }
}

#[test]
fn a_host_without_time_namespaces_can_boot_with_its_own_clocks() {
    let host = HostFacts { time_namespaces: false, ..host() };
    let parts =
        ["cannot give the machine clocks of its own: this kernel has no time namespaces", "--clock=host"];
    assert_refused(&Settings::default(), &host, Kind::Unsupported, &parts);
    let uptime = Settings { uptime: flag("--uptime", "1h"), ..Settings::default() };
    assert_refused(&uptime, &host, Kind::Unsupported, &parts);
    let one = Settings {
        clock: flag("--clock", "host"),
        clock_boottime: flag("--clock-boottime", "1s"),
        ..Settings::default()
    };
    assert_refused(&one, &host, Kind::Unsupported, &parts);
    let as_host = Settings { clock: flag("--clock", "host"), ..Settings::default() };
    let plan = resolve(&as_host, &tree(Some("/sbin/init")), &host).unwrap();
    assert_eq!(plan.namespaces.to_string(), "pid mnt uts ipc net cgroup");
    assert_eq!(plan.clocks, host.now.own);
    // A command keeps the host's clocks unless it is told otherwise.
    let command = Settings { arguments: vec!["true".into()], ..Settings::default() };
    assert!(resolve(&command, &tree(None), &host).is_ok());
}

#[test]
fn clocks_that_go_on_are_in_the_plan_with_their_file() {
    let settings = Settings {
        clock: flag("--clock", "continue"),
        uptime: flag("--uptime", "1h"),
        ..Settings::default()
    };
    let facts = tree(Some("/sbin/init"));
    let mut spec = MachineSpec::resolve(&settings, &facts).unwrap();
    let beside = facts
        .tree
        .with_file_name(format!(".#{}.osier-clocks.json", facts.tree.file_name().unwrap().display()));
    let shown = |spec: &MachineSpec| LaunchPlan::resolve(spec, &host()).unwrap().to_string();
    let line = |from: &str| format!("\nclocks        go on from {from}, kept in {}\n", beside.display());
    let text = shown(&spec);
    assert!(text.contains(&line("1h (monotonic) and 1h (boottime)")), "{text}");
    spec.clocks.go_on(Some((5, 7_000_000_000)));
    let text = shown(&spec);
    assert!(text.contains(&line("5ns (monotonic) and 7s (boottime)")), "{text}");
    assert!(text.contains("\nmonotonic     host -"), "{text}");
    let old = (osier::clock::MAX + 1, 0);
    spec.clocks.go_on(Some(old));
    let refused = LaunchPlan::resolve(&spec, &host()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Failed);
    assert!(
        refused.to_string().starts_with(&format!("cannot continue the clocks in '{}'", beside.display()))
    );
}

#[test]
fn what_a_host_cannot_do_is_said_before_anything_is_done() {
    let nobody = HostFacts { uid: 1000, ..host() };
    assert_refused(&Settings::default(), &nobody, Kind::Permission, &["must be root", "sudo"]);
    let without = HostFacts { cgroup2: None, ..host() };
    assert_refused(&Settings::default(), &without, Kind::Unsupported, &["cgroup2", "mount -t cgroup2"]);
    let limited = Settings { property: flags("--property", &["MemoryMax=1G"]), ..Settings::default() };
    let parts = ["cannot set 'MemoryMax' for the machine's scope: systemd is not PID 1"];
    assert_refused(&limited, &hybrid(), Kind::Unsupported, &parts);
    let keep = Settings { keep_unit: flag("--keep-unit", "yes"), ..Settings::default() };
    let session = HostFacts { delegated: None, ..host() };
    assert_refused(&keep, &session, Kind::Unsupported, &["systemd has not delegated its cgroup"]);
    let early = Settings { clock_monotonic: flag("--clock-monotonic", "-11h"), ..Settings::default() };
    let parts = ["the monotonic clock cannot be set off by -11h; it can be between -10h and +"];
    assert_refused(&early, &host(), Kind::Usage, &parts);
}

#[test]
fn a_limit_needs_its_controller_and_a_value_in_its_range() {
    let limited = |key, flag, text| Settings { limits: vec![limit(key, flag, text)], ..Settings::default() };
    let memory = limited(Key::MemoryMax, "--memory", "1G");
    let parts = [
        "cannot set memory.max: cgroup2 at /sys/fs/cgroup/unified has no memory controller",
        "version 1 of cgroups has it",
        "hint: boot the host with cgroup_no_v1=all",
    ];
    assert_refused(&memory, &hybrid(), Kind::Unsupported, &parts);
    let cpus = limited(Key::CpusetCpus, "--cpuset", "0");
    let parts = [
        "cannot set cpuset.cpus: cgroup2 at /sys/fs/cgroup/unified has no cpuset controller",
        "cgroup_disable=",
    ];
    assert_refused(&cpus, &hybrid(), Kind::Unsupported, &parts);
    let low = limited(Key::MemoryMax, "--memory", "1");
    assert_refused(&low, &host(), Kind::Usage, &["--memory=1: '1' is out of range: 4K to"]);

    // A host without systemd whose cgroup2 has all of them.
    let pure = HostFacts { controllers: host().controllers, ..hybrid() };
    let init = tree(Some("/sbin/init"));
    let plan = resolve(&memory, &init, &pure).unwrap();
    assert!(plan.to_string().contains("\nlimit         memory.max=1G\n"), "{plan}");
    assert!(plan.limits.properties().is_empty(), "osier writes it");
    let plan = resolve(&memory, &init, &host()).unwrap();
    assert_eq!(plan.limits.properties().len(), 1, "PID 1 is told");
    let all = limited(Key::CpusetCpus, "--cpuset", "all");
    let plan = resolve(&all, &init, &host()).unwrap();
    assert!(plan.to_string().contains("\nlimit         cpuset.cpus=0-7\n"), "{plan}");
    let keep = Settings { keep_unit: flag("--keep-unit", "yes"), ..memory };
    assert!(resolve(&keep, &init, &HostFacts { own_cgroup: "osier".into(), ..pure.clone() }).is_ok());
    assert_refused(&keep, &pure, Kind::Unsupported, &["in the root of cgroup2", "leave out --keep-unit"]);
}
