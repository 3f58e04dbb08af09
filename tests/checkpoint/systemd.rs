//! A machine with systemd, in use: everything in it goes on.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peer::Peer;
use crate::support::machine::{code, enter, osier, output, show, wait};
use crate::support::terminal::Terminal;
use crate::support::tree::{Layered, debian};
use crate::support::{await_that, leftovers, unique};
use crate::{done, restoring, said, save};

/// So long the machine is gone, by the host's clock.
const GONE: Duration = Duration::from_secs(4);
/// The clock inside counts the stop and the start, and never the time between them.
const STEP: Duration = Duration::from_secs(2);
/// When the timer is due, by the machine's clock.
const DUE: Duration = Duration::from_secs(5);

/// A supervisor on a terminal of its own.
struct Seat {
    terminal: Terminal,
    child: Child,
}

impl Seat {
    fn at(command: &Command) -> Self {
        let terminal = Terminal::new();
        let child = terminal.spawn(command);
        Self { terminal, child }
    }

    fn end(mut self) {
        let status = wait(&mut self.child, &|| self.terminal.screen());
        assert_eq!(code(status), 0, "{}", self.terminal.screen());
        self.terminal.assert_as_found();
    }

    /// The shell on the console is the one that was told the word.
    fn await_shell(&self) {
        self.terminal.press("echo it-was-$WORD\r");
        self.terminal.await_text("it-was-kept");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs in the machine `name`, which has to succeed.
fn sh(name: &str, script: &str) -> String {
    let leader = u32::try_from(show(name).unwrap()["leader"].as_u64().unwrap()).unwrap();
    let output = enter(leader, &["/bin/sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn uptime(text: &str) -> Duration {
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// A network that no other test has.
fn network() -> [Ipv4Addr; 2] {
    let pid = std::process::id();
    [1, 2].map(|last| Ipv4Addr::new(10, 213, u8::try_from(pid % 251).unwrap(), last))
}

fn tree() -> (Layered, Ipv4Addr) {
    let tree = Layered::over(&debian());
    let [host, inside] = network();
    let file = |path: &str, text: &str| fs::write(tree.path().join(path), text).unwrap();
    file(
        "etc/systemd/network/10-host0.network",
        &format!("[Match]\nName=host0\n[Network]\nAddress={inside}/24\nLinkLocalAddressing=no\n"),
    );
    file("usr/local/bin/witness.pl", include_str!("witness.pl"));
    (tree, host)
}

/// Boots it, logs in, and has the witness talk to the peer.
fn booted(tree: &Layered, host: Ipv4Addr) -> (Seat, Peer) {
    let mut boot = osier(["boot", "--checkpointable"]);
    boot.arg(tree.path());
    let seat = Seat::at(&boot);
    seat.terminal.await_text(" login: ");
    seat.terminal.press("root\r");
    seat.terminal.await_text("# ");
    seat.terminal.press("WORD=kept; export HISTFILE=; sleep 1000 &\r");
    seat.await_shell();
    let link = leftovers::link(&tree.name);
    let link = link.file_name().unwrap().to_str().unwrap();
    let added = Command::new("ip").args(["address", "add", &format!("{host}/24"), "dev", link]).status();
    assert!(added.unwrap().success());
    let peer = Peer::listen(host);
    assert_eq!(sh(&tree.name, "systemctl is-system-running --wait"), "running");
    let (address, port) = (peer.address.ip(), peer.address.port());
    sh(
        &tree.name,
        &format!(
            "systemd-run --unit=witness perl /usr/local/bin/witness.pl {address} {port} /root/locked 2>&1"
        ),
    );
    peer.await_more(5);
    (seat, peer)
}

/// The host's ip(8) in the machine's network namespace: the tree has none.
fn ip(name: &str, arguments: &str) -> String {
    let leader = show(name).unwrap()["leader"].to_string();
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target", &leader, "ip"]).args(arguments.split(' '));
    let output = output(&mut command);
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What is so of a machine that runs.
fn assert_runs(name: &str, peer: &Peer) {
    assert_eq!(sh(name, "systemctl is-system-running"), "running");
    peer.await_more(10);
    peer.assert_whole(STEP);
    assert_eq!(show(name).unwrap()["state"], "running");
    assert!(done(&["list"]).contains(name));
    assert!(done(&["status", name]).contains(name));
    assert_eq!(done(&["shell", name, "--", "echo", "here"]), "here\n");
}

fn log_in(name: &str) {
    let mut seat = Seat::at(&osier(["login", name]));
    seat.terminal.await_text(" login: ");
    kill(Pid::from_raw(seat.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(code(wait(&mut seat.child, &|| "osier login".to_owned())), 0);
}

#[test]
fn everything_in_use_goes_on() {
    let (tree, host) = tree();
    let name = tree.name.as_str();
    let (seat, peer) = booted(&tree, host);
    let set = sh(
        name,
        &format!(
            "cat /proc/uptime; systemd-run --on-active={} --timer-property=AccuracySec=10ms \
             sh -c 'cat /proc/uptime > /root/fired' 2>/dev/null",
            DUE.as_secs()
        ),
    );
    let set_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // With networkd it is one of two services in mount namespaces of their own.
    sh(name, "systemctl start systemd-hostnamed");
    // A route as systemd-networkd makes them of router advertisements.
    ip(name, &format!("nexthop add id 7 via {host} dev host0"));
    ip(name, "route add 198.51.100.0/24 nhid 7");
    let first = tree.scratch.path().join("first");
    save(name, &first, &[]);
    seat.end();
    assert_eq!(show(name), None);
    tree.assert_only(name);
    thread::sleep(GONE);

    let seat = Seat::at(&restoring(&first, &[]));
    await_that("the machine", || show(name).is_some());
    assert_runs(name, &peer);
    assert_eq!(
        ip(name, "route show 198.51.100.0/24").trim(),
        format!("198.51.100.0/24 via {host} dev host0")
    );
    seat.await_shell();
    log_in(name);
    let fired = tree.path().join("root/fired");
    await_that("the timer", || fs::read_to_string(&fired).is_ok_and(|text| text.ends_with('\n')));
    let waited = uptime(&fs::read_to_string(&fired).unwrap()) - uptime(&set);
    assert!(waited >= DUE && waited < DUE + STEP, "{waited:?}");
    let fired_at = Duration::from_secs(u64::try_from(fired.metadata().unwrap().mtime()).unwrap());
    assert!(fired_at - set_at + Duration::from_secs(1) > DUE + GONE - STEP, "it fired before it was saved");

    let second = tree.scratch.path().join("second.osier");
    save(name, &second, &["--leave-running", "--compress"]);
    assert_runs(name, &peer);
    assert_outdated(&first, name);
    fs::remove_dir_all(&first).unwrap();
    let third = tree.scratch.path().join("third.osier");
    save(name, &third, &["--compress"]);
    seat.end();
    tree.assert_only(name);
    under_another_name(&third, &tree, &peer);
}

/// What it runs from is not what it was any more.
fn assert_outdated(from: &Path, name: &str) {
    let output = output(&mut restoring(from, &["--name=another-of-these"]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains(": it has changed since the checkpoint was made: '/root'"), "{text}");
    assert_eq!(leftovers::of("another-of-these", from), Vec::<String>::new());
    assert!(show(name).is_some());
}

fn under_another_name(from: &Path, tree: &Layered, peer: &Peer) {
    let name = unique("other");
    let restored = output(&mut restoring(from, &["--background", "--name", &name]));
    assert!(restored.status.success(), "{restored:?}");
    assert_runs(&name, peer);
    let seat = Seat::at(&osier(["attach", &name]));
    seat.await_shell();
    drop(seat);
    done(&["reboot", &name]);
    await_that("the next boot", || sh(&name, "systemctl is-system-running 2>&1 || true") == "running");
    done(&["poweroff", &name]);
    tree.assert_only(&name);
    assert!(!said(&["show", &name]).status.success());
}
