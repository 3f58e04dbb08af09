//! Machines, run by the program as a user runs it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::tree::Tree;
use super::{PATIENCE, await_some, await_that, leftovers, program};

/// What was written to a descriptor so far, read by a thread.
pub(crate) struct Written {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: JoinHandle<()>,
}

impl Written {
    pub(crate) fn of(mut source: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let thread = std::thread::spawn(move || {
            let mut part = [0; 1 << 16];
            while let Ok(count @ 1..) = source.read(&mut part) {
                sink.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { bytes, thread }
    }

    pub(crate) fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    /// Waits until nobody can write any more.
    fn all(self) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(
                Instant::now() < deadline,
                "a process that should be gone holds a pipe: {}",
                self.so_far()
            );
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.thread.join().unwrap();
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// How the shell that started it would see its end.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// `osier` with these arguments and no input.
pub(crate) fn osier<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end, which has to come.
pub(crate) fn output(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = Written::of(child.stdout.take().unwrap());
    let stderr = Written::of(child.stderr.take().unwrap());
    let status = wait(&mut child, &|| format!("{command:?}: {} {}", stdout.so_far(), stderr.so_far()));
    Output { status, stdout: stdout.all(), stderr: stderr.all() }
}

/// Waits for the end of a child.
pub(crate) fn wait(child: &mut Child, what: &dyn Fn() -> String) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            // The machine goes with its supervisor.
            let _ = child.kill();
            let _ = child.wait();
            panic!("does not end: {}", what());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The output of `osier run OPTIONS TREE -- COMMAND`.
pub(crate) fn run(tree: &Tree, options: &[&str], command: &[&str]) -> Output {
    let mut osier = osier(["run"]);
    osier.args(options).arg(tree.path()).arg("--").args(command);
    let output = output(&mut osier);
    leftovers::assert_none(name_in(options).unwrap_or(tree.name()), &tree.path());
    output
}

/// What a command wrote that has to succeed.
pub(crate) fn stdout_of_run(tree: &Tree, options: &[&str], command: &[&str]) -> String {
    let output = run(tree, options, command);
    assert!(output.status.success(), "{options:?} {command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn name_in<'a>(options: &[&'a str]) -> Option<&'a str> {
    options.iter().find_map(|option| option.strip_prefix("--machine="))
}

/// `osier show NAME --json`, if there is such a machine.
pub(crate) fn show(name: &str) -> Option<Value> {
    let output = output(&mut osier(["show", name, "--json"]));
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// A machine that was booted; killed when dropped.
pub(crate) struct Machine {
    pub(crate) name: String,
    pub(crate) tree: PathBuf,
    child: Child,
    stdout: Option<Written>,
    stderr: Option<Written>,
}

impl Machine {
    /// `osier boot OPTIONS TREE` of a minimal tree, up to its readiness.
    pub(crate) fn minimal(tree: &Tree, options: &[&str]) -> Self {
        let machine = Self::start(tree, options);
        machine.await_output("osier-minimal: ready");
        machine
    }

    /// `osier boot OPTIONS TREE`, not waited for.
    pub(crate) fn start(tree: &Tree, options: &[&str]) -> Self {
        let mut command = osier(["boot"]);
        command.args(options).arg(tree.path());
        Self::spawn(command, name_in(options).unwrap_or(tree.name()), &tree.path())
    }

    /// Any command that boots the machine `name` from `tree`.
    pub(crate) fn spawn(mut command: Command, name: &str, tree: &Path) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = Some(Written::of(child.stdout.take().unwrap()));
        let stderr = Some(Written::of(child.stderr.take().unwrap()));
        Self { name: name.to_owned(), tree: tree.to_owned(), child, stdout, stderr }
    }

    /// What it wrote to its console.
    pub(crate) fn console(&self) -> String {
        self.stdout.as_ref().unwrap().so_far()
    }

    pub(crate) fn await_output(&self, text: &str) {
        self.await_outputs(text, 1);
    }

    /// Waits until a text was written so many times.
    pub(crate) fn await_outputs(&self, text: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.console().matches(text).count() < count {
            let (console, stderr) = (self.console(), self.stderr.as_ref().unwrap().so_far());
            assert!(
                Instant::now() < deadline,
                "no '{text}' ({count}) on the console: {console:?} {stderr:?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// The record of it.
    pub(crate) fn show(&self) -> Value {
        await_some(&format!("the record of {}", self.name), || show(&self.name))
    }

    /// Its PID 1.
    pub(crate) fn leader(&self) -> u32 {
        u32::try_from(self.show()["leader"].as_u64().unwrap()).unwrap()
    }

    /// The process that was started.
    pub(crate) fn supervisor(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Runs a command inside, in all namespaces.
    pub(crate) fn enter(&self, command: &[&str]) -> Output {
        enter(self.leader(), command)
    }

    /// What a shell script inside writes; it has to succeed.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.enter(&["/bin/sh", "-c", script]);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Waits for the end, and gives the exit code and what came out. Nothing may be left.
    pub(crate) fn end(self) -> (i32, String, String) {
        let (name, tree) = (self.name.clone(), self.tree.clone());
        let ended = self.end_leaving();
        leftovers::assert_none(&name, &tree);
        ended
    }

    /// As [`Machine::end`], whatever is left.
    pub(crate) fn end_leaving(mut self) -> (i32, String, String) {
        let (stdout, stderr) = (self.stdout.take().unwrap(), self.stderr.take().unwrap());
        let status =
            wait(&mut self.child, &|| format!("{}: {} {}", self.name, stdout.so_far(), stderr.so_far()));
        let text = |written: Written| String::from_utf8_lossy(&written.all()).into_owned();
        (code(status), text(stdout), text(stderr))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.stdout.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command in all namespaces of a process, with an environment of its own.
pub(crate) fn enter(leader: u32, command: &[&str]) -> Output {
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["--target", &leader.to_string(), "--all", "--"]).args(command);
    nsenter.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    output(&mut nsenter)
}

/// Waits until a process is gone, or a zombie.
pub(crate) fn await_death(pid: u32) {
    await_that(&format!("the end of process {pid}"), || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']))
    });
}
