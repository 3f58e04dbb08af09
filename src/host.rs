//! What this host is and can do, as far as a launch depends on it: found out once, by looking, never by version numbers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::clock::Now;
use crate::ids::MachineId;
use crate::namespace::{self, Kind};

/// The facts that a launch plan is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Where cgroup2 is mounted; on a hybrid host beside the controllers of version 1.
    pub cgroup2: Option<PathBuf>,
    /// This process's own cgroup2 directory, relative to the mount.
    pub own_cgroup: PathBuf,
    /// The cgroup2 directory that systemd has delegated to this process's unit, relative to the mount.
    pub delegated: Option<PathBuf>,
    /// The controllers that cgroup2 has.
    pub controllers: Vec<String>,
    /// Those that are mounted as version 1, where cgroup2 cannot have them.
    pub controllers_v1: Vec<String>,
    /// The CPUs that there are, as a list of cpuset(7); nothing where cgroup2 does not say.
    pub cpus: String,
    /// The memory nodes that there are, as such a list.
    pub mems: String,
    /// What runs as PID 1.
    pub first: First,
    /// Whether the kernel has time namespaces.
    pub time_namespaces: bool,
    /// Whether the kernel has user namespaces.
    pub user_namespaces: bool,
    /// Memory, bytes.
    pub memory: u64,
    /// /etc/machine-id.
    pub machine_id: Option<MachineId>,
    /// The clocks.
    pub now: Now,
    /// The text of os-release(5).
    pub os_release: String,
    /// The caller's `$TERM`.
    pub term: Option<String>,
    /// Effective user ID.
    pub uid: u32,
}

/// What runs as PID 1 on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// systemd: cgroups are its, units and machined are to be had.
    Systemd,
    /// Anything else.
    Other,
}

impl HostFacts {
    /// Looks at the host. `mountinfo` is the text of /proc/self/mountinfo, and `cgroup2` what it says.
    ///
    /// # Errors
    /// What reading /proc gives; files outside of it may be missing.
    pub fn read(cgroup2: Option<PathBuf>) -> io::Result<Self> {
        let system = rustix::system::sysinfo();
        let own_cgroup = own_cgroup(&fs::read_to_string("/proc/self/cgroup")?);
        Ok(Self {
            controllers: cgroup2.as_deref().map(controllers).unwrap_or_default(),
            cpus: effective(cgroup2.as_deref(), "cpuset.cpus.effective"),
            mems: effective(cgroup2.as_deref(), "cpuset.mems.effective"),
            controllers_v1: controllers_v1(&fs::read_to_string("/proc/cgroups").unwrap_or_default()),
            delegated: cgroup2.as_deref().and_then(|mount| delegated(mount, &own_cgroup)),
            cgroup2,
            own_cgroup,
            // man 3 sd_booted
            first: if Path::new("/run/systemd/system").is_dir() { First::Systemd } else { First::Other },
            time_namespaces: namespace::is_supported(Kind::Time),
            user_namespaces: namespace::is_supported(Kind::User),
            memory: system.totalram * u64::from(system.mem_unit),
            machine_id: MachineId::host().unwrap_or(None),
            now: Now::read()?,
            os_release: fs::read_to_string("/etc/os-release")
                .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
                .unwrap_or_default(),
            term: std::env::var("TERM").ok(),
            uid: rustix::process::geteuid().as_raw(),
        })
    }

    /// The fields of the host's os-release that a payload gets as `container_host_*` (CONTAINER_INTERFACE).
    pub fn identity(&self) -> Vec<(String, String)> {
        ["ID", "BUILD_ID", "VARIANT_ID", "VERSION_ID"]
            .into_iter()
            .filter_map(|key| {
                let value =
                    self.os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
                let value = value.trim_matches(['"', '\'']);
                (!value.is_empty())
                    .then(|| (format!("container_host_{}", key.to_lowercase()), value.to_owned()))
            })
            .collect()
    }
}

fn effective(mount: Option<&Path>, file: &str) -> String {
    let text = mount.and_then(|mount| fs::read_to_string(mount.join(file)).ok());
    text.unwrap_or_default().trim().to_owned()
}

fn controllers(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The controllers in a hierarchy of version 1: cgroup2's is number 0 (cgroups(7), /proc/cgroups). Version 2 calls one of
/// them by another name.
fn controllers_v1(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.filter_map(|line| line.split_once('\t'));
    let mounted = parts.filter(|(_, rest)| !rest.starts_with("0\t"));
    mounted.map(|(name, _)| if name == "blkio" { "io" } else { name }.to_owned()).collect()
}

/// The cgroup2 line of cgroups(7)'s /proc/PID/cgroup, `0::/path`, relative to the mount.
fn own_cgroup(text: &str) -> PathBuf {
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    PathBuf::from(path)
}

/// The unit's directory: this process's own, or with DelegateSubgroup= the one above, whichever systemd has marked as
/// delegated (CGROUP_DELEGATION, "Delegation": the extended attributes).
fn delegated(mount: &Path, own: &Path) -> Option<PathBuf> {
    let is_marked = |directory: &&Path| {
        ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0; 1];
            let read = rustix::fs::getxattr(mount.join(directory), *name, &mut value);
            read.is_ok_and(|length| value[..length] == *b"1")
        })
    };
    own.ancestors().take(2).find(is_marked).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_has_its_cgroup2_line_among_others() {
        assert_eq!(
            own_cgroup("5:memory:/a\n0::/system.slice/x.service\n"),
            Path::new("system.slice/x.service")
        );
        assert_eq!(own_cgroup("5:memory:/a\n"), Path::new(""));
    }

    #[test]
    fn controllers_of_version_1_are_told_from_the_others() {
        let text = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\nblkio\t12\t9\t1\nhugetlb\t0\t1\t1\n";
        assert_eq!(controllers_v1(text), ["cpuset", "io"]);
    }

    #[test]
    fn a_unit_s_directory_is_the_one_that_is_marked() {
        let mount = std::env::temp_dir().join(format!("osier-delegated-{}", std::process::id()));
        let [unit, below] = ["x.service", "x.service/sub/group"].map(|path| mount.join(path));
        fs::create_dir_all(&below).unwrap();
        let look = |own: &str| delegated(&mount, Path::new(own));
        assert_eq!(look("x.service/sub"), None);
        rustix::fs::setxattr(&unit, "trusted.delegate", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        assert_eq!(look("x.service/sub"), Some("x.service".into()));
        assert_eq!(look("x.service"), Some("x.service".into()));
        assert_eq!(look("x.service/sub/group"), None);
        fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn the_host_has_facts() {
        let facts = HostFacts::read(None).unwrap();
        assert!(facts.memory > 1 << 20, "{facts:?}");
    }
}
