//! What a machine's file system is made of beyond its tree: the order of mounts, nodes and files, for every machine the
//! same but for what its spec says.

use std::path::{Path, PathBuf};

use super::checkpoint;
use crate::device;
use crate::host::HostFacts;
use crate::idrange::IdRange;
use crate::mount::op::{Access, Depth, Devices, INACCESSIBLE, Need, Node, Op, Owners, TmpfsLimits};
use crate::spec::{ApiVfs, Checkpoints, ExtraMount, MachineSpec, Network, Users};

/// Where the payload's init reports that it is ready (CONTAINER_INTERFACE).
pub const NOTIFY_SOCKET: &str = "/run/host/notify";

/// gid 5 is tty in every distribution; glibc's grantpt(3) wants it to be the ptys' group.
const TTY: u32 = 5;

/// A file with the machine's boot ID, which is bound over the kernel's.
const BOOT_ID: &str = "/run/host/boot-id";

/// What the kernel tells about itself and the host's processes, and nobody in a machine may read or trigger.
const MASKED: [&str; 8] = [
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
];

/// What shows the host's hardware and can be written to.
const READ_ONLY: [&str; 7] =
    ["/proc/acpi", "/proc/apm", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi"];

/// The host's firmware, and the one fusectl of the whole host, by which root could abort anybody's FUSE connections.
const HIDDEN: [&str; 2] = ["/sys/firmware", "/sys/fs/fuse"];

/// Steps that need nothing of the leader's namespaces.
pub(super) fn outer(spec: &MachineSpec, host: &HostFacts) -> Vec<Op> {
    let root = root(spec);
    // /tmp first: where another of them is a link into it, this one must not cover that one.
    let mut ops = vec![
        tmpfs("/tmp", root, 0o1777, Some(share(host, 10, 1 << 20))),
        tmpfs("/run", root, 0o755, Some(share(host, 20, 800 << 10))),
    ];
    ops.extend(devices(root, host));
    ops.extend(run_host(spec, host));
    ops.extend(checkpoint::files(spec));
    ops.extend(spec.mounts.iter().map(|mount| extra(mount, root, host)));
    ops
}

/// The host's ID of the machine's root.
fn root(spec: &MachineSpec) -> u32 {
    spec.users.range().map_or(0, IdRange::first)
}

/// Steps after all of these, while a machine with users of its own cannot undo them yet: what is mounted by then stays as it is in the
/// copy of the mounts that it gets (man 7 mount_namespaces, "Restrictions on mount namespaces").
pub(super) fn inside(spec: &MachineSpec) -> Vec<Op> {
    if spec.users == Users::Host {
        return Vec::new();
    }
    let mut ops = vec![seal()];
    // It shows a network namespace, and only who has that may mount it.
    if spec.network == Network::Host {
        ops.extend(sysfs(spec));
    }
    if spec.root.access == Access::ReadOnly {
        // What is mounted later is mounted there.
        ops.extend(["/proc", "/sys"].map(|path| Op::Directory { path: path.into(), mode: 0o555 }));
        ops.push(Op::Seal { target: "/".into() });
    }
    ops
}

/// What the machine was told stays as it was told.
fn seal() -> Op {
    Op::Seal { target: "/run/host".into() }
}

fn sysfs(spec: &MachineSpec) -> Vec<Op> {
    let access = if spec.api_vfs == ApiVfs::ReadWrite { Access::ReadWrite } else { Access::ReadOnly };
    let masks = HIDDEN.map(|path| Op::Mask { target: path.into(), need: Need::Optional });
    [kernel("sysfs", "/sys", "", access)].into_iter().chain(masks).collect()
}

/// Steps that need the leader's pid, network, IPC and cgroup namespaces.
pub(super) fn leader(spec: &MachineSpec) -> Vec<Op> {
    let mut ops = Vec::new();
    if spec.users == Users::Host {
        ops.push(seal());
    }
    ops.push(kernel("proc", "/proc", "", Access::ReadWrite));
    if spec.api_vfs != ApiVfs::ReadWrite {
        ops.push(Op::Inside { source: "/proc/sys".into(), target: "/proc/sys".into() });
        if spec.api_vfs == ApiVfs::Network {
            ops.push(Op::Inside { source: "/proc/sys/net".into(), target: "/proc/sys/net".into() });
        }
        ops.push(Op::Seal { target: "/proc/sys".into() });
    }
    ops.push(Op::Inside { source: BOOT_ID.into(), target: "/proc/sys/kernel/random/boot_id".into() });
    ops.extend(MASKED.map(|path| Op::Mask { target: path.into(), need: Need::Optional }));
    ops.extend(READ_ONLY.map(|path| Op::ReadOnly { target: path.into() }));
    if spec.users == Users::Host || spec.network != Network::Host {
        ops.extend(sysfs(spec));
    }
    ops.push(kernel("cgroup2", "/sys/fs/cgroup", "", Access::ReadWrite));
    ops.push(kernel("mqueue", "/dev/mqueue", "", Access::ReadWrite));
    ops
}

/// /dev: a tmpfs with the allowed nodes, ptys of its own, and the links that everybody expects.
fn devices(root: u32, host: &HostFacts) -> Vec<Op> {
    let limits = TmpfsLimits { size: 4 << 20, inodes: 64 << 10 };
    let mut ops = vec![
        Op::Tmpfs {
            target: "/dev".into(),
            owner: root,
            mode: 0o755,
            limits: Some(limits),
            devices: Devices::Usable,
        },
        kernel(
            "devpts",
            "/dev/pts",
            &format!("newinstance,ptmxmode=0666,mode=0620,gid={}", root + TTY),
            Access::ReadWrite,
        ),
        tmpfs("/dev/shm", root, 0o1777, Some(share(host, 10, 1 << 20))),
        Op::Directory { path: "/dev/net".into(), mode: 0o755 },
    ];
    ops.extend(device::ALLOWED.map(|device| Op::Node {
        path: Path::new("/dev").join(device.name),
        node: Node::Character(device.major, device.minor),
        mode: 0o666,
    }));
    ops.extend(device::LINKS.map(|(path, to)| Op::Symlink { path: path.into(), to }));
    ops
}

/// /run/host: what the machine may know of osier and of the host (CONTAINER_INTERFACE, The /run/host/ Hierarchy).
fn run_host(spec: &MachineSpec, host: &HostFacts) -> Vec<Op> {
    let limits = TmpfsLimits { size: 4 << 20, inodes: 1 << 10 };
    let file =
        |name: &str, text: String| Op::File { path: Path::new("/run/host").join(name), text, mode: 0o444 };
    let node = |name: &str, node| Op::Node { path: Path::new(INACCESSIBLE).join(name), node, mode: 0 };
    let mut ops = vec![
        tmpfs("/run/host", root(spec), 0o755, Some(limits)),
        file("container-manager", "osier\n".to_owned()),
        file("container-uuid", format!("{}\n", spec.id.as_uuid())),
        file("os-release", host.os_release.clone()),
        Op::BootId { path: BOOT_ID.into() },
        Op::Directory { path: INACCESSIBLE.into(), mode: 0o755 },
        Op::Directory { path: Path::new(INACCESSIBLE).join("dir"), mode: 0 },
        node("reg", Node::Regular),
        node("fifo", Node::Fifo),
        node("sock", Node::Socket),
        node("chr", Node::Character(0, 0)),
        node("blk", Node::Block(0, 0)),
    ];
    // A directory of the host's, by way of which older machined binds what is the host's: neither can be saved.
    if spec.checkpoints == Checkpoints::Impossible {
        ops.push(Op::Host {
            source: propagation_directory(spec.name.as_str()),
            target: "/run/host/incoming".into(),
            access: Access::ReadWrite,
            depth: Depth::Single,
            owners: Owners::AsTheyAre,
        });
    }
    ops
}

/// The host's directory through which `machinectl bind` reaches a machine: mounts made there appear in the machine's
/// /run/host/incoming. The path is machined's.
pub fn propagation_directory(name: &str) -> PathBuf {
    Path::new("/run/systemd/nspawn/propagate").join(name)
}

fn extra(mount: &ExtraMount, root: u32, host: &HostFacts) -> Op {
    match mount {
        ExtraMount::Bind { source, target, access, depth, owners } => Op::Host {
            source: source.clone(),
            target: target.clone(),
            access: *access,
            depth: *depth,
            owners: *owners,
        },
        ExtraMount::Tmpfs { target, options } => Op::Tmpfs {
            target: target.clone(),
            owner: root,
            mode: options.mode.unwrap_or(0o755),
            limits: options.limits(host.memory),
            devices: Devices::Inert,
        },
        ExtraMount::Inaccessible { target } => Op::Mask { target: target.clone(), need: Need::Required },
    }
}

fn tmpfs(target: &str, owner: u32, mode: u32, limits: Option<TmpfsLimits>) -> Op {
    Op::Tmpfs { target: target.into(), owner, mode, limits, devices: Devices::Inert }
}

/// A part of the host's memory, so that one machine cannot take all of it with files.
fn share(host: &HostFacts, percent: u64, inodes: u64) -> TmpfsLimits {
    TmpfsLimits { size: host.memory / 100 * percent, inodes }
}

fn kernel(fstype: &'static str, target: &str, options: &str, access: Access) -> Op {
    Op::Kernel { fstype, target: target.into(), options: options.to_owned(), access }
}
