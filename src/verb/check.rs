//! `osier check`: what this host can do, found out by trying, and what to do about what is missing.

use std::env;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::schema::{self, Finding};
use super::{clean, json, print, table};
use crate::bus;
use crate::cli::Check;
use crate::criu::{Criu, Features};
use crate::error::{Context, Error, Result, reason};
use crate::idrange::IdRange;
use crate::image::MACHINES;
use crate::launch::open_users;
use crate::machine::record::Store;
use crate::mount::root::can_map;
use crate::mount::table as mounts;
use crate::namespace::Kind;
use crate::sys::{self, Forked, MountAttributes, MountDepth};
use nix::sys::wait::{WaitStatus, waitpid};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, OpenTreeFlags};
use rustix::process::PidfdFlags;

/// Prints what there is and gives 0 when machines can run, else 1.
///
/// # Errors
/// When /proc cannot be read or standard output cannot be written to.
pub fn execute(options: &Check, store: &Store) -> Result<u8> {
    if options.clean {
        return clean::execute(options, store).map(|()| 0);
    }
    let findings = look()?;
    print(&if options.json { json(&findings)? } else { text(&findings) })?;
    Ok(u8::from(!runs(&findings)))
}

fn runs(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.present || !finding.required)
}

fn text(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let state = match (finding.present, finding.required) {
                (true, _) => "ok",
                (false, true) => "missing",
                (false, false) => "without",
            };
            [state.to_owned(), finding.what.clone(), finding.note.clone()]
        })
        .collect();
    let verdict = if runs(findings) { "Machines can run here." } else { "Machines cannot run here." };
    format!("{}\n{verdict}\n", table::columns(None, &rows))
}

fn look() -> Result<Vec<Finding>> {
    let mountinfo = mounts::read().context(|| "cannot read /proc/self/mountinfo")?;
    let cgroup2 = mounts::find_whole(&mountinfo, "cgroup2").context(|| "cannot read /proc/self/mountinfo")?;
    let mut found = vec![root()];
    found.extend(Kind::ALL.map(namespace));
    found.push(cgroup(cgroup2.as_deref()));
    found.extend(cgroup2.iter().map(|mount| controllers(mount)));
    found.extend([mount_api(), pidfd(), overlay(), mapped_mounts(), systemd(), mmdebstrap()]);
    found.extend(criu());
    found.extend([system_bus(), machined()]);
    Ok(found)
}

fn required(what: impl Into<String>, result: io::Result<()>, advice: &str) -> Finding {
    let note = match &result {
        Ok(()) => String::new(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("not there; {advice}"),
        Err(error) => format!("{}; {advice}", reason(error)),
    };
    Finding { version: schema::VERSION, what: what.into(), present: result.is_ok(), required: true, note }
}

fn optional(what: impl Into<String>, result: io::Result<()>, advice: &str) -> Finding {
    Finding { required: false, ..required(what, result, advice) }
}

fn root() -> Finding {
    let uid = rustix::process::geteuid();
    let result = if uid.is_root() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) };
    required("root", result, "run it as root, with sudo for instance")
}

fn namespace(kind: Kind) -> Finding {
    let result = try_forked(|| sys::unshare_namespaces(kind.flag()));
    let what = format!("{} namespace", kind.proc_name());
    match kind {
        Kind::Time => optional(
            what,
            result,
            "Linux 5.6 with CONFIG_TIME_NS has it; without: --clock=host for every machine",
        ),
        Kind::User => optional(what, result, "see /proc/sys/user/max_user_namespaces"),
        _ => required(what, result, "osier needs root, and a kernel with all of CONFIG_NAMESPACES"),
    }
}

fn cgroup(mount: Option<&Path>) -> Finding {
    let result = mount.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into());
    let finding = required("cgroup2", result, "mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    Finding { note: mount.map_or(finding.note, |mount| mount.display().to_string()), ..finding }
}

/// Those that osier sets limits and reads figures with.
fn controllers(mount: &Path) -> Finding {
    let there = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    let missing: Vec<_> = ["cpu", "io", "memory", "pids"]
        .into_iter()
        .filter(|wanted| there.split_whitespace().all(|controller| controller != *wanted))
        .collect();
    let note = if missing.is_empty() {
        there.trim().to_owned()
    } else {
        format!(
            "no {}: no such limits and figures; where version 1 has them, boot the host with cgroup_no_v1=all",
            missing.join(", ")
        )
    };
    Finding {
        version: schema::VERSION,
        what: "cgroup2 controllers".to_owned(),
        present: missing.is_empty(),
        required: false,
        note,
    }
}

/// Clones the mount of / and changes the clone, which nobody sees and which goes with its descriptor.
fn mount_api() -> Finding {
    let tried = || {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let clone = rustix::mount::open_tree(rustix::fs::CWD, "/", flags)?;
        let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
        sys::mount_setattr(clone.as_fd(), c"", MountDepth::One, read_only)
    };
    required("mount API", tried(), "Linux 5.12 has open_tree(2) and mount_setattr(2); osier needs root")
}

fn pidfd() -> Finding {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty());
    required("pidfd", own.map(drop).map_err(io::Error::from), "Linux 5.4 has pidfds that can be waited for")
}

