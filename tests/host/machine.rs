//! Machines that osier boots here, and what the host says about them.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take, on an emulated processor too.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The program under test.
pub(crate) fn osier() -> String {
    std::env::var("OSIER_BIN").expect("OSIER_BIN: the path of osier")
}

/// The Debian tree.
pub(crate) fn tree() -> String {
    std::env::var("OSIER_TREE").expect("OSIER_TREE: the path of a Debian tree")
}

/// A name that no other machine has; with a dash, which unit names escape.
pub(crate) fn unique(tail: &str) -> String {
    format!("osier-{}-{tail}", std::process::id())
}

/// `machine-NAME.scope`, escaped as man 5 systemd.unit has it.
pub(crate) fn scope_of(name: &str) -> String {
    format!("machine-{}.scope", name.replace('-', "\\x2d"))
}

/// A program with nothing of a terminal about it.
pub(crate) fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "").env("LC_ALL", "C.UTF-8");
    command
}

/// Runs it, for no longer than [`LIMIT`].
pub(crate) fn tried(program: &str, arguments: &[&str]) -> Output {
    let limit = LIMIT.as_secs().to_string();
    let within = [&["--foreground", "--kill-after=10", &limit, program], arguments].concat();
    command("timeout", &within).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs it; it has to succeed. Gives what it wrote.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = tried(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// What is written to stderr, and the exit code.
pub(crate) fn refused(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Waits until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The names that machinectl lists.
pub(crate) fn listed() -> Vec<String> {
    let list = said("machinectl", &["list", "--no-legend"]);
    list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// A property that machinectl shows of a machine.
pub(crate) fn shown(name: &str, property: &str) -> String {
    said("machinectl", &["show", name, "--value", "--property", property]).trim().to_owned()
}

/// A property that systemctl shows of a unit.
pub(crate) fn unit(name: &str, property: &str) -> String {
    said("systemctl", &["show", name, "--value", "--property", property]).trim().to_owned()
}

/// The cgroup of a unit.
pub(crate) fn cgroup_of(unit_name: &str) -> PathBuf {
    let group = unit(unit_name, "ControlGroup");
    assert!(group.starts_with('/'), "{unit_name} has no cgroup: '{group}'");
    Path::new("/sys/fs/cgroup").join(&group[1..])
}

/// What a script says inside a machine, by the bus inside; it has to succeed.
pub(crate) fn inside(name: &str, script: &str) -> String {
    said(
        "systemd-run",
        &["--machine", name, "--quiet", "--pipe", "--wait", "--collect", "/bin/sh", "-c", script],
    )
}

/// A machine with osier for a child of this process.
pub(crate) struct Machine {
    /// Its name.
    pub(crate) name: String,
    child: Child,
    notify: UnixDatagram,
    files: [PathBuf; 2],
    ready: bool,
    /// The exit code that it has when it is told to end.
    stopped: i32,
}

/// How osier ended.
#[derive(Debug)]
pub(crate) struct End {
    /// Its exit code; `None` for a signal.
    pub(crate) code: Option<i32>,
    /// What it and the machine's console wrote.
    pub(crate) output: String,
}

impl Machine {
    /// Boots a throw-away copy of the Debian tree and waits until its init says that it is ready.
    pub(crate) fn boot(tail: &str, arguments: &[&str]) -> Self {
        let mut machine = Self::start(tail, arguments);
        machine.await_ready();
        machine
    }

    /// The same without the wait.
    pub(crate) fn start(tail: &str, arguments: &[&str]) -> Self {
        let (name, tree) = (unique(tail), tree());
        let named = format!("--machine={name}");
        let always = ["boot", "--ephemeral", "--console=read-only", "--notify-ready=yes", &named];
        Self::spawn(name.clone(), &[&always, arguments, &[&tree]].concat())
    }

    /// A machine with nothing but a process that sleeps: where it matters that it is there, not what it does. Told to end,
    /// it is killed.
    pub(crate) fn hold(tail: &str, arguments: &[&str]) -> Self {
        Self::run(tail, arguments, &["/bin/sleep", "infinity"])
    }

    /// The same with another command.
    pub(crate) fn run(tail: &str, arguments: &[&str], payload: &[&str]) -> Self {
        let (name, tree) = (unique(tail), tree());
        let named = format!("--machine={name}");
        let always = ["run", "--ephemeral", "--console=read-only", "--network=veth", &named];
        let all = [&always, arguments, &[&tree, "--"], payload].concat();
        let mut machine = Self::spawn(name, &all);
        machine.stopped = 137;
        machine.await_ready();
        machine
    }

    /// Runs osier with these arguments, which say that the machine is called `name`.
    pub(crate) fn spawn(name: String, arguments: &[&str]) -> Self {
        Self::spawn_by(&osier(), name, arguments)
    }

    /// Runs a program that becomes osier.
    pub(crate) fn spawn_by(program: &str, name: String, arguments: &[&str]) -> Self {
        let files = ["notify", "output"].map(|kind| std::env::temp_dir().join(format!("{name}.{kind}")));
        let notify = UnixDatagram::bind(&files[0]).expect("a socket");
        let output = fs::File::create(&files[1]).expect("a file");
        let mut command = command(program, arguments);
        command.env("NOTIFY_SOCKET", &files[0]);
        command.stdout(output.try_clone().expect("the file")).stderr(output);
        Self { child: command.spawn().expect("osier"), name, notify, files, ready: false, stopped: 0 }
    }

    /// Waits for READY=1.
    pub(crate) fn await_ready(&mut self) {
        let deadline = Instant::now() + LIMIT;
        self.notify.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        while !self.ready {
            assert!(Instant::now() < deadline, "not ready: {}", self.output());
            if let Some(status) = self.child.try_wait().expect("its status") {
                panic!("osier ended with {status}: {}", self.output());
            }
            for message in self.heard() {
                self.ready |= message.lines().any(|line| line == "READY=1");
            }
        }
    }

    /// What osier has told its service manager since the last time.
    pub(crate) fn heard(&self) -> Vec<String> {
        let mut heard = Vec::new();
        let mut bytes = [0; 4096];
        loop {
            match self.notify.recv(&mut bytes) {
                Ok(count) => heard.push(String::from_utf8_lossy(&bytes[..count]).into_owned()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What osier and the console have written.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.files[1]).expect("the file")).into_owned()
    }

    /// Its scope.
    pub(crate) fn scope(&self) -> String {
        scope_of(&self.name)
    }

    /// What `osier show --json` has about it.
    pub(crate) fn record(&self) -> Value {
        serde_json::from_str(&said(&osier(), &["show", &self.name, "--json"])).expect("JSON")
    }

    /// Its leader on this host.
    pub(crate) fn leader(&self) -> String {
        self.record()["leader"].to_string()
    }

    /// Its link on this host.
    pub(crate) fn link(&self) -> String {
        self.record()["links"][0].as_str().expect("a link").to_owned()
    }

    /// The supervisor's pid.
    pub(crate) fn supervisor(&self) -> u32 {
        self.child.id()
    }

    /// Sends the supervisor a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().expect("a pid")), signal).expect("kill");
    }

    /// Waits for osier's end and gives its exit code; `None` for a signal.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("osier's end", || {
            status = self.child.try_wait().expect("its status");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Waits for osier's end, with which nothing of the machine may be left.
    pub(crate) fn end(mut self) -> End {
        let code = self.wait();
        self.assert_gone();
        End { code, output: self.output() }
    }

    /// Fails when anything of the machine is on this host.
    pub(crate) fn assert_gone(&self) {
        let name = &self.name;
        assert!(!listed().contains(name), "machined knows '{name}' still");
        assert_eq!(unit(&self.scope(), "LoadState"), "not-found");
        let link = format!("/sys/class/net/ve-{name}");
        for path in [
            &format!("/run/osier/machines/{name}.json"),
            &format!("/run/systemd/nspawn/propagate/{name}"),
            &format!("/sys/fs/cgroup/machine.slice/{}", self.scope()),
            &link,
        ] {
            assert!(!Path::new(path).exists(), "{path} is left");
        }
    }

    /// Ends it in the usual way.
    pub(crate) fn stop(self) -> End {
        let code = self.stopped;
        self.signal(Signal::SIGTERM);
        let end = self.end();
        assert_eq!(end.code, Some(code), "{}", end.output);
        end
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // After a scenario that failed. The second one kills the machine, and osier cleans up.
        let deadline = Instant::now() + Duration::from_secs(20);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            self.signal(Signal::SIGTERM);
            std::thread::sleep(Duration::from_millis(500));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// A machine of systemd-nspawn's.
pub(crate) struct Nspawn {
    /// Its name.
    pub(crate) name: String,
    child: Child,
}

impl Nspawn {
    /// Starts one, and waits until machined knows it.
    pub(crate) fn start(tail: &str, arguments: &[&str]) -> Self {
        let name = unique(tail);
        let tree = tree();
        let always = [
            "--quiet",
            "--private-network",
            "--as-pid2",
            "--console=pipe",
            "--machine",
            &name,
            "--directory",
            &tree,
        ];
        let command_line = [&always, arguments, &["/bin/sleep", "infinity"]].concat();
        let mut child = command("systemd-nspawn", &command_line).spawn().expect("systemd-nspawn");
        until("systemd-nspawn's machine", || {
            assert_eq!(child.try_wait().expect("its status"), None, "systemd-nspawn has ended");
            listed().contains(&name)
        });
        Self { name, child }
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) {
        until("systemd-nspawn's end", || self.child.try_wait().expect("its status").is_some());
    }

    /// Ends it.
    pub(crate) fn stop(mut self) {
        said("machinectl", &["terminate", &self.name]);
        self.end();
    }
}

impl Drop for Nspawn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
