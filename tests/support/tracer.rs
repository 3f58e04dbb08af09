//! Runs the program under ptrace(2) and strikes at one chosen system call of one chosen process: the call fails with an
//! errno, or the process is killed, signalled or held right there.
//!
//! Not strace's injection: that counts the calls of each process alike, so that "the leader's second mount(2)" cannot be
//! said. A run without a strike gives the list of all calls there are to strike at.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

/// So long a run may take until it counts as hung, and its processes are killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// PTRACE_EVENT_STOP, a stop that is not a signal's (man 2 ptrace); libc has it for other targets only.
const EVENT_STOP: i32 = 128;

/// Which of a machine's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Role {
    Supervisor,
    Outer,
    Leader,
    /// PID 2 under the stub init, until it executes.
    Second,
}

impl Role {
    /// Of the process that it forks.
    fn child(self) -> Self {
        match self {
            Self::Supervisor => Self::Outer,
            Self::Outer => Self::Leader,
            Self::Leader | Self::Second => Self::Second,
        }
    }
}

/// One system call of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub role: Role,
    pub number: i64,
    /// The how manieth of this number in this process, from 0.
    pub nth: usize,
    /// The path in its arguments, or the file that it writes to, or its second argument.
    pub object: String,
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// It is not executed and gives this errno.
    Fail(Errno),
    /// Its process is killed before it is executed.
    Kill,
    /// The supervisor gets this signal before it is executed.
    Signal(Signal),
    /// The process does not get past it, and the supervisor gets this signal.
    Hold(Signal),
}

/// How a run went.
#[derive(Debug)]
pub(crate) struct Run {
    /// 128 and the signal where one killed it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// All calls up to the strike.
    pub calls: Vec<Call>,
    pub struck: bool,
    /// Not all of its processes ended by themselves.
    pub hung: bool,
}

struct Tracee {
    role: Role,
    counts: HashMap<i64, usize>,
    at: At,
    fail: Option<Errno>,
    /// Whether what it does belongs to the program: the dynamic linker and the runtime's start do not.
    counted: bool,
}

/// Where a process is when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In its own code: what comes next is a call.
    Program,
    /// In its own code, about to make the call again that was interrupted.
    Interrupted,
    /// In a call.
    Kernel,
}

struct Tracer<'a> {
    strike: Option<(&'a Call, Strike)>,
    supervisor: Pid,
    tracees: HashMap<Pid, Tracee>,
    /// Stopped at their birth before their parent's stop told who they are.
    newborn: Vec<Pid>,
    calls: Vec<Call>,
    struck: bool,
    code: Option<i32>,
    watch: Watch,
}

