//! `osier boot` from outside: what an init finds (systemd's CONTAINER_INTERFACE), on the minimal tree and on Debian 13.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;

use support::machine::{Machine, osier, output, show};
use support::tree::{Tree, debian};
use support::{await_that, leftovers, unique};

fn environment(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn poweroff(machine: Machine) {
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn debian_runs_without_a_failed_unit() {
    let name = unique("debian");
    let mut command = osier(["boot", "--ephemeral"]);
    command.arg(format!("--machine={name}")).arg(debian());
    let machine = Machine::spawn(command, &name, &debian());
    machine.await_output(" login: ");
    await_that("the end of the start", || {
        let state = machine.enter(&["systemctl", "is-system-running"]);
        !matches!(String::from_utf8_lossy(&state.stdout).trim(), "starting" | "initializing" | "")
    });
    let failed = machine.sh("systemctl list-units --failed --no-legend --plain");
    assert_eq!(machine.sh("systemctl is-system-running || true"), "running", "{failed}");
    assert_eq!(failed, "");

    let leader = machine.leader();
    let environment = environment(leader);
    let uuid = environment["container_uuid"].clone();
    assert_eq!(environment["container"], "osier");
    assert_eq!(environment["NOTIFY_SOCKET"], "/run/host/notify");
    assert_eq!(machine.sh("cat /etc/machine-id"), uuid.replace('-', ""));
    assert_eq!(machine.sh("systemd-detect-virt --container"), "container-other");
    assert_eq!(machine.sh("cat /proc/1/comm"), "systemd");
    // systemd prefers what the tree's /etc/hostname says (man 5 hostname).
    let hostname = fs::read_to_string(debian().join("etc/hostname")).unwrap_or_else(|_| name.clone());
    assert_eq!(machine.sh("hostname"), hostname.trim_end());
    assert_eq!(machine.sh("systemctl show -p ControlGroup --value init.scope"), "/init.scope");
    // It manages its own subtree, from the root of its cgroup namespace.
    assert_eq!(machine.sh("grep ^0: /proc/1/cgroup"), "0::/init.scope");
    let on_host = fs::read_to_string(format!("/proc/{leader}/cgroup")).unwrap();
    assert!(on_host.contains("/payload/init.scope\n"), "{on_host}");
    assert_eq!(
        machine.sh("systemctl is-active dbus systemd-logind systemd-journald console-getty | sort -u"),
        "active"
    );
    assert!(
        machine.sh("loginctl list-users").contains("users")
            || machine.sh("loginctl list-users") == "No users."
    );
    let text = machine.sh("journalctl -b --no-pager -p err -q");
    assert_eq!(text, "", "errors in the journal");

    // ps(1), uptime(1) and the kernel agree about a machine that has just been started.
    let up: f64 = machine.sh("cut -d' ' -f1 /proc/uptime").parse().unwrap();
    assert!((0.0..120.0).contains(&up), "{up}");
    let started = machine.sh("date +%s -d \"$(ps -o lstart= -p 1)\"").parse::<f64>().unwrap();
    let now: f64 = machine.sh("date +%s").parse().unwrap();
    assert!((now - started - up).abs() < 5.0, "{now} - {started} is not {up}");
    assert!(
        machine.sh("uptime").contains("min,") || machine.sh("uptime").contains(" 0 min"),
        "{}",
        machine.sh("uptime")
    );

    machine.signal(Signal::SIGTERM);
    let (code, console, _) = machine.end();
    assert_eq!(code, 0, "{console}");
}

#[test]
fn the_first_process_gets_the_environment_of_the_interface() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["-E", "EXTRA=1", "-E", "container=other"]);
    let environment = environment(machine.leader());
    let uuid = machine.sh("cat /run/host/container-uuid");
    let host = fs::read_to_string("/etc/os-release").unwrap();
    for (key, name) in [
        ("ID", "container_host_id"),
        ("VERSION_ID", "container_host_version_id"),
        ("BUILD_ID", "container_host_build_id"),
        ("VARIANT_ID", "container_host_variant_id"),
    ] {
        let of_host = host
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'));
        assert_eq!(environment.get(name).map(String::as_str), of_host, "{name}");
    }
    let expected = [
        ("container", "other"),
        ("container_uuid", uuid.as_str()),
        ("NOTIFY_SOCKET", "/run/host/notify"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("EXTRA", "1"),
    ];
    for (key, value) in expected {
        assert_eq!(environment.get(key).map(String::as_str), Some(value), "{key}");
    }
    let others = environment.keys().filter(|key| !key.starts_with("container_host_"));
    assert_eq!(others.count(), expected.len(), "{environment:?}");
    poweroff(machine);
}

#[test]
fn run_host_is_as_the_interface_says() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let listed =
        machine.sh("cd /run/host; for f in * inaccessible/*; do stat -c '%n %F %a %u %g %t %T' $f; done");
    let expected = "boot-id regular file 444 0 0 0 0\n\
        container-manager regular file 444 0 0 0 0\n\
        container-uuid regular file 444 0 0 0 0\n\
        inaccessible directory 755 0 0 0 0\n\
        incoming directory 755 0 0 0 0\n\
        notify socket 666 0 0 0 0\n\
        os-release regular file 444 0 0 0 0\n\
        inaccessible/blk block special file 0 0 0 0 0\n\
        inaccessible/chr character special file 0 0 0 0 0\n\
        inaccessible/dir directory 0 0 0 0 0\n\
        inaccessible/fifo fifo 0 0 0 0 0\n\
        inaccessible/reg regular empty file 0 0 0 0 0\n\
        inaccessible/sock socket 0 0 0 0 0";
    assert_eq!(listed, expected);
    assert_eq!(machine.sh("cat /run/host/container-manager"), "osier");
    assert_eq!(
        machine.sh("cat /run/host/os-release"),
        fs::read_to_string("/etc/os-release").unwrap().trim_end()
    );
    assert_eq!(
        machine.sh("touch /run/host/x /run/host/inaccessible/x 2>&1 | grep -c 'Read-only file system'"),
        "2"
    );
    // What the host mounts for `machinectl bind` arrives, and nobody else's does.
    assert_eq!(machine.sh("ls -A /run/host/incoming"), "");
    assert_eq!(machine.sh("echo $container_uuid"), "", "nsenter has an environment of its own");
    poweroff(machine);
}

