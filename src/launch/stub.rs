//! The stub init of `run --as-pid2`: PID 1 that reaps, passes signals on, and ends with the payload's status.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::signal;
use crate::sys::exit_now;

/// The stub's life; `payload` is PID 2.
pub(super) fn live(payload: Pid) -> ! {
    // Everything that could lead out, or keep a pipe or terminal open, is the payload's now.
    drop_descriptors();
    let mut all = SigSet::all();
    // A fault of our own must not wait in a queue.
    for fault in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT] {
        all.remove(fault);
    }
    let _ = all.thread_set_mask();
    loop {
        if let Some(status) = reap(payload) {
            // The end of PID 1 ends all that is left (man 7 pid_namespaces).
            exit_now(status);
        }
        match crate::sys::wait_signal(&all) {
            Ok(libc::SIGCHLD) | Err(_) => {}
            // systemd's requests to halt, power off and reboot: nothing else is here to be shut down.
            Ok(number) if (3..=6).any(|offset| signal::Signal::realtime(offset).number() == number) => {
                let _ = kill(payload, Signal::SIGTERM);
            }
            Ok(number) => {
                if let Ok(known) = Signal::try_from(number) {
                    let _ = kill(payload, known);
                }
            }
        }
    }
}

/// Reaps all that has ended; the status when the payload is among them.
fn reap(payload: Pid) -> Option<u8> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == payload => return u8::try_from(status & 0xff).ok(),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == payload => return u8::try_from(128 + signal as i32).ok(),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            _ => {}
        }
    }
}

fn drop_descriptors() {
    // Without /dev/null inside there is nothing to put in their place; then they stay.
    if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let _ = crate::sys::close_range(3, i32::MAX);
}