/// Runs `program` with what it writes going to files in `directory`.
#[expect(clippy::zombie_processes, reason = "a tracer waits for all that it follows")]
pub(crate) fn run(
    program: &Path,
    arguments: &[String],
    directory: &Path,
    strike: Option<(&Call, Strike)>,
) -> Run {
    let (out, err) = (directory.join("stdout"), directory.join("stderr"));
    // A shell that waits for a line: time to attach, which nothing of the program's own is lost to.
    let mut child = Command::new("sh")
        .args(["-c", r#"read line; exec "$@" </dev/null"#, "sh"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let supervisor = Pid::from_raw(child.id().cast_signed());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(supervisor, options).unwrap();
    let mut tracer = Tracer {
        strike,
        supervisor,
        tracees: HashMap::new(),
        newborn: Vec::new(),
        calls: Vec::new(),
        struck: false,
        code: None,
        watch: Watch::start(),
    };
    tracer.add(supervisor, Role::Supervisor);
    drop(child.stdin.take());
    tracer.follow();
    let Tracer { calls, struck, code, watch, .. } = tracer;
    Run {
        code: code.expect("the program has ended"),
        stdout: String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned(),
        stderr: String::from_utf8_lossy(&fs::read(err).unwrap()).into_owned(),
        calls,
        struck,
        hung: watch.end(),
    }
}

impl Tracer<'_> {
    fn add(&mut self, pid: Pid, role: Role) {
        let counted = role != Role::Supervisor;
        self.watch.add(pid);
        self.tracees
            .insert(pid, Tracee { role, counts: HashMap::new(), at: At::Program, fail: None, counted });
    }

    /// Until there is nobody left to follow.
    fn follow(&mut self) {
        // Only what this thread traces: other tests have children of their own.
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.ended(pid, 128 + signal as i32),
                Ok(WaitStatus::PtraceSyscall(pid)) => self.at_call(pid),
                Ok(WaitStatus::PtraceEvent(pid, signal, event)) => self.at_event(pid, signal, event),
                Ok(WaitStatus::Stopped(pid, signal)) => self.go_on(pid, Some(signal)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return,
                Err(error) => panic!("waitpid: {error}"),
            }
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) {
        if pid == self.supervisor {
            self.code = Some(code);
        }
        let Some(ended) = self.tracees.remove(&pid) else { return };
        // Killed in the middle of a fork, it does not say whom it has borne.
        for child in std::mem::take(&mut self.newborn) {
            self.add(child, ended.role.child());
            self.go_on(child, None);
        }
    }

    /// A process that was killed meanwhile is `ESRCH`; its end is reported by itself.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let seen_enough = self.struck && self.tracees.get(&pid).is_none_or(|tracee| tracee.fail.is_none());
        let result = if seen_enough { ptrace::cont(pid, signal) } else { ptrace::syscall(pid, signal) };
        assert!(matches!(result, Ok(()) | Err(Errno::ESRCH)), "{result:?}");
    }

    fn at_event(&mut self, pid: Pid, signal: Signal, event: i32) {
        match event {
            EVENT_STOP if !self.tracees.contains_key(&pid) => {
                self.watch.add(pid);
                return self.newborn.push(pid);
            }
            EVENT_STOP if signal != Signal::SIGTRAP => {
                // Job control: it stays stopped, as it would without a tracer.
                return;
            }
            // Stopped on its way out of execve(2), whose beginning nobody looked at.
            libc::PTRACE_EVENT_EXEC if pid == self.supervisor => {
                self.tracees.get_mut(&pid).unwrap().at = At::Kernel;
            }
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.born(pid);
            }
            // What it executes is the payload's own, and has to be free for that.
            libc::PTRACE_EVENT_EXEC => {
                self.tracees.remove(&pid);
                let _ = ptrace::detach(pid, None);
                return;
            }
            _ => {}
        }
        self.go_on(pid, None);
    }

    fn born(&mut self, parent: Pid) {
        let Ok(message) = ptrace::getevent(parent) else { return };
        let child = Pid::from_raw(i32::try_from(message).unwrap());
        self.add(child, self.tracees[&parent].role.child());
        if let Some(found) = self.newborn.iter().position(|newborn| *newborn == child) {
            self.newborn.swap_remove(found);
            self.go_on(child, None);
        }
    }

    fn at_call(&mut self, pid: Pid) {
        let Some(tracee) = self.tracees.get_mut(&pid) else { return self.go_on(pid, None) };
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let before = tracee.at;
        if before == At::Kernel {
            // Interrupted without a signal to deliver, it is begun again (ERESTARTSYS and its kin).
            let interrupted = (-516..=-512).contains(&registers.rax.cast_signed());
            tracee.at = if interrupted { At::Interrupted } else { At::Program };
            if let Some(errno) = tracee.fail.take() {
                registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return self.go_on(pid, None);
        }
        tracee.at = At::Kernel;
        let number = registers.orig_rax.cast_signed();
        // The runtime's last deed before `main`.
        if !tracee.counted {
            tracee.counted = number == libc::SYS_sigaltstack && registers.rdi != 0;
        } else if !self.struck && before == At::Program {
            let count = tracee.counts.entry(number).or_default();
            let nth = *count;
            *count += 1;
            let object = object(pid, number, &registers);
            let call = Call { role: tracee.role, number, nth, object };
            let strike =
                self.strike.filter(|(at, _)| (at.role, at.number, at.nth) == (call.role, number, nth));
            self.calls.push(call);
            if let Some((_, strike)) = strike {
                return self.strike(pid, strike, registers);
            }
        }
        self.go_on(pid, None);
    }

    fn strike(&mut self, pid: Pid, strike: Strike, mut registers: libc::user_regs_struct) {
        self.struck = true;
        match strike {
            Strike::Fail(errno) => {
                // No such call: the kernel does nothing, and its ENOSYS is replaced when it returns.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers).unwrap();
                self.tracees.get_mut(&pid).unwrap().fail = Some(errno);
                self.go_on(pid, None);
            }
            Strike::Kill => kill(pid, Signal::SIGKILL).unwrap(),
            Strike::Signal(signal) => {
                kill(self.supervisor, signal).unwrap();
                self.go_on(pid, None);
            }
            Strike::Hold(signal) => kill(self.supervisor, signal).unwrap(),
        }
    }
}

/// Calls that take a path, and which argument it is.
fn object(pid: Pid, number: i64, registers: &libc::user_regs_struct) -> String {
    let address = match number {
        libc::SYS_open
        | libc::SYS_mkdir
        | libc::SYS_rmdir
        | libc::SYS_unlink
        | libc::SYS_rename
        | libc::SYS_chmod
        | libc::SYS_chown
        | libc::SYS_chdir
        | libc::SYS_umount2
        | libc::SYS_pivot_root
        | libc::SYS_readlink
        | libc::SYS_execve => registers.rdi,
        libc::SYS_openat
        | libc::SYS_openat2
        | libc::SYS_statx
        | libc::SYS_newfstatat
        | libc::SYS_mkdirat
        | libc::SYS_mknodat
        | libc::SYS_unlinkat
        | libc::SYS_mount
        | libc::SYS_open_tree
        | libc::SYS_mount_setattr
        | libc::SYS_symlink => registers.rsi,
        libc::SYS_move_mount => registers.r10,
        libc::SYS_write => {
            let file = fs::read_link(format!("/proc/{pid}/fd/{}", registers.rdi));
            return file.map_or_else(|error| error.to_string(), |path| path.display().to_string());
        }
        _ => return format!("{:#x}", registers.rsi),
    };
    let mut text = [0; 256];
    let length = File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_at(&mut text, address))
        .unwrap_or_default();
    let end = text[..length].iter().position(|byte| *byte == 0).unwrap_or(length);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

/// Kills what runs for too long.
struct Watch {
    pids: Arc<Mutex<Vec<OwnedFd>>>,
    done: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watch {
    fn start() -> Self {
        let pids = Arc::new(Mutex::new(Vec::<OwnedFd>::new()));
        let (done, finished) = channel();
        let watched = Arc::clone(&pids);
        let thread = std::thread::spawn(move || {
            let mut hung = false;
            while finished.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                hung = true;
                for pidfd in watched.lock().unwrap().iter() {
                    let _ = pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
                }
            }
            hung
        });
        Self { pids, done, thread }
    }

    fn add(&self, pid: Pid) {
        let pid = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
        // It can have been killed already.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            self.pids.lock().unwrap().push(pidfd);
        }
    }

    /// Whether anything had to be killed.
    fn end(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}'s call {} #{} ({})", self.role, self.number, self.nth, self.object)
    }
}
