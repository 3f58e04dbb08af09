//! `osier migrate --postcopy` of a systemd machine: it goes on before its memory has come, and then has all of it.
//!
//! Needs root, the tree `debian` (tests/run makes it), and a criu: `OSIER_CRIU`, or one in PATH.
#![expect(
    clippy::print_stderr,
    reason = "what was said and how long it took is shown with the failure, or with --nocapture"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use support::await_that;
use support::machine::{Machine, enter, osier, output, show, wait};
use support::tree::{Layered, debian};

/// Fifty megabytes that it knows, in pieces that are written to and compared all the time; says how often it has found all of
/// them as they should be, and dies when not.
const KEEPER: &str = r#"
my ($size, $number) = (1 << 20, 50);
my @piece = map { my $seed = $_ * 2654435761 % 4294967296; my $text = "";
    for (1 .. $size / 4096) { $seed = ($seed * 69069 + 1) % 4294967296; $text .= pack("N", $seed) x 1024 } $text } 1 .. $number;
my @sum = map { unpack "%64N*", $_ } @piece;
my ($rounds, $moved) = (0, 0);
while (1) {
    for (0 .. $number - 1) {
        unpack("%64N*", $piece[$_]) == $sum[$_] or die "piece $_ is another";
        if (length($piece[$_]) != $size) { die "piece $_ has another length" }
        my $word = pack "N", $rounds;
        $sum[$_] += $rounds - unpack "N", substr $piece[$_], 0, 4;
        substr($piece[$_], 0, 4) = $word;
        open my $file, ">", "/run/tick.new" or die; print $file ++$moved; close $file; rename "/run/tick.new", "/run/tick";
    }
    $rounds++;
    open my $file, ">", "/run/rounds.new" or die; print $file "$rounds\n"; close $file; rename "/run/rounds.new", "/run/rounds";
}
"#;

fn tree() -> Layered {
    let tree = Layered::over(&debian());
    fs::write(tree.path().join("etc/machine-id"), format!("{:032x}\n", 0x1a2b_u32)).unwrap();
    tree
}

fn sh(name: &str, script: &str) -> String {
    let leader = u32::try_from(show(name).unwrap()["leader"].as_u64().unwrap()).unwrap();
    let output = enter(leader, &["/bin/sh", "-c", script]);
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn rounds(name: &str) -> u64 {
    sh(name, "cat /run/rounds 2>/dev/null || echo 0").parse().unwrap()
}

fn criu(flag: &str) -> Option<String> {
    std::env::var("OSIER_CRIU").map(|criu| format!("{flag}={criu}")).ok()
}

/// By two pipes, both ends of each open for both: neither open waits for the other. They hold as little as a pipe may that nobody has made smaller.
fn migrate(from: &str, to: &Layered, directory: &Path) -> String {
    let [up, down] = ["up", "down"].map(|name| {
        let path = directory.join(name);
        let _ = fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let pipe = fs::File::options().read(true).write(true).open(&path).unwrap();
        fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
        pipe
    });
    let mut target = osier(["migrate", "--from-pipe"]);
    target.args(criu("--criu")).arg(format!("--to-name={}", to.name));
    target.arg(format!("--tree={}", to.path().display()));
    target.stdin(up.try_clone().unwrap()).stdout(down.try_clone().unwrap());
    let mut source = osier(["migrate", from, "--to-pipe", "--postcopy"]);
    source.args(criu("--criu")).stdin(down).stdout(up).stderr(Stdio::piped());
    let mut target = target.spawn().unwrap();
    let mut source = source.spawn().unwrap();
    let ended =
        [wait(&mut source, &|| "the source".to_owned()), wait(&mut target, &|| "the target".to_owned())];
    let said = std::io::read_to_string(source.stderr.take().unwrap()).unwrap();
    assert!(ended.iter().all(std::process::ExitStatus::success), "{ended:?} {said}");
    said
}

#[test]
fn a_machine_goes_on_and_its_memory_follows() {
    let (here, there) = (tree(), tree());
    fs::write(here.path().join("usr/local/bin/keeper.pl"), KEEPER).unwrap();
    let mut boot = osier(["boot", "--checkpointable"]);
    boot.arg(here.path());
    let machine = Machine::spawn(boot, &here.name, &here.path());
    machine.await_output(" login: ");
    await_that("it to be up", || sh(&here.name, "systemctl is-system-running --wait || :") == "running");
    sh(&here.name, "systemd-run --quiet --unit=keeper perl /usr/local/bin/keeper.pl");
    // All of them ask at once.
    sh(
        &here.name,
        "systemd-run --quiet --unit=crowd sh -c 'for i in $(seq 150); do sleep 1000 & done; wait'",
    );
    await_that("the first round", || rounds(&here.name) > 0);
    let (mut from, mut to) = (&here, &there);
    for _ in 0..2 {
        let before = rounds(&from.name);
        let said = migrate(&from.name, to, here.scratch.path());
        eprintln!("{}", said.trim());
        assert!(said.contains("; it stood still for "), "{said}");
        assert!(show(&from.name).is_none() && show(&to.name).is_some());
        from.assert_only(&from.name);
        // Each of its pieces, several times.
        let now = rounds(&to.name);
        assert!(now >= before, "{before} {now}");
        await_that("three rounds more", || rounds(&to.name) >= now + 3);
        assert_eq!(sh(&to.name, "systemctl is-active keeper"), "active");
        assert_eq!(sh(&to.name, "systemctl is-system-running"), "running");
        let shell = output(&mut osier(["shell", &to.name, "--", "echo", "here"]));
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "here\n");
        std::mem::swap(&mut from, &mut to);
    }
    let ended = output(Command::arg(&mut osier(["poweroff"]), &here.name));
    assert!(ended.status.success(), "{ended:?}");
    await_that("its end", || show(&here.name).is_none());
    machine.end_leaving();
    for tree in [&here, &there] {
        tree.assert_only(&tree.name);
    }
}