#[test]
fn dev_has_the_allowed_nodes_and_ptys_of_its_own() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let nodes = "cd /dev; find . -type c ! -path './pts/*' ! -path ./console | sort | while read f; do stat -c '%n %t:%T %a' $f; done";
    let expected = "./full 1:7 666\n./fuse a:e5 666\n./net/tun a:c8 666\n./null 1:3 666\n./random 1:8 666\n./tty 5:0 666\n\
        ./urandom 1:9 666\n./zero 1:5 666";
    assert_eq!(machine.sh(nodes), expected);
    assert_eq!(machine.sh("find /dev -type b"), "");
    let links = "cd /dev; for l in core fd ptmx stderr stdin stdout; do readlink $l; done";
    assert_eq!(
        machine.sh(links),
        "/proc/kcore\n/proc/self/fd\npts/ptmx\n/proc/self/fd/2\n/proc/self/fd/0\n/proc/self/fd/1"
    );
    // A pty, and the payload's controlling terminal; on the host's devpts there is nothing new of it.
    assert_eq!(machine.sh("stat -c '%t %F' /dev/console"), "88 character special file");
    assert_eq!(machine.sh("for fd in 0 1 2; do readlink /proc/1/fd/$fd; done | sort -u"), "/dev/console");
    assert_eq!(machine.sh("ls /dev/pts"), "0\nptmx");
    // The controlling terminal, which the init gave to its shell.
    let controlling = machine.sh("cat /proc/[0-9]*/stat 2>/dev/null | cut -d' ' -f7 | sort -u");
    assert!(controlling.lines().any(|number| number == (136 << 8).to_string()), "{controlling}");
    assert_eq!(machine.sh("stat -c '%a %g' /dev/pts/0"), "620 5");
    assert_eq!(
        machine
            .sh("echo works > /dev/null; head -c 3 /dev/zero | wc -c; echo x > /dev/full || echo full")
            .lines()
            .count(),
        2
    );
    let device = |path: &str| machine.sh(&format!("stat -c %d {path}"));
    assert_ne!(device("/dev/pts"), fs::metadata("/dev/pts").unwrap().dev().to_string());
    poweroff(machine);
}

