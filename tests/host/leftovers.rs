//! What is on a host, as far as a machine could leave something there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::machine::said;

/// How long after a scenario things may take to go away: what PID 1 and machined do, they do later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything of interest, a line each.
#[derive(Debug, PartialEq)]
pub(crate) struct Host(BTreeSet<String>);

impl Host {
    /// Looks at the host as it is.
    pub(crate) fn look() -> Self {
        let mut found = BTreeSet::new();
        for machine in said("machinectl", &["list", "--no-legend", "--all"]).lines() {
            found.insert(format!("machine {machine}"));
        }
        for unit in said("systemctl", &["list-units", "--all", "--plain", "--no-legend"]).lines() {
            let name = unit.split_whitespace().next().unwrap_or_default();
            if name.starts_with("machine-") || name.starts_with("osier@") || name.contains("osier-") {
                found.insert(format!("unit {unit}"));
            }
        }
        for link in fs::read_dir("/sys/class/net").expect("links") {
            found.insert(format!("link {}", link.expect("a link").file_name().display()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        for mount in mounts.lines() {
            found.insert(format!("mount {}", mount.split(' ').nth(4).expect("a mount point")));
        }
        for (root, depth) in [
            ("/sys/fs/cgroup/machine.slice", 1),
            ("/run/osier", 2),
            ("/run/systemd/nspawn", 2),
            ("/run/systemd/transient", 1),
            ("/var/lib/machines", 1),
        ] {
            directories(Path::new(root), depth, &mut found);
        }
        processes(&mut found);
        Self(found)
    }

    /// Fails when the host is not as it was, and does not come to be so in time.
    pub(crate) fn assert_restored(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Self::look();
            if now == *self {
                return;
            }
            if Instant::now() >= deadline {
                let new: Vec<_> = now.0.difference(&self.0).collect();
                let gone: Vec<_> = self.0.difference(&now.0).collect();
                panic!("left behind: {new:#?}\ntaken away: {gone:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What is `depth` levels below `root`: the directories above that stay are the host's.
fn directories(root: &Path, depth: u32, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if depth > 1 && is_directory {
            directories(&entry.path(), depth - 1, found);
        } else if !root.starts_with("/sys") || is_directory {
            found.insert(format!("file {}", entry.path().display()));
        }
    }
}

/// The processes of osier's. Its supervisor and what it forks have its name, or one that begins with it.
fn processes(found: &mut BTreeSet<String>) {
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let path = entry.path();
        let is_osier = fs::read_link(path.join("exe")).is_ok_and(|exe| exe.ends_with("osier"));
        if is_osier {
            let line = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            found.insert(format!("process {}: {}", path.display(), line.replace('\0', " ")));
        }
    }
}
