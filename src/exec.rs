//! The last steps of a process that becomes somebody else's program: signals as new, the program looked up and executed.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::sys::signal::SigSet;
use nix::unistd::execve;

use crate::sys::set_default_action;

/// Gives every signal its default action and unblocks all: neither survives osier in a payload (man 7 signal, execve(2)
/// keeps what is ignored and what is blocked).
///
/// # Errors
/// What sigprocmask(2) gives.
pub fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // Those that cannot be changed are as they should be: SIGKILL, SIGSTOP, and two that libc hides.
        let _ = set_default_action(signal);
    }
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Executes `program`, looked up in the environment's PATH when its name has no `/`; returns only with the reason why not.
pub fn execute(program: &OsStr, argv: &[OsString], environment: &[(String, OsString)]) -> io::Error {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
    let strings = || -> io::Result<(Vec<CString>, Vec<CString>)> {
        let argv =
            argv.iter().map(|argument| c_string(argument.as_bytes().to_vec())).collect::<io::Result<_>>()?;
        let environment = environment
            .iter()
            .map(|(key, value)| c_string([key.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<io::Result<_>>()?;
        Ok((argv, environment))
    };
    let (arguments, variables) = match strings() {
        Ok(strings) => strings,
        Err(error) => return error,
    };
    let mut last = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(program, environment) {
        let Err(error) =
            c_string(candidate).map(|path| execve(&path, &arguments, &variables)).and_then(|result| {
                let Err(errno) = result;
                Err::<Infallible, _>(io::Error::from(errno))
            });
        // As execvp(3): go on looking past what is not there, remember what may not be executed.
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => last = error,
            _ => return error,
        }
    }
    last
}

fn candidates(program: &OsStr, environment: &[(String, OsString)]) -> Vec<Vec<u8>> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    if name.is_empty() {
        return Vec::new();
    }
    let path = environment.iter().find(|(key, _)| key == "PATH").map(|(_, value)| value.as_bytes());
    path.unwrap_or(b"/usr/bin:/bin")
        .split(|byte| *byte == b':')
        // An empty one is the working directory (man 7 environ).
        .map(|dir| [if dir.is_empty() { b"." } else { dir }, b"/", name].concat())
        .collect()
}
