//! Machines with users of their own, as machined and its programs see them.

use std::fs;

use crate::machine::{Machine, cgroup_of, inside, osier, said, shown, until};

/// It is a machine like any other: shell, copies, a bind, its own shutdown.
pub(crate) fn registered() {
    let mut machine = Machine::boot("users", &["-U"]);
    let name = machine.name.as_str();
    let map = fs::read_to_string(format!("/proc/{}/uid_map", machine.leader())).expect("a map");
    let map: Vec<_> = map.split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "65536"), "{map:?}");
    let first = map[1];
    assert_eq!(shown(name, "State"), "running");
    let status = said("machinectl", &["status", name]);
    assert!(status.contains(&format!("UID Shift: {first}")), "{status}");
    assert_eq!(inside(name, "systemctl is-system-running --wait").trim(), "running");
    assert_eq!(inside(name, "stat -c %u:%g / /run /var/log").trim(), "0:0\n0:0\n0:0");
    assert_eq!(said(&osier(), &["shell", name, "--", "id", "-u"]).trim(), "0");
    // A service in it has a cgroup, and what a unit of its own may use.
    let script = "id -u; cat /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/pids.max || echo none";
    let limited = inside(
        name,
        &format!(
            "systemd-run --quiet --wait --pipe -p TasksMax=7 -p DynamicUser=yes sh -c '{script}' 2>/dev/null"
        ),
    );
    let lines: Vec<_> = limited.lines().collect();
    assert!(lines[0].parse::<u32>().expect("a user ID") >= 61_184, "{limited}");
    let has_pids = cgroup_of(&machine.scope()).join("pids.max").exists();
    assert_eq!(lines[1], if has_pids { "7" } else { "none" }, "{limited}");
    let payload = cgroup_of(&machine.scope()).join("payload");
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(payload).expect("a cgroup"));
    assert_eq!(owner.to_string(), first);
    let lock = format!("/run/systemd/nspawn-uid/{first}");
    assert!(fs::exists(&lock).expect("a lock"));
    said("machinectl", &["poweroff", name]);
    assert_eq!(machine.wait(), Some(0), "{}", machine.output());
    until("the range to be free", || !fs::exists(&lock).unwrap_or(true));
}
