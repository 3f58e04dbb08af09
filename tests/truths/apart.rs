//! Cases that want a machine of their own, or both sides of one.

use std::fs;

use nix::sys::signal::Signal;

use crate::here::{Clock, DAY, Here, MS, SECOND};
use crate::proc;
use crate::support::machine::{Machine, osier, output};
use crate::support::tree::{Tree, debian};
use crate::support::unique;

/// Whose clocks are shown is a matter of who reads, not of whose /proc it is.
pub(crate) fn seen_from_the_host() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--network=none", "--uptime=400d"]);
    let leader = machine.leader();
    let host = Here::outside();
    let uptime = |text: String| text.split(['.', ' ']).next().unwrap().parse::<i128>().unwrap() * SECOND;
    host.assert_shows(Clock::Boottime, SECOND, || {
        uptime(fs::read_to_string(format!("/proc/{leader}/root/proc/uptime")).unwrap())
    });
    let of_machine = uptime(machine.sh("cat /proc/uptime"));
    assert!((400 * DAY..401 * DAY).contains(&of_machine), "{of_machine}");
    // The leader was started a moment ago, after an hour or whatever it is of the host's uptime; inside it is 400 days.
    let started = proc::start_time(leader);
    let now = host.expected(Clock::Boottime);
    assert!((now - 60 * SECOND..=now).contains(&started), "{started} {now}");
    let inside = machine.sh("cut -d' ' -f22 /proc/1/stat").parse::<i128>().unwrap() * 10 * MS;
    assert!((400 * DAY..=of_machine + SECOND).contains(&inside), "{inside}");
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

/// Sets up a ring, and has it wait until a moment of CLOCK_MONOTONIC that is 0.3 s ahead; prints after how long it did, or
/// `never`. In Perl, for which this is numbers and bytes alone.
const RING: &str = r#"
my ($setup, $enter, $mmap, $read, $gettime) = @ARGV;
sub now { my $time = "\0" x 16; syscall($gettime, $_[0], $time) && die; my ($s, $ns) = unpack "q2", $time; $s + $ns / 1e9 }
my $parameters = "\0" x 120;
my $ring = syscall($setup, 4, $parameters);
die "io_uring_setup: $!" if $ring < 0;
my ($tail, $array, $completions) = unpack "x4L x16L x16L", substr $parameters, 40;
sub mapped { my $at = syscall($mmap, 0, 4096, 3, 1, $ring, $_[0]); die "mmap: $!" if $at == -1; $at }
my ($rings, $entries) = (mapped(0), mapped(0x10000000));
# Bytes get to an address by read(2), and back by unpack.
pipe my $reading, my $writing;
sub put { my ($at, $bytes) = @_; syswrite $writing, $bytes; syscall($read, fileno $reading, $at, length $bytes) }
my $end = now(1) + 0.3;
my $until = pack "q2", int $end, ($end - int $end) * 1e9;
put($entries, pack "CCSlQQLLx32", 11, 0, 0, -1, 0, unpack("Q", pack "P", $until), 1, 1);
put($rings + $array, pack "L", 0);
put($rings + $tail, pack "L", 1);
my $start = now(0);
syscall($enter, $ring, 1, 0, 0, 0, 0) == 1 or die "io_uring_enter: $!";
while (now(0) < $start + 1.5) {
    if (unpack "L", unpack "P4", pack "Q", $rings + $completions) {
        printf "%.3f\n", now(0) - $start;
        exit;
    }
    select undef, undef, undef, 0.01;
}
print "never\n";
"#;

/// Kernels before Linux 7.1 take the moment for one of the host's clock.
pub(crate) fn io_uring_absolute() {
    let numbers = [
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_mmap,
        libc::SYS_read,
        libc::SYS_clock_gettime,
    ];
    let numbers = numbers.map(|number| number.to_string());
    let after = |options: &[&str]| {
        let mut command = osier(["run", "--read-only", "--quiet", "--network=none"]);
        command.arg(format!("--machine={}", unique("ring"))).args(options).arg(debian());
        command.args(["--", "perl", "-e", RING]).args(&numbers);
        let output = output(&mut command);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let waits = |after: &str| after.parse::<f64>().is_ok_and(|after| (0.29..1.5).contains(&after));
    let is_early = |after: &str| after.parse::<f64>().is_ok_and(|after| after < 0.1);
    let same = after(&["--clock=host"]);
    assert!(waits(&same), "{same}");
    let (ahead, behind) = (after(&["--clock-monotonic=+1d"]), after(&["--clock=zero"]));
    let is_repaired = waits(&ahead) && waits(&behind);
    let is_the_host_s = ahead == "never" && is_early(&behind);
    assert!(is_repaired || is_the_host_s, "a day ahead: {ahead}, behind: {behind}");
}
