//! CRIU under a debugger, while it dumps: some of its own system calls are answered in the kernel's place, by
//! breakpoints at the two functions of the C library by which CRIU makes them, getsockopt(2) and syscall(2); and when it is killed, it is
//! held at its end until what it has changed is put back, as the tasks run on from there.
//!
//! A thread of osier's traces CRIU, as ptrace(2) ties the tracer to one, and it is there only while CRIU dumps. It begins
//! when CRIU waits at its first hook, so that CRIU has tried the kernel out before (which it does with traced children of
//! its own). Its children are traced as well, as they have the traps in their memory, until they execute another program.

mod call;
mod limits;
mod symbol;

use std::cell::Cell;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::aftermath::Scene;
use super::remedy::Defect;
use call::{Call, LANDING, TRAP, memory};

/// What CRIU is watched for.
#[derive(Debug)]
pub(super) struct Watch {
    /// What its calls are answered for.
    pub(super) defects: Vec<Defect>,
    /// What is put back when it is killed.
    pub(super) scene: Scene,
}

/// A CRIU that is being watched.
#[derive(Debug)]
pub(super) struct Interception(Option<JoinHandle<Option<ExitStatus>>>);

impl Interception {
    /// Begins to watch the process `criu`, which does nothing at the moment.
    ///
    /// # Errors
    /// What ptrace(2) gives; `NotFound` when CRIU has no C library of the usual kind.
    pub(super) fn begin(criu: Pid, watch: Watch) -> io::Result<Self> {
        let (told, begun) = mpsc::channel();
        let thread = std::thread::Builder::new().name("criu".to_owned()).spawn(move || {
            let tracer = Tracer::attach(criu, watch);
            match tracer {
                Ok(tracer) => {
                    let _ = told.send(Ok(()));
                    tracer.follow()
                }
                Err(error) => {
                    let _ = told.send(Err(error));
                    None
                }
            }
        })?;
        let this = Self(Some(thread));
        begun.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map(|()| this)
    }

    /// Waits for CRIU's end; gives how that was where nobody else can be told any more.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        self.0.take()?.join().ok().flatten()
    }
}

/// Waits for the tracer's end, which is that of CRIU: only then may somebody else wait for CRIU.
impl Drop for Interception {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            let _ = thread.join();
        }
    }
}

/// A function that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    /// `getsockopt(fd, level, name, value, length)`
    Getsockopt,
    /// `syscall(number, …)`
    Syscall,
}

struct Point {
    function: Function,
    address: u64,
    /// What stood where the trap is.
    original: Vec<u8>,
    /// Whether the first instruction may be left out.
    landing: bool,
}

struct Tracer {
    criu: Pid,
    points: Vec<Point>,
    scene: Scene,
    /// Whether that has been cleared.
    is_cleared: Cell<bool>,
}

impl Tracer {
    fn attach(criu: Pid, watch: Watch) -> io::Result<Self> {
        let functions = if watch.defects.is_empty() {
            None
        } else {
            Some(symbol::find(criu, ["getsockopt", "syscall"])?)
        };
        let forks = Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK | Options::PTRACE_O_TRACECLONE;
        ptrace::seize(criu, forks | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACEEXIT)?;
        ptrace::interrupt(criu)?;
        waitpid(criu, Some(WaitPidFlag::__WALL))?;
        let mut points = Vec::new();
        if let Some([getsockopt, syscall]) = functions {
            for (defect, function, address) in [
                (Defect::PassCredentials, Function::Getsockopt, getsockopt),
                (Defect::ForeignLimits, Function::Syscall, syscall),
            ] {
                if watch.defects.contains(&defect) {
                    points.push(plant(criu, function, address)?);
                }
            }
        }
        ptrace::cont(criu, None)?;
        Ok(Self { criu, points, scene: watch.scene, is_cleared: Cell::new(false) })
    }