#[test]
fn proc_and_sys_show_little_and_take_nothing() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    // A host's kernel may lack any of these; those that are there are empty and cannot be written to.
    let masked = "for f in kallsyms kcore keys kmsg latency_stats sched_debug sysrq-trigger timer_list; do \
        [ -e /proc/$f ] || continue; echo $f; [ -z \"$(cat /proc/$f)\" ] || echo $f can be read; \
        (echo x > /proc/$f) 2>/dev/null && echo $f can be written; done; :";
    let masked = machine.sh(masked);
    assert!(masked.contains("kmsg") && !masked.contains(" can "), "{masked}");
    assert_eq!(machine.sh("ls -A /sys/firmware 2>/dev/null | wc -l"), "0");
    let writes = "for f in sys/kernel/hostname sys/vm/swappiness sys/kernel/sysrq irq/default_smp_affinity; do \
        [ -e /proc/$f ] && (echo 1 > /proc/$f) 2>&1; done; (echo 1 > /sys/kernel/mm/ksm/run) 2>&1; touch /sys/x 2>&1; :";
    let refused = machine.sh(writes);
    let lines: Vec<_> = refused.lines().filter(|line| !line.contains("nonexistent directory")).collect();
    assert!(
        lines.len() >= 4 && lines.iter().all(|line| line.ends_with("Read-only file system")),
        "{refused}"
    );
    for path in ["/proc/acpi", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/asound"] {
        if Path::new(path).exists() {
            assert!(machine.sh(&format!("grep ' {path} ' /proc/mounts")).contains(" ro,"), "{path}");
        }
    }
    // With a network of its own it can set up its network.
    assert_eq!(machine.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; cat /proc/sys/net/ipv4/ip_forward"), "1");
    poweroff(machine);

    let machine = Machine::minimal(&tree, &["--api-vfs=ro"]);
    let refused = machine.sh("(echo 1 > /proc/sys/net/ipv4/ip_forward) 2>&1 || :");
    assert!(refused.ends_with("Read-only file system"), "{refused}");
    poweroff(machine);
    let machine = Machine::minimal(&tree, &["--api-vfs=rw"]);
    machine.sh("echo inside > /proc/sys/kernel/hostname");
    assert!(machine.sh("grep ' /sys ' /proc/mounts").contains(" rw,"));
    poweroff(machine);
}

#[test]
fn every_boot_has_a_boot_id_of_its_own() {
    let tree = Tree::minimal();
    let mut seen = BTreeSet::from([fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap()
        .trim_end()
        .to_owned()]);
    for _ in 0..2 {
        let machine = Machine::minimal(&tree, &[]);
        let id = machine.sh("cat /proc/sys/kernel/random/boot_id");
        assert_eq!(id, machine.sh("cat /proc/sys/kernel/random/boot_id"));
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
        assert!(seen.insert(id.clone()), "{id} again");
        let fresh = machine.sh("cat /proc/sys/kernel/random/uuid");
        assert_ne!(fresh, id);
        poweroff(machine);
    }
}

#[test]
fn tmpfs_has_limits_and_mounts_are_shared() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let memory = rustix::system::sysinfo().totalram >> 10;
    for (path, percent, mode) in [("/run", 20, "755"), ("/tmp", 10, "1777"), ("/dev/shm", 10, "1777")] {
        let options = machine.sh(&format!("grep ' {path} ' /proc/mounts | cut -d' ' -f3,4"));
        let size: u64 = options.split("size=").nth(1).unwrap().split('k').next().unwrap().parse().unwrap();
        assert!(size.abs_diff(memory * percent / 100) < memory / 100, "{path}: {options} of {memory}k");
        assert!(
            options.starts_with("tmpfs rw,nosuid,nodev,") && options.contains("nr_inodes="),
            "{path}: {options}"
        );
        assert_eq!(machine.sh(&format!("stat -c %a {path}")), mode, "{path}");
    }
    let mounts = machine.sh("cat /proc/self/mountinfo");
    assert!(mounts.lines().all(|line| line.contains(" shared:")), "{mounts}");
    // What it mounts stays inside.
    machine.sh("mkdir /root/m && mount -t tmpfs inside /root/m");
    let of_host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!of_host.contains(&*tree.path().to_string_lossy()), "{of_host}");
    poweroff(machine);
}

