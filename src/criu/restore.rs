//! Bringing a process tree back from its images.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::PidfdFlags;

use super::conversation::{Conversation, Directories, Stop};
use super::dump::cgroup_root;
use super::message::{InheritFd, Options, Request, Type};
use super::worker::Worker;
use super::{Criu, Failed, Hook, aftermath};
use crate::interrupt::Interrupt;

/// `criu_cg_mode`'s SOFT: what is missing of the cgroups is made, what is there is left as it is. Where there is cgroup v1 beside
/// v2, FULL would write properties of the host's v1 roots.
const CGROUPS_SOFT: i32 = 3;

/// What is to be brought back, and to where.
#[derive(Debug, Clone)]
pub struct Restore<'a> {
    /// The directory with the images.
    pub images: &'a Path,
    /// The file that gets CRIU's log, in a directory that is there.
    pub log: &'a Path,
    /// The root: a mount point of its own, private, with the content that the root had.
    pub root: &'a Path,
    /// `--external`: what takes the place of what was outside, `mnt[console]:/dev/pts/3`, `veth[host0]:ve-web`.
    pub external: Vec<String>,
    /// `--inherit-fd`: what takes the place of what was open outside, by its key, `tty[RDEV:DEV]`.
    pub inherit: Vec<(String, BorrowedFd<'a>)>,
    /// `--cgroup-root`: the directory that takes the place of the root of the tasks' cgroups, where it is another one.
    pub cgroup_root: Option<&'a str>,
    /// Who has the memory that the images have not; nothing where they have all.
    pub lazy: Option<Lazy<'a>>,
    /// What was said to stop by, if anything.
    pub interrupt: Option<&'a Interrupt>,
}

/// Who brings memory later.
#[derive(Debug, Clone, Copy)]
pub struct Lazy<'a> {
    /// The directory in which [`Criu::lazy_pages`] works.
    pub work: &'a Path,
    /// Hung up when it will not come: then CRIU would wait for it, and for tasks that it itself keeps from ending.
    pub alive: BorrowedFd<'a>,
}

/// A process tree that runs.
#[derive(Debug)]
pub struct Restored {
    /// The first task: a child of this process.
    pub pid: Pid,
    /// Its descriptor; close-on-exec.
    pub pidfd: OwnedFd,
}

impl Criu {
    /// Restores. `ask` is called at each [`Hook`], with the first task's process ID once there is one; when it fails, nothing
    /// becomes of the restore.
    ///
    /// # Errors
    /// [`Failed`]; none of the tasks is there any more.
    pub fn restore(
        &self,
        restore: &Restore<'_>,
        ask: &mut dyn FnMut(Hook, Option<Pid>) -> io::Result<()>,
    ) -> Result<Restored, Failed> {
        let directories = match restore.lazy {
            Some(lazy) => Directories::elsewhere(restore.images, restore.log, lazy.work)?,
            None => Directories::open(restore.images, restore.log)?,
        };
        // dup(2) leaves close-on-exec off: they are CRIU's from its start on.
        let inherited: Vec<OwnedFd> = restore
            .inherit
            .iter()
            .map(|(_, fd)| Ok(rustix::io::dup(fd)?))
            .collect::<io::Result<_>>()
            .map_err(Failed::start("hand descriptors to criu"))?;
        let options = options(restore, &inherited, directories.options())
            .map_err(Failed::start("say to criu what to restore"))?;
        let mut worker = Worker::start(&self.program, &inherited).map_err(Failed::start("start criu"))?;
        drop(inherited);
        let first = First::of(&worker);
        let request = Request { kind: Type::Restore.into(), options: Some(options), ..Request::default() };
        first.become_root(&mut worker, restore, &request, ask)
    }
}

/// The first task on its way into being: CRIU clones it as a child of this process (`rst_sibling`), so that whatever
/// becomes of CRIU, it is this process that ends it and waits for it.
struct First {
    /// The worker.
    criu: u32,
    /// The worker's program, which the task runs as well until its memory is its own.
    program: Option<PathBuf>,
    pid: Option<Pid>,
}