/// fsopen(2) loads the module, where it is one.
fn overlay() -> Finding {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC);
    optional("overlayfs", context.map(drop).map_err(io::Error::from), "--ephemeral needs CONFIG_OVERLAY_FS")
}

/// Of the file system that images are on.
fn mapped_mounts() -> Finding {
    let place =
        [MACHINES, "/"].into_iter().map(Path::new).find(|place| place.exists()).unwrap_or(Path::new("/"));
    let tried = open_users(IdRange::IDENTITY)
        .map_err(|error| io::Error::other(error.to_string()))
        .and_then(|users| can_map(place, users.as_fd()))
        .and_then(|can| if can { Ok(()) } else { Err(Errno::OPNOTSUPP.into()) });
    let what = format!("ID-mapped mounts on {}", place.display());
    optional(
        what,
        tried,
        "for a machine with users of its own a tree there is changed: --private-users-ownership=chown",
    )
}

/// man 3 sd_booted.
fn systemd() -> Finding {
    let advice = "machines get no scope and no unit; they run directly below cgroup2";
    optional("systemd as PID 1", exists("/run/systemd/system"), advice)
}

/// zbus starts threads, after which nothing can be tried in a fork any more: this and the next come after all that is.
fn system_bus() -> Finding {
    let result = if bus::available() { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) };
    optional(
        "system bus",
        result,
        "install and start dbus; without: machinectl does not see osier's machines",
    )
}

fn machined() -> Finding {
    let result = match bus::available() {
        true => {
            bus::machined::list(&|_| false).map(drop).map_err(|error| io::Error::other(error.to_string()))
        }
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let advice = "install systemd-container; without: machinectl does not see osier's machines";
    optional("systemd-machined", result, advice)
}

fn mmdebstrap() -> Finding {
    let program = in_path("mmdebstrap").or_else(|| in_path("debootstrap"));
    let result = program.as_ref().map(drop).ok_or_else(|| io::ErrorKind::NotFound.into());
    let finding =
        optional("mmdebstrap", result, "`osier image build debian` needs it: apt install mmdebstrap");
    Finding { note: program.map_or(finding.note, |path| path.display().to_string()), ..finding }
}

/// CRIU, and where it is there, what only some kernels let it do.
fn criu() -> Vec<Finding> {
    let criu = match Criu::find(None) {
        Ok(criu) => criu,
        Err(missing) => {
            let error = Error::from(missing);
            let advice = error.hint_text().unwrap_or_default();
            let cause = Err(io::Error::other(error.to_string()));
            return vec![optional(
                "criu",
                cause,
                &format!("checkpoint, restore and migrate need it: {advice}"),
            )];
        }
    };
    let note = format!("{} {}", criu.program().display(), criu.version());
    let found = Finding { note, ..optional("criu", Ok(()), "") };
    let features = criu.features();
    let able = |able: fn(&Features) -> bool| match &features {
        Ok(features) if able(features) => Ok(()),
        Ok(_) => Err(io::ErrorKind::Unsupported.into()),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    vec![
        found,
        optional(
            "criu: dirty pages",
            able(|features| features.dirty_pages),
            "migrate --precopy needs a kernel with CONFIG_MEM_SOFT_DIRTY",
        ),
        optional(
            "criu: lazy pages",
            able(|features| features.lazy_pages),
            "migrate --postcopy to this host needs a kernel with CONFIG_USERFAULTFD",
        ),
    ]
}

fn exists(path: &str) -> io::Result<()> {
    std::fs::metadata(path).map(drop)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// Tries something in a child, so that this process stays what it is.
fn try_forked(attempt: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    match sys::fork()? {
        Forked::Child => {
            let errno = attempt().err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
            sys::exit_now(errno.and_then(|errno| u8::try_from(errno).ok()).unwrap_or_default())
        }
        Forked::Parent(child) => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            _ => Err(io::ErrorKind::Interrupted.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_decides() {
        let there = optional("a", Ok(()), "");
        let without = optional("overlayfs", Err(io::Error::from_raw_os_error(libc::ENODEV)), "load it");
        let missing = required("pid namespace", Err(io::Error::from_raw_os_error(libc::EPERM)), "be root");
        assert!(runs(&[there.clone(), without.clone()]));
        assert!(!runs(&[there.clone(), missing.clone()]));
        let expected = "ok      a\nwithout overlayfs     no such device; load it\n\
            missing pid namespace operation not permitted; be root\n\nMachines cannot run here.\n";
        assert_eq!(text(&[there, without, missing]), expected);
    }

    #[test]
    fn a_hybrid_host_lacks_controllers() {
        let directory = env::temp_dir().join(format!("osier-check-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("cgroup.controllers"), "hugetlb cpu io\n").unwrap();
        let hybrid = controllers(&directory);
        std::fs::write(directory.join("cgroup.controllers"), "cpuset cpu io memory pids\n").unwrap();
        let unified = controllers(&directory);
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(!hybrid.present && hybrid.note.starts_with("no memory, pids:"), "{hybrid:?}");
        assert!(unified.present && unified.note == "cpuset cpu io memory pids", "{unified:?}");
    }
}
