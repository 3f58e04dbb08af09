//! What systemd inside a machine that is to be saved has to be told, as files below /run, which are there before it is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::image::Init;
use crate::mount::op::Op;
use crate::spec::{Checkpoints, MachineSpec, Program};

/// Path and text of each file, below /run/systemd. No name twice for one unit: a file hides those of its name in the directories of
/// less special units (man 5 systemd.unit).
const FILES: [(&str, &str); 6] = [
    ("system/service.d/50-osier-checkpoint.conf", SERVICE),
    ("user/service.d/50-osier-checkpoint.conf", SERVICE),
    ("system.conf.d/50-osier-checkpoint.conf", MANAGER),
    ("user.conf.d/50-osier-checkpoint.conf", MANAGER),
    ("system/systemd-logind.service.d/50-osier-checkpoint-logind.conf", LOGIND),
    ("system/systemd-.service.d/50-osier-checkpoint-systemd.conf", OF_SYSTEMD),
];

/// A pidfd of a restored process is another one to systemd than the one it has of that process, so that it takes the
/// messages of a service's main process for somebody else's. A watch on memory.pressure is a trigger in the kernel, which is
/// lost.
const SERVICE: &str = "\
# osier: this machine can be saved and restored.
[Service]
NotifyAccess=all
MemoryPressureWatch=off
";

const MANAGER: &str = "\
# osier: this machine can be saved and restored.
[Manager]
DefaultMemoryPressureWatch=off
";

/// In the mount namespace of everybody: the pipes of its sessions are handed from one logind to the next by PID 1, and one that
/// was opened in a mount namespace that is gone by then cannot be saved.
const LOGIND: &str = "\
# osier: this machine can be saved and restored.
[Service]
PrivateTmp=no
ProtectControlGroups=no
ProtectHome=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
ProtectSystem=no
ReadWritePaths=
";

/// Before version 254 systemd keeps a service's credentials in a ramfs, which CRIU does not know, for as long as the service is
/// active: with its own, such as systemd-tmpfiles-setup.service, as long as the machine. It reads them from the ones of the
/// machine, and osier gives it none.
const OF_SYSTEMD: &str = "\
# osier: this machine can be saved and restored.
[Service]
LoadCredential=
";

/// Whether it is a machine that is to be saved, and boots with systemd.
pub(super) fn has_systemd(spec: &MachineSpec) -> bool {
    spec.checkpoints == Checkpoints::Possible
        && matches!(spec.payload.program, Program::Init { kind: Init::Systemd, .. })
}

/// systemd's own watch on memory.pressure, which no file of its configuration turns off (MEMORY_PRESSURE in its documentation).
pub(super) fn pressure() -> (String, OsString) {
    ("MEMORY_PRESSURE_WATCH".to_owned(), "/dev/null".into())
}

/// The steps that make the files.
pub(super) fn files(spec: &MachineSpec) -> Vec<Op> {
    if !has_systemd(spec) {
        return Vec::new();
    }
    let top = Path::new("/run/systemd");
    let directory = |path: PathBuf| Op::Directory { path, mode: 0o755 };
    let mut ops = vec![directory(top.to_owned()), directory(top.join("system")), directory(top.join("user"))];
    for (path, text) in FILES {
        let path = top.join(path);
        ops.extend(path.parent().map(|above| directory(above.to_owned())));
        ops.push(Op::File { path, text: text.to_owned(), mode: 0o644 });
    }
    // A hugetlbfs cannot be saved.
    ops.push(Op::Symlink { path: top.join("system/dev-hugepages.mount"), to: "/dev/null" });
    ops
}
