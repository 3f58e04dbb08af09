//! One request to CRIU from its sending to its answer, with the hooks between.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::interception::Watch;
use super::log::{self, Task};
use super::message::{Answer, Options, Request, Type};
use super::worker::Worker;
use super::{Failed, Hook};
use crate::interrupt::Interrupt;

/// CRIU's log level: debugging, without which the log does not say what it was about when it failed.
const LOG_LEVEL: i32 = 4;

/// A request that is under way.
pub(super) struct Conversation<'a> {
    pub(super) worker: &'a mut Worker,
    pub(super) log: &'a Path,
    pub(super) interrupt: Option<&'a Interrupt>,
    pub(super) stop: Stop,
    /// Hung up when there is no use in going on: CRIU is killed then.
    pub(super) needs: Option<BorrowedFd<'a>>,
    /// What CRIU is watched for from the first hook on.
    pub(super) watch: Option<Watch>,
}

/// What is done when a signal has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// CRIU is told to give up at the next hook, where it puts back what it has changed in the tasks.
    AtHook,
    /// CRIU is killed, until the tasks are let go: what it has made is to go anyway.
    AtOnce,
}

/// What is told when CRIU waits: which point, and the first task's process ID where CRIU says it.
pub(super) type Ask<'a> = dyn FnMut(Hook, Option<Pid>) -> io::Result<()> + 'a;

impl Conversation<'_> {
    /// Sends `request` and gives CRIU's last answer, which is that it succeeded. Each hook is put to `ask`; when that
    /// fails, or a signal has come, CRIU is told to give up there.
    ///
    /// # Errors
    /// [`Failed`]; the worker has ended.
    pub(super) fn hold(
        &mut self,
        request: &Request,
        ask: &mut Ask<'_>,
        tasks: &dyn Fn(i32) -> Option<Task>,
    ) -> Result<Answer, Failed> {
        self.worker.send(request).map_err(Failed::start("talk to criu"))?;
        let mut own: Option<Failed> = None;
        let mut let_go = false;
        loop {
            if self.stop == Stop::AtOnce && own.is_none() && (self.came() || self.is_alone()) {
                own = Some(Failed::Interrupted);
                self.worker.kill();
            }
            if !self.worker.wait(&[]).map_err(Failed::start("wait for criu"))? {
                if self.stop == Stop::AtOnce && own.is_none() && !let_go {
                    // It may be at work for ever.
                    own = ask(Hook::Waiting, None).map_err(Failed::Hook).err();
                    own.iter().for_each(|_| self.worker.kill());
                }
                continue;
            }
            let Some(answer) = self.worker.receive().map_err(Failed::start("understand criu"))? else {
                let status = self.worker.end().map_err(Failed::start("wait for criu"))?;
                let log = self.log.to_owned();
                return Err(own.unwrap_or_else(|| Failed::Died { how: self.worker.obituary(status), log }));
            };
            let Some(notify) = answer.notify.as_ref().filter(|_| answer.kind == i32::from(Type::Notify))
            else {
                self.worker.end().map_err(Failed::start("wait for criu"))?;
                return match own {
                    Some(failed) => Err(failed),
                    None if answer.success => Ok(answer),
                    None => Err(self.refused(&answer, tasks)),
                };
            };
            let hook = Hook::from_name(notify.script.as_deref().unwrap_or_default());
            let asked = match &own {
                // What is asked after that is part of giving up.
                Some(_) => Ok(()),
                None if self.came() => Err(Failed::Interrupted),
                None => self
                    .begin_watch()
                    .and_then(|()| ask(hook, notify.pid.map(Pid::from_raw)).map_err(Failed::Hook)),
            };
            if hook == Hook::PreResume && asked.is_ok() {
                // The tasks are let go: who wants their end asks them for it.
                (self.interrupt, let_go) = (None, true);
            }
            let kind = Type::Notify.into();
            let reply = Request { kind, notify_success: Some(asked.is_ok()), ..Request::default() };
            own = own.or(asked.err());
            // One that has just been killed is heard of by the next read.
            let _ = self.worker.send(&reply);
        }
    }

    fn begin_watch(&mut self) -> Result<(), Failed> {
        let Some(watch) = self.watch.take() else { return Ok(()) };
        let is_needed = !watch.defects.is_empty();
        match self.worker.intercept(watch) {
            // Then only an end in the middle of it will leave something.
            Err(_) if !is_needed => Ok(()),
            result => result.map_err(Failed::start("get past defects of criu")),
        }
    }

    fn came(&self) -> bool {
        self.interrupt.is_some_and(|interrupt| interrupt.check().is_err())
    }

    fn is_alone(&self) -> bool {
        let poll = |fd| poll(&mut [PollFd::new(fd, PollFlags::empty())], PollTimeout::ZERO);
        self.needs.is_some_and(|fd| poll(fd).is_ok_and(|hung_up| hung_up > 0))
    }

    fn refused(&self, answer: &Answer, tasks: &dyn Fn(i32) -> Option<Task>) -> Failed {
        let text = fs::read(self.log).unwrap_or_default();
        let cause = log::cause(&String::from_utf8_lossy(&text), tasks)
            .or_else(|| answer.message.as_deref().map(|message| log::sentence(message.trim())))
            .or_else(|| answer.errno.map(|errno| crate::error::reason(&io::Error::from_raw_os_error(errno))))
            .unwrap_or_else(|| "criu does not say why".to_owned());
        Failed::Refused { cause, log: self.log.to_owned() }
    }
}

/// What CRIU writes where it works, of use to nobody here (criu/image-desc.c).
const BYWORK: [&str; 3] = ["stats-dump", "stats-restore", "irmap-cache"];

/// The directories that a request names by descriptor, kept open until CRIU has opened them itself (by
/// /proc/PID/fd/N of this process).
pub(super) struct Directories {
    images: File,
    work: File,
    log: String,
}

impl Directories {
    /// `images`, and the directory that the file `log` is to be in.
    ///
    /// # Errors
    /// [`Failed::Start`] when one cannot be opened.
    pub(super) fn open(images: &Path, log: &Path) -> Result<Self, Failed> {
        let open =
            |path: &Path| File::open(path).map_err(Failed::start(format!("open '{}'", path.display())));
        let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What an earlier try has left would be taken for this one's.
        let _ = fs::remove_file(log);
        Ok(Self { images: open(images)?, work: open(log.parent().unwrap_or(Path::new(".")))?, log: name })
    }

    /// As [`Directories::open`], of a CRIU that is to work in the directory `work`: there is a link to the log, which CRIU wants where
    /// it works.
    ///
    /// # Errors
    /// [`Failed::Start`] when one cannot be opened or made.
    pub(super) fn elsewhere(images: &Path, log: &Path, work: &Path) -> Result<Self, Failed> {
        let mut this = Self::open(images, log)?;
        let open = || {
            symlink(log, work.join(&this.log))?;
            File::open(work)
        };
        this.work = open().map_err(Failed::start(format!("use '{}'", work.display())))?;
        Ok(this)
    }

    /// The options that name them.
    pub(super) fn options(&self) -> Options {
        use std::os::fd::AsRawFd;
        Options {
            images_dir_fd: self.images.as_raw_fd(),
            work_dir_fd: Some(self.work.as_raw_fd()),
            log_file: Some(self.log.clone()),
            log_level: Some(LOG_LEVEL),
            notify_scripts: Some(true),
            tcp_established: Some(true),
            file_locks: Some(true),
            ..Options::default()
        }
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        for name in BYWORK {
            let _ = rustix::fs::unlinkat(&self.work, name, rustix::fs::AtFlags::empty());
        }
    }
}
