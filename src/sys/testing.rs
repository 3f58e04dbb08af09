//! For tests alone: a forked child in which a test may unshare namespaces and lose privileges.

use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Runs `body` in a forked child and gives back the text that it returns.
///
/// [`super::fork`] cannot be used from a test: the harness always has a second thread. In the child there is one thread,
/// so that `fork` works in `body`.
///
/// # Panics
/// When `body` does, with its message.
pub fn in_child(body: impl FnOnce() -> String) -> String {
    let (mut reader, mut writer) = std::io::pipe().expect("pipe");
    // SAFETY: the child runs test code only and leaves by _exit; glibc makes its allocator usable after fork, and no
    // test holds a lock that `body` takes.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        ForkResult::Child => {
            drop(reader);
            let (text, status) = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(text) => (text, 0),
                Err(panic) => (panic_text(&*panic), 1),
            };
            let written = writer.write_all(text.as_bytes());
            // SAFETY: _exit takes no pointer and does not return; nothing of this copy of the harness may run on.
            unsafe { libc::_exit(if written.is_ok() { status } else { 2 }) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("text from the child");
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)), "{text}");
            text
        }
    }
}

/// Waits for a child that was forked with [`super::fork`] inside a test's body.
///
/// # Panics
/// When it did not exit with 0.
pub fn expect_success(child: Pid) {
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

/// A system call with these arguments: its errno, or 0.
pub fn call(number: i64, arguments: [i64; 3]) -> i32 {
    let [one, two, three] = arguments;
    // SAFETY: tests give calls here that take no pointer, or that are refused before they look at one.
    let result = unsafe { libc::syscall(number, one, two, three) };
    if result >= 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
