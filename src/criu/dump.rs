//! Dumping a process tree into images.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;

use super::aftermath::Scene;
use super::conversation::{Conversation, Directories, Stop};
use super::interception::Watch;
use super::log::Task;
use super::message::{CgroupRoot, Options, Request, Type};
use super::worker::Worker;
use super::{Criu, Failed, Hook, images, remedy};
use crate::interrupt::Interrupt;

/// When is looked once more for what a CRIU that was killed has left, each after the one before.
const AFTERWARDS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(100)];

/// What is to be dumped, and where to.
///
/// Live TCP connections, file locks and deleted files are dumped as they are: a whole OS has them all.
#[derive(Debug, Clone)]
pub struct Dump<'a> {
    /// The first task, as this process sees it.
    pub pid: Pid,
    /// The directory that gets the images; it is there and empty.
    pub images: &'a Path,
    /// The file that gets CRIU's log, in a directory that is there.
    pub log: &'a Path,
    /// What becomes of the tasks.
    pub leave: Leave,
    /// `--external`: what is outside and stays there, `tty[RDEV:DEV]`, `mnt[/dev/console]:console`.
    pub external: Vec<String>,
    /// `--cgroup-root`: the directory of cgroup2 that is the root of the tasks' cgroups. All below it are dumped, empty ones too.
    pub cgroup_root: Option<String>,
    /// The largest deleted file that goes into the images, in bytes.
    pub ghost_limit: u32,
    /// `--irmap-scan-path`: directories in which inotify(7) watches are looked up, which are saved by path then. Where there are
    /// none they are saved by the handle of a file of this very tree.
    pub watched: Vec<String>,
    /// Which pages.
    pub memory: Memory,
    /// What was said to stop by, if anything.
    pub interrupt: Option<&'a Interrupt>,
}

/// What becomes of the tasks after a dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// They go on.
    Running,
    /// They are killed.
    Dead,
}

/// Which pages a dump saves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// All.
    Whole,
    /// All, and from now on what is written to is tracked for the next dump.
    Tracked,
    /// Those that were written to since the dump in this directory, given as the path from the new images' directory
    /// (`../0`); tracked on.
    Since(String),
}

impl Criu {
    /// Dumps. `ask` is called at each [`Hook`]; when it fails, nothing becomes of the dump, and the tasks go on.
    ///
    /// # Errors
    /// [`Failed`]; the tasks go on as if nothing had been.
    pub fn dump(&self, dump: &Dump<'_>, ask: &mut dyn FnMut(Hook) -> io::Result<()>) -> Result<(), Failed> {
        self.save(dump, Type::Dump, ask)
    }

    /// Saves the memory alone while the tasks go on (they are stopped for the time it takes to find what is to be
    /// saved), for a [`Memory::Since`] later.
    ///
    /// # Errors
    /// As [`Criu::dump`]; also where the kernel does not track pages ([`super::Features::dirty_pages`]).
    pub fn pre_dump(&self, dump: &Dump<'_>) -> Result<(), Failed> {
        self.save(dump, Type::SinglePreDump, &mut |_| Ok(()))
    }

    fn save(
        &self,
        dump: &Dump<'_>,
        kind: Type,
        ask: &mut dyn FnMut(Hook) -> io::Result<()>,
    ) -> Result<(), Failed> {
        match self.save_locked(dump, kind, Lock::Nftables, ask) {
            Err(Failed::Refused { log, .. }) if lacks_nftables(&log) => {
                // Nothing had been asked but whether to begin, and that has been answered.
                let mut rest = |hook| if hook == Hook::PreDump { Ok(()) } else { ask(hook) };
                self.save_locked(dump, kind, Lock::Iptables, &mut rest)
            }
            result => result,
        }
    }

    fn save_locked(
        &self,
        dump: &Dump<'_>,
        kind: Type,
        lock: Lock,
        ask: &mut dyn FnMut(Hook) -> io::Result<()>,
    ) -> Result<(), Failed> {
        let directories = Directories::open(dump.images, dump.log)?;
        let options = options(dump, lock, directories.options());
        // Memory alone is saved without such calls, and without a lock on the network.
        let watch = (kind == Type::Dump).then(|| Watch {
            defects: remedy::in_system_calls(self.version),
            scene: Scene { first: dump.pid, log: dump.log.to_owned() },
        });
        let mut worker = Worker::start(&self.program, &[]).map_err(Failed::start("start criu"))?;
        let mut conversation = Conversation {
            worker: &mut worker,
            log: dump.log,
            interrupt: dump.interrupt,
            stop: Stop::AtHook,
            needs: None,
            watch,
        };
        let request = Request { kind: kind.into(), options: Some(options), ..Request::default() };
        let mut asked = |hook, _| {
            if hook == Hook::PostDump {
                remedy::mend_images(self.version, dump.images)?;
                if dump.cgroup_root.is_some() {
                    images::keep_unified(dump.images)?;
                }
            }
            ask(hook)
        };
        let held = conversation.hold(&request, &mut asked, &task).map(drop);
        if matches!(held, Err(Failed::Died { .. })) && kind == Type::Dump {
            // A child of a CRIU that was killed may have been about to lock the network.
            for pause in AFTERWARDS {
                std::thread::sleep(pause);
                let _ = Scene { first: dump.pid, log: dump.log.to_owned() }.clear();
            }
        }
        held
    }
}

/// How packets are kept from connections that are being dumped (`criu_network_lock_method`): by a table of CRIU's own in the tasks'
/// network namespace, or by the program iptables-restore, where CRIU was built without libnftables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Iptables = 1,
    Nftables = 2,
}

/// The controller without a name is cgroup2; without it CRIU takes the directory for one of all hierarchies.
pub(super) fn cgroup_root(path: Option<&str>) -> Vec<CgroupRoot> {
    path.iter().map(|path| CgroupRoot { ctrl: Some(String::new()), path: (*path).to_owned() }).collect()
}

fn lacks_nftables(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains("built without libnftables support"))
}

fn options(dump: &Dump<'_>, lock: Lock, base: Options) -> Options {
    let (track, parent) = match &dump.memory {
        Memory::Whole => (None, None),
        Memory::Tracked => (Some(true), None),
        Memory::Since(parent) => (Some(true), Some(parent.clone())),
    };
    Options {
        pid: Some(dump.pid.as_raw()),
        leave_running: Some(dump.leave == Leave::Running),
        link_remap: Some(true),
        external: dump.external.clone(),
        cg_root: cgroup_root(dump.cgroup_root.as_deref()),
        ghost_limit: Some(dump.ghost_limit),
        force_irmap: (!dump.watched.is_empty()).then_some(true),
        irmap_scan_paths: dump.watched.clone(),
        track_mem: track,
        network_lock: Some(lock as i32),
        parent_img: parent,
        ..base
    }
}

/// A task as the log should name it: it is there still. None for what is in no pid namespace below this one.
fn task(pid: i32) -> Option<Task> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    let numbers = field("NSpid:")?;
    let inside = numbers.split_whitespace().nth(1)?.parse().ok()?;
    Some(Task { name: field("Name:\t")?.to_owned(), inside })
}
