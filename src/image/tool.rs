//! Running the programs that make a tree, so that nothing of them outlives the build.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::build::BuildError;
use crate::interrupt::Interrupt;

/// How much of a program's output is kept for the error message, in bytes.
const KEPT: usize = 16 << 10;
/// How many lines of it are shown.
const SHOWN: usize = 15;

/// The file that `name` means in the search path `search`, as execvp(3) finds it.
pub(super) fn find(search: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(search).map(|directory| directory.join(name)).find(|path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

/// `program` in pid and mount namespaces of its own: when it is killed, everything that it started is dead and everything
/// that it mounted is gone; and it is killed when this process dies, whatever of.
pub(super) fn contained(program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "--"]).arg(program);
    command
}

/// Runs `command` to its end and returns what it wrote (of very much, the end), or kills it when a signal comes. `heard`
/// gets each line, and `None` ten times a second when there is none.
///
/// # Errors
/// [`BuildError`], with its last lines if it fails.
pub(super) fn run(
    name: &str,
    mut command: Command,
    interrupt: &Interrupt,
    heard: &mut dyn FnMut(Option<&str>),
) -> Result<String, BuildError> {
    let cannot = |cause| BuildError::Io { step: format!("run {name}"), cause };
    let (mut reader, writer) = io::pipe().map_err(cannot)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
    // A ^C on the terminal is for osier, which ends the program in its own way.
    command.process_group(0).env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
    let mut child = command.spawn().map_err(cannot)?;
    // It has the writing ends: the reading end would never see the end of the file.
    drop(command);

    let mut said = Vec::new();
    let listened = listen(name, &mut reader, &mut said, interrupt, heard);
    if listened.is_err() {
        end(&mut child, &mut reader);
    }
    let status = child.wait().map_err(cannot)?;
    listened?;
    let text = String::from_utf8_lossy(&said).into_owned();
    if status.success() { Ok(text) } else { Err(failed(name, status, &text)) }
}

fn failed(name: &str, status: ExitStatus, text: &str) -> BuildError {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let ended = match status.code() {
        Some(code) => format!("failed with exit status {code}"),
        None => format!("was ended: {status}"),
    };
    let said = lines[lines.len().saturating_sub(SHOWN)..].iter().map(|line| printable(line)).collect();
    BuildError::Tool { tool: name.to_owned(), ended, said }
}

fn printable(line: &str) -> String {
    line.chars().filter(|char| !char.is_control()).collect()
}

/// Reads until the end of the file, which comes when the last process that holds the pipe has ended.
fn listen(
    name: &str,
    reader: &mut PipeReader,
    said: &mut Vec<u8>,
    interrupt: &Interrupt,
    heard: &mut dyn FnMut(Option<&str>),
) -> Result<(), BuildError> {
    let cannot = |cause| BuildError::Io { step: format!("listen to {name}"), cause };
    let mut line = 0;
    let mut buffer = [0; 4096];
    loop {
        interrupt.check()?;
        if !readable(reader).map_err(cannot)? {
            heard(None);
            continue;
        }
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(cannot(error)),
        }
        while let Some(length) = said[line..].iter().position(|byte| *byte == b'\n') {
            heard(Some(&String::from_utf8_lossy(&said[line..line + length])));
            line += length + 1;
        }
        if said.len() > 2 * KEPT && line > KEPT {
            said.drain(..line - KEPT);
            line = KEPT;
        }
    }
}

/// Waits a tenth of a second, or until a signal comes, for something to read or the end of the file.
fn readable(reader: &PipeReader) -> io::Result<bool> {
    let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(100_u8)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Kills the program and waits, for at most ten seconds, until nothing holds the pipe any more: then nothing writes into
/// the tree any more.
fn end(child: &mut Child, reader: &mut PipeReader) {
    let Ok(group) = i32::try_from(child.id()) else { return };
    // It has not been waited for, so the number cannot mean anybody else.
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        match readable(reader) {
            Ok(true) if matches!(reader.read(&mut buffer), Ok(0) | Err(_)) => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