#[test]
fn the_root_of_its_cgroups_is_the_payloads() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let leader = machine.leader();
    let shown = machine.show();
    let directory = Path::new(shown["cgroup"].as_str().unwrap());
    assert!(directory.join("payload").is_dir(), "{directory:?}");
    assert_eq!(machine.sh("grep ^0: /proc/1/cgroup"), "0::/");
    let relative = directory.strip_prefix(leftovers::cgroup2()).unwrap();
    let on_host = fs::read_to_string(format!("/proc/{leader}/cgroup")).unwrap();
    assert!(on_host.contains(&format!("0::/{}/payload\n", relative.display())), "{on_host}");
    assert!(
        machine.sh("grep ' /sys/fs/cgroup ' /proc/mounts").starts_with("cgroup2 /sys/fs/cgroup cgroup2 rw,")
    );
    // The same directory, with the same controllers; and it is the machine's to divide.
    let controllers = fs::read_to_string(directory.join("payload/cgroup.controllers")).unwrap();
    assert_eq!(machine.sh("cat /sys/fs/cgroup/cgroup.controllers"), controllers.trim_end());
    machine.sh("mkdir -p /sys/fs/cgroup/a/b && echo 1 > /sys/fs/cgroup/a/cgroup.procs");
    assert!(directory.join("payload/a/b").is_dir());
    assert_eq!(machine.sh("grep ^0: /proc/1/cgroup"), "0::/a");
    poweroff(machine);
}

#[test]
fn its_namespaces_are_its_own() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &[]);
    let shown = machine.show();
    for kind in ["pid", "mnt", "uts", "ipc", "net", "cgroup", "time", "user"] {
        let of = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino();
        let inside = of(&machine.leader().to_string());
        assert_eq!(inside == of("self"), kind == "user", "{kind}");
        assert_eq!(shown["namespaces"][kind].as_u64(), Some(inside), "{kind}");
    }
    // The supervisor stays on the host's side.
    for kind in ["pid", "mnt", "uts", "net", "cgroup"] {
        let of = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}")).unwrap().ino();
        assert_eq!(of(&machine.supervisor().to_string()), of("self"), "{kind}");
    }
    assert_eq!(machine.sh("hostname"), tree.name());
    assert_eq!(machine.sh("cat /proc/self/timens_offsets | wc -l"), "2");
    poweroff(machine);
}

#[test]
fn capabilities_are_nspawns_and_what_was_said() {
    /// systemd-nspawn(1): 26, by number.
    const NSPAWN: [u8; 26] =
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 18, 19, 21, 22, 23, 24, 26, 27, 28, 29, 30, 31];
    let of_host = bounding(&fs::read_to_string("/proc/self/status").unwrap());
    let of = |numbers: &[u8]| numbers.iter().fold(0u64, |bits, number| bits | 1 << number);
    let tree = Tree::minimal();
    for (options, expected) in [
        (&[][..], of(&NSPAWN) | of(&[12])),
        (&["--network=host"], of(&NSPAWN)),
        (
            &["--capability=CAP_SYS_TIME", "--drop-capability=CAP_MKNOD,net_raw"],
            of(&NSPAWN) & !of(&[27, 13]) | of(&[12, 25]),
        ),
        (&["--capability=all"], u64::MAX),
    ] {
        let machine = Machine::minimal(&tree, options);
        let status = fs::read_to_string(format!("/proc/{}/status", machine.leader())).unwrap();
        assert_eq!(bounding(&status), expected & of_host, "{options:?}");
        assert!(
            status.contains("CapAmb:\t0000000000000000") && status.contains("CapInh:\t0000000000000000"),
            "{status}"
        );
        poweroff(machine);
    }
}

fn bounding(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    u64::from_str_radix(line, 16).unwrap()
}

#[test]
fn the_machine_id_is_the_trees_or_what_was_said_or_random() {
    let tree = Tree::minimal();
    let id = "0123456789abcdef0123456789abcdef";
    let given = "fedcba9876543210fedcba9876543210";
    for (file, options, expected) in [
        (Some(id), &[][..], Some(id)),
        (Some(id), &["--uuid=fedcba9876543210fedcba9876543210"], Some(given)),
        (Some("uninitialized"), &["--uuid=fedcba98-7654-3210-fedc-ba9876543210"], Some(given)),
        (Some(""), &[], None),
        (Some("00000000000000000000000000000000"), &[], None),
        (None, &[], None),
    ] {
        match file {
            Some(text) => drop(tree.file("etc/machine-id", format!("{text}\n"))),
            None => fs::remove_file(tree.path().join("etc/machine-id")).unwrap(),
        }
        let machine = Machine::minimal(&tree, options);
        let shown = machine.show()["id"].as_str().unwrap().to_owned();
        assert_eq!(environment(machine.leader())["container_uuid"].replace('-', ""), shown);
        match expected {
            Some(expected) => assert_eq!(shown, expected),
            None => assert!(shown.len() == 32 && shown != id && !shown.starts_with("00000000"), "{shown}"),
        }
        poweroff(machine);
    }
}

