//! The scope that PID 1 makes for a machine.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::machine::{
    Machine, cgroup_of, inside, listed, osier, refused, said, scope_of, tree, tried, unique, unit,
};

fn words(path: impl AsRef<std::path::Path>) -> Vec<String> {
    fs::read_to_string(path).expect("a file of cgroup2").split_whitespace().map(str::to_owned).collect()
}

pub(crate) fn stopped() {
    let machine = Machine::boot("stop", &[]);
    let scope = machine.scope();
    let status = said("systemctl", &["status", "--no-pager", &scope]);
    for part in ["active (running)", "└─payload", "/usr/lib/systemd/systemd"] {
        assert!(status.contains(part), "no '{part}': {status}");
    }
    said("systemctl", &["stop", &scope]);
    let end = machine.end();
    assert_eq!(end.code, Some(0), "{}", end.output);
    assert!(end.output.contains("halt.target"), "{}", end.output);
}

/// systemd's CGROUP_DELEGATION: the payload's directory is the machine's, nothing above is touched, and every controller
/// that the scope was given can be used inside.
pub(crate) fn delegated() {
    let above =
        ["/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/machine.slice/cgroup.subtree_control"];
    let machine = Machine::boot("delegated", &[]);
    let scope = cgroup_of(&machine.scope());
    assert_eq!(words(scope.join("cgroup.procs")), [""; 0]);
    let payload = scope.join("payload");
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        let metadata = fs::metadata(payload.join(file)).expect("a file of cgroup2");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{file}");
    }
    let given = words(scope.join("cgroup.controllers"));
    let delegated = unit(&machine.scope(), "DelegateControllers");
    for controller in &given {
        assert!(delegated.split(' ').any(|name| name == controller), "{controller} is not PID 1's to give");
        for file in above {
            assert!(words(file).contains(controller), "{controller} in {file}");
        }
    }
    let name = machine.name.as_str();
    assert_eq!(words(payload.join("cgroup.controllers")), given);
    assert_eq!(
        inside(name, "cat /sys/fs/cgroup/cgroup.controllers").split_whitespace().collect::<Vec<_>>(),
        given
    );
    for controller in &given {
        inside(name, &format!("echo +{controller} > /sys/fs/cgroup/cgroup.subtree_control"));
    }
    assert!(inside(name, "cat /proc/1/cgroup").contains("0::/init.scope"));
    if std::env::var("OSIER_TIER").is_ok_and(|tier| tier == "vm") {
        for controller in ["cpu", "memory", "pids", "io"] {
            assert!(given.iter().any(|name| name == controller), "{controller} is not among {given:?}");
        }
        // A limit that the inner systemd sets for a unit of its own takes effect.
        let script = "systemd-run -q --wait --pipe -p TasksMax=7 -p MemoryMax=64M sh -c 'cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/pids.max'";
        assert_eq!(inside(name, script).trim(), "7");
    }
    machine.stop();
}

pub(crate) fn properties() {
    let properties = [
        "--slice=osiertest.slice",
        "--property=MemoryMax=1500M",
        "--property=TasksMax=2000",
        "--property=Description=a basket of willow",
    ];
    let machine = Machine::hold("properties", &properties);
    let scope = machine.scope();
    for (property, value) in [
        ("Slice", "osiertest.slice"),
        ("MemoryMax", "1572864000"),
        ("TasksMax", "2000"),
        ("Description", "a basket of willow"),
        ("Delegate", "yes"),
        ("Transient", "yes"),
    ] {
        assert_eq!(unit(&scope, property), value, "{property}");
    }
    let cgroup = cgroup_of(&scope);
    assert!(cgroup.starts_with("/sys/fs/cgroup/osiertest.slice"), "{}", cgroup.display());
    if std::env::var("OSIER_TIER").is_ok_and(|tier| tier == "vm") {
        assert_eq!(words(cgroup.join("memory.max")), ["1572864000"]);
        assert_eq!(words(cgroup.join("pids.max")), ["2000"]);
    }
    machine.stop();
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
}

fn refuse(tail: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let name = unique(tail);
    let named = format!("--machine={name}");
    let tree = tree();
    let output = tried(&osier(), &[&["boot", "--ephemeral", &named], arguments, &[&tree]].concat());
    assert!(!listed().contains(&name));
    assert_eq!(unit(&scope_of(&name), "LoadState"), "not-found");
    refused(&output)
}

pub(crate) fn wrong_property() {
    let (code, error) = refuse("wrong", &["--property=MemroyMax=1G"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("did you mean MemoryMax?"), "{error}");
    let (code, error) = refuse("wrong", &["--property=TasksMax=many"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("TasksMax"), "{error}");
}

pub(crate) fn refused_property() {
    let (code, error) = refuse("refused", &["--property=DevicePolicy=maybe"]);
    assert_eq!(code, Some(125), "{error}");
    assert!(error.contains("cannot make a scope for"), "{error}");
}

pub(crate) fn wrong_slice() {
    for slice in ["no/slice.slice", "a--b.slice", ".slice"] {
        let (code, error) = refuse("slice", &["--slice", slice]);
        assert!(matches!(code, Some(2 | 125)), "{slice}: {code:?}: {error}");
        assert!(error.contains(slice), "{error}");
    }
}