impl First {
    fn of(worker: &Worker) -> Self {
        Self { criu: worker.id(), program: None, pid: None }
    }

    fn become_root(
        mut self,
        worker: &mut Worker,
        restore: &Restore<'_>,
        request: &Request,
        ask: &mut dyn FnMut(Hook, Option<Pid>) -> io::Result<()>,
    ) -> Result<Restored, Failed> {
        let mut conversation = Conversation {
            worker,
            log: restore.log,
            interrupt: restore.interrupt,
            stop: Stop::AtOnce,
            needs: restore.lazy.map(|lazy| lazy.alive),
            watch: None,
        };
        let mut asked = |hook, pid: Option<Pid>| {
            self.program =
                self.program.take().or_else(|| fs::read_link(format!("/proc/{}/exe", self.criu)).ok());
            self.pid = self.pid.or(pid);
            let answer = ask(hook, self.pid);
            if answer.is_err() && matches!(hook, Hook::NetworkUnlock | Hook::PreResume) {
                // Here CRIU goes on, and lets the tasks run, whatever it is told. It holds them by ptrace(2), so that they could
                // not end either, and it would wait for their end.
                let criu = i32::try_from(self.criu).ok().map(Pid::from_raw);
                for pid in [self.pid, criu].into_iter().flatten() {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            answer
        };
        let held = conversation.hold(request, &mut asked, &|_| None);
        match held {
            Ok(answer) => {
                let pid = answer.restore.map(|restored| Pid::from_raw(restored.pid)).or(self.pid);
                let pid =
                    pid.ok_or_else(|| Failed::start("understand criu")(io::ErrorKind::InvalidData.into()))?;
                self.pid = Some(pid);
                let opened = rustix::process::Pid::from_raw(pid.as_raw())
                    .ok_or(rustix::io::Errno::SRCH)
                    .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()));
                match opened {
                    Ok(pidfd) => Ok(Restored { pid, pidfd }),
                    Err(errno) => {
                        self.end();
                        Err(Failed::start("find the restored task")(errno.into()))
                    }
                }
            }
            Err(failed) => {
                self.end();
                let log = restore.lazy.and_then(|lazy| Some(lazy.work.join(restore.log.file_name()?)));
                aftermath::remove_mounts(log.as_deref().unwrap_or(restore.log))
                    .map_err(Failed::start("remove what criu has left"))?;
                Err(failed)
            }
        }
    }

    /// Ends the first task, and with its pid namespace all the others.
    fn end(&self) {
        let Some(pid) = self.pid.or_else(|| self.search()) else { return };
        // It is this process's child and has not been waited for: the number cannot mean anybody else.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }

    /// The first task of a CRIU that died before it could say its number: a child of this process that still runs CRIU's
    /// program.
    fn search(&self) -> Option<Pid> {
        let program = self.program.as_ref()?;
        // Of this thread: a CRIU that another has started is none of this one's.
        let list = fs::read_to_string("/proc/thread-self/children").ok()?;
        let children: Vec<i32> = list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let own = |pid: &i32| {
            u32::try_from(*pid) != Ok(self.criu)
                && fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == *program)
        };
        children.into_iter().find(own).map(Pid::from_raw)
    }
}

fn options(restore: &Restore<'_>, inherited: &[OwnedFd], base: Options) -> io::Result<Options> {
    let root = restore.root.to_str().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
    let inherit = restore.inherit.iter().zip(inherited);
    Ok(Options {
        root: Some(root),
        external: restore.external.clone(),
        inherit_fd: inherit
            .map(|((key, _), fd)| InheritFd { key: key.clone(), fd: fd.as_raw_fd() })
            .collect(),
        rst_sibling: Some(true),
        manage_cgroups_mode: Some(CGROUPS_SOFT),
        lazy_pages: restore.lazy.map(|_| true),
        cg_root: cgroup_root(restore.cgroup_root),
        ..base
    })
}