#[test]
fn the_link_has_nspawns_names_and_addresses() {
    let short = Tree::minimal();
    let name = format!("w{}", std::process::id());
    let machine = Machine::minimal(&short, &[&format!("--machine={name}")]);
    let read = |path: &Path, file: &str| fs::read_to_string(path.join(file)).unwrap().trim_end().to_owned();
    let veth =
        osier::net::Veth::plan(&name.parse().unwrap(), osier::ids::MachineId::host().unwrap().as_ref());
    let host = leftovers::link(&name);
    assert_eq!(host, Path::new(&format!("/sys/class/net/ve-{name}")));
    assert_eq!(machine.show()["links"], serde_json::json!([format!("ve-{name}")]));
    let inside = machine.sh("ip -o link show host0");
    if let (Some(of_host), Some(of_peer)) = (veth.host.mac, veth.peer.mac) {
        assert_eq!(read(&host, "address"), of_host.to_string());
        assert!(inside.contains(&of_peer.to_string()), "{inside}");
    }
    assert_eq!(machine.sh("ls /sys/class/net | tr '\\n' ' '"), "host0 lo");
    let flags = u32::from_str_radix(read(&host, "flags").trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "the host's end is up");
    // Frames pass: a link-local address of the machine answers.
    machine.sh("ip link set host0 up");
    await_that("the carrier", || read(&host, "operstate") == "up");
    poweroff(machine);

    let long = unique("a-name-that-does-not-fit-in-fifteen");
    let machine = Machine::minimal(&short, &[&format!("--machine={long}")]);
    let link = leftovers::link(&long);
    let link_name = link.file_name().unwrap().to_str().unwrap();
    assert!(link_name.len() == 15 && link_name.starts_with("ve-t-a-name"), "{link_name}");
    assert!(link.exists());
    assert!(
        Path::new("/sys/class/net").read_dir().unwrap().flatten().any(|entry| entry.file_name() == link_name)
    );
    poweroff(machine);
    assert!(!link.exists());

    let machine = Machine::minimal(&short, &["--network=none"]);
    assert_eq!(machine.sh("ls /sys/class/net"), "lo");
    assert_eq!(machine.show()["links"], serde_json::json!([]));
    poweroff(machine);
    let machine = Machine::minimal(&short, &["--network=host"]);
    let own: BTreeSet<_> =
        fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(own.contains(std::ffi::OsStr::new("lo")));
    assert_eq!(
        machine.sh("readlink /proc/1/ns/net"),
        fs::read_link("/proc/self/ns/net").unwrap().display().to_string()
    );
    poweroff(machine);
}

#[test]
fn the_reading_verbs_know_a_machine_as_long_as_it_is_there() {
    let tree = Tree::minimal();
    assert_eq!(show(tree.name()), None);
    let machine = Machine::minimal(&tree, &[]);
    let name = tree.name();
    let shown = machine.show();
    assert_eq!(shown["name"], name);
    assert_eq!(shown["root"], tree.path().to_str().unwrap());
    assert_eq!(shown["supervisor"], machine.supervisor());
    assert_eq!(shown["os"], "osier minimal (busybox)");
    assert_eq!(shown["verb"], "boot");
    for key in ["unit", "cgroup", "namespaces", "clocks", "started", "leader"] {
        assert!(shown.get(key).is_some(), "{key} is not in {shown}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    assert!(now - u128::from(shown["started"].as_u64().unwrap()) < 60_000_000);
    let stdout = |arguments: &[&str]| {
        let output = output(&mut osier(arguments));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(
        stdout(&["list"])
            .lines()
            .any(|line| line.starts_with(&format!("{name} ")) && line.contains(" container osier "))
    );
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout(&["list", "--json"])).unwrap();
    assert!(rows.iter().any(|row| row["name"] == name && row["leader"] == machine.leader()));
    let status = stdout(&["status", name]);
    assert!(
        status.contains(&format!("Leader: {}", machine.leader())) && status.contains("└─payload")
            || status.contains("payload"),
        "{status}"
    );
    assert_eq!(stdout(&["show", name, "--property=Leader", "--value"]).trim(), machine.leader().to_string());

    assert_eq!(stdout(&["terminate", name]), "");
    leftovers::assert_none(name, &tree.path());
    assert_eq!(machine.end().0, 137);
    assert_eq!(show(name), None);
    let output = output(&mut osier(["terminate", name]));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn check_says_that_machines_can_run_here() {
    let output = output(&mut osier(["check"]));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.ends_with("\nMachines can run here.\n"), "{text}");
}