    /// Until CRIU has ended. Its end itself is left for who started it to wait for, but where it is killed between the look and the
    /// wait for what was seen: then this gives it.
    fn follow(&self) -> Option<ExitStatus> {
        let look = WaitPidFlag::WEXITED
            | WaitPidFlag::WSTOPPED
            | WaitPidFlag::WNOWAIT
            | WaitPidFlag::__WALL
            | WaitPidFlag::__WNOTHREAD;
        loop {
            let seen = match waitid(Id::All, look) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            if self.how_it_ended(seen).is_some() {
                return None;
            }
            let Some(pid) = seen.pid() else { continue };
            let mut heard = waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).ok();
            while let Some(status) = heard {
                if let Some(ended) = self.how_it_ended(status) {
                    return Some(ended);
                }
                // One that has been killed meanwhile is heard of again.
                heard = self.go_on(status).ok().flatten();
            }
        }
    }

    /// CRIU's end, if that is what `status` tells of.
    fn how_it_ended(&self, status: WaitStatus) -> Option<ExitStatus> {
        match status {
            WaitStatus::Exited(pid, code) if pid == self.criu => Some(ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(pid, signal, _) if pid == self.criu => {
                // It does not stop on its way out when it is killed while it executes a single instruction.
                self.clear();
                Some(ExitStatus::from_raw(signal as i32))
            }
            _ => None,
        }
    }

    /// Puts back what a CRIU that is killed cannot. Nobody is there to be told when that fails; the tasks must not be held for it.
    fn clear(&self) {
        if !self.is_cleared.replace(true) {
            let _ = self.scene.clear();
        }
    }

    /// Has whoever `status` tells of go on. Gives what has been heard meanwhile in its place.
    fn go_on(&self, status: WaitStatus) -> io::Result<Option<WaitStatus>> {
        match status {
            WaitStatus::PtraceEvent(pid, _, event) if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 => {
                ptrace::detach(pid, None)?;
            }
            WaitStatus::PtraceEvent(pid, _, event)
                if pid == self.criu && event == ptrace::Event::PTRACE_EVENT_EXIT as i32 =>
            {
                // Its status as wait(2) gives it: below 128 is the signal that has killed it.
                if ptrace::getevent(pid)? & 0x7f != 0 {
                    self.clear();
                }
                ptrace::cont(pid, None)?;
            }
            WaitStatus::PtraceEvent(pid, ..) => ptrace::cont(pid, None)?,
            WaitStatus::Stopped(pid, Signal::SIGTRAP) => {
                let call = Call::of(pid)?;
                let address = call.address();
                let Some(point) = self.points.iter().find(|point| point.address == address) else {
                    ptrace::cont(pid, Some(Signal::SIGTRAP))?;
                    return Ok(None);
                };
                if let Some(heard) = point.pass(call)? {
                    return Ok(Some(heard));
                }
                ptrace::cont(pid, None)?;
            }
            WaitStatus::Stopped(pid, signal) => ptrace::cont(pid, Some(signal))?,
            _ => {}
        }
        Ok(None)
    }
}

fn plant(criu: Pid, function: Function, address: u64) -> io::Result<Point> {
    let memory = memory(criu)?;
    let mut first = [0; LANDING.len()];
    memory.read_exact_at(&mut first, address)?;
    memory.write_all_at(TRAP, address)?;
    Ok(Point { function, address, original: first[..TRAP.len()].to_vec(), landing: first == *LANDING })
}

impl Point {
    /// Answers the call, or lets the function do it. Gives what has been heard of the caller instead of that it can go on.
    fn pass(&self, call: Call) -> io::Result<Option<WaitStatus>> {
        if self.answer(&call)? {
            return call.leave(0).map(|()| None);
        }
        if self.landing {
            return call.jump(self.address + LANDING.len() as u64).map(|()| None);
        }
        self.step_over(call)
    }

    /// Whether the answer has been written: that the call succeeded.
    fn answer(&self, call: &Call) -> io::Result<bool> {
        let arguments = call.arguments();
        match self.function {
            Function::Getsockopt => {
                let [fd, level, name, value, length] = arguments;
                // The C type is int: what stands above is not defined.
                let [fd, level, name] = [fd, level, name].map(|argument| argument as i32);
                let asks = level == libc::SOL_SOCKET && [libc::SO_PASSCRED, libc::SO_PASSSEC].contains(&name);
                if !asks || !passes_nothing(call.pid(), fd) {
                    return Ok(false);
                }
                call.memory().write_all_at(&0_i32.to_ne_bytes(), value)?;
                call.memory().write_all_at(&4_u32.to_ne_bytes(), length)?;
                Ok(true)
            }
            Function::Syscall => {
                let [number, pid, resource, new, old] = arguments;
                let (number, pid) = (number as libc::c_long, pid as i32);
                if number != libc::SYS_prlimit64 || pid == 0 || new != 0 || old == 0 {
                    return Ok(false);
                }
                // Without an answer the kernel gives its own.
                let Ok([soft, hard]) = limits::read(pid, resource) else { return Ok(false) };
                call.memory().write_all_at(&[soft.to_ne_bytes(), hard.to_ne_bytes()].concat(), old)?;
                Ok(true)
            }
        }
    }

    /// Executes the instruction that the trap stands in place of. Gives what has been heard of the caller when it was killed meanwhile.
    fn step_over(&self, call: Call) -> io::Result<Option<WaitStatus>> {
        let pid = call.pid();
        let memory = memory(pid)?;
        memory.write_all_at(&self.original, self.address)?;
        call.jump(self.address)?;
        ptrace::step(pid, None)?;
        loop {
            match waitpid(pid, Some(WaitPidFlag::__WALL))? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => break,
                WaitStatus::Stopped(_, signal) => ptrace::step(pid, Some(signal))?,
                heard => return Ok(Some(heard)),
            }
        }
        memory.write_all_at(TRAP, self.address).map(|()| None)
    }
}

/// Whether the kernel says that the socket `fd` of the process `pid` is of a family without credentials: asked of the socket itself.
fn passes_nothing(pid: Pid, fd: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid.as_raw()) else { return false };
    let socket = pidfd_open(pid, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, fd, PidfdGetfdFlags::empty()));
    socket.is_ok_and(|socket| getsockopt(&socket, sockopt::PassCred) == Err(Errno::EOPNOTSUPP))
}
