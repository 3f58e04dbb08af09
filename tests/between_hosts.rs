//! A systemd machine migrated between two hosts over ssh. The hosts are machines too: Debian with systemd, sshd and CRIU, each
//! in a network namespace of its own, their clocks days apart, with nothing but a link between them.
//!
//! Needs root and the trees `host` and `debian` (tests/run makes them).
#![expect(
    clippy::print_stderr,
    reason = "what was said and how long it took is shown with the failure, or with --nocapture"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;

use support::machine::{Machine, enter, osier, output};
use support::tree::{Scratch, debian, of};
use support::{PATIENCE, await_some, await_that, program, unique};

/// The machine that goes to and fro.
const NAME: &str = "wanderer";
/// Both hosts' end of the link between them.
const LINK: &str = "between";
/// There and back.
const ROUNDS: usize = 5;

/// Reads both clocks every ten milliseconds; writes how often, what they show, the most that one went back and the most that
/// one went ahead in one step, nanoseconds.
const MONITOR: &str = r#"
my ($gettime) = @ARGV;
sub now { my $time = "\0" x 16; syscall($gettime, $_[0], $time) && die; my ($s, $ns) = unpack "q2", $time; $s * 1000000000 + $ns }
my ($ticks, $back, $ahead, @last) = (0, 0, 0);
while (1) {
    my @now = (now(1), now(7));
    for (@last ? (0, 1) : ()) {
        my $step = $now[$_] - $last[$_];
        $back = -$step if -$step > $back;
        $ahead = $step if $step > $ahead;
    }
    @last = @now;
    $ticks++;
    open my $file, ">", "/run/monitor.new" or die;
    print $file "$ticks @now $back $ahead\n";
    close $file;
    rename "/run/monitor.new", "/run/monitor" or die;
    select undef, undef, undef, 0.01;
}
"#;

#[derive(Debug, Clone, Copy)]
struct Seen {
    ticks: u64,
    monotonic: i64,
    boottime: i64,
    back: i64,
    ahead: i64,
}

/// A tree over one that all share, which CRIU finds again at a restore.
struct Layered(PathBuf);

impl Layered {
    fn over(lower: &Path, directory: &Path) -> Self {
        let path = directory.join("machines").join(NAME);
        let [upper, work] = ["upper", "work"].map(|name| directory.join(name));
        [&upper, &work, &path].into_iter().for_each(|made| fs::create_dir_all(made).unwrap());
        let options = format!(
            "index=on,nfs_export=on,lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), &path, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(path)
    }
}

impl Drop for Layered {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

struct Host {
    machine: Machine,
    address: String,
    cgroup: OnceLock<PathBuf>,
}

impl Host {
    fn boot(number: u8, uptime: &str, directory: &Path, keys: &Path) -> Self {
        let tree = of("host");
        let name = unique(&format!("host{number}"));
        let mut command =
            osier(["boot", "--ephemeral", "--console=pipe", "--capability=all", "--api-vfs=rw"]);
        command.args(["--network=none", "--register=no"]);
        command.args([format!("--machine={name}"), format!("--uptime={uptime}")]);
        command.arg(format!("--bind={}:/var/lib/machines:rbind", directory.join("machines").display()));
        command.arg(format!("--bind={}:/keys", keys.display()));
        command.arg(format!("--bind-ro={}:/usr/local/bin/osier", program().display())).arg(&tree);
        Self {
            machine: Machine::spawn(command, &name, &tree),
            address: format!("192.0.2.{number}"),
            cgroup: OnceLock::new(),
        }
    }

    fn await_boot(&self) {
        let leader = self.machine.leader();
        let is_up = "systemctl is-system-running --wait | grep -E 'running|degraded'";
        await_that("the host to be up", || enter(leader, &["/bin/sh", "-c", is_up]).status.success());
    }

    /// As a service: what is not in this host's cgroups cannot make any.
    fn run(&self, script: &str) -> Output {
        let run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "/bin/sh", "-c", script];
        self.machine.enter(&run)
    }

    fn sh(&self, script: &str) -> String {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The way to it, and what answers there.
    fn connect(&self) {
        self.sh(&format!(
            "set -e; ip link set lo up; ip addr add {0}/24 dev {LINK}; ip link set {LINK} up; mkdir -p /run/sshd
            ssh-keygen -q -t ed25519 -N '' -f /run/hostkey; echo [{0}]:2222 $(cat /run/hostkey.pub) >>/keys/known
            systemd-run --quiet --unit=test-sshd /usr/sbin/sshd -D -e -f /dev/null -h /run/hostkey -o UsePAM=no \
                -o StrictModes=no -o AuthorizedKeysFile=/keys/client.pub -o ClientAliveInterval=1 \
                -o ClientAliveCountMax=2 -o PidFile=none -o ListenAddress={0}:2222 -o PermitRootLogin=prohibit-password",
            self.address
        ));
    }

    fn migrate_to(&self, other: &Host) -> Output {
        self.run(&format!("osier migrate {NAME} --ssh='ssh -F /keys/config' root@{}", other.address))
    }

    /// What the monitor in the machine has seen, if that is here.
    fn seen(&self) -> Option<Seen> {
        let root = self.root()?;
        let text = fs::read_to_string(root.join("run/monitor")).ok()?;
        let mut words = text.split_whitespace().map(|word| word.parse::<i64>().unwrap());
        let mut next = || words.next();
        Some(Seen {
            ticks: next()?.unsigned_abs(),
            monotonic: next()?,
            boottime: next()?,
            back: next()?,
            ahead: next()?,
        })
    }

    /// The root of the machine, by its PID here outside.
    fn root(&self) -> Option<PathBuf> {
        let processes = fs::read_to_string(self.payload()?.join("init.scope/cgroup.procs")).ok()?;
        Some(Path::new("/proc").join(processes.lines().next()?).join("root"))
    }

    fn payload(&self) -> Option<PathBuf> {
        let above = self.cgroup.get_or_init(|| self.machine.show()["cgroup"].as_str().unwrap().into());
        let path = above.join(format!("payload/machine.slice/machine-{NAME}.scope/payload"));
        path.exists().then_some(path)
    }

    /// It is here and its monitor goes on.
    fn assert_runs(&self) -> Seen {
        let first = await_some("the monitor", || self.seen());
        await_some("another look at the clocks", || self.seen().filter(|seen| seen.ticks > first.ticks + 3))
    }

    fn assert_nothing(&self) {
        assert!(!self.run(&format!("osier show {NAME}")).status.success());
        assert_eq!(self.payload(), None);
        assert_eq!(self.sh("ls -A /var/lib/osier/checkpoints"), "");
        assert_eq!(self.sh("ls -A /var/lib/machines"), NAME);
    }

    fn end(self) {
        self.machine.signal(Signal::SIGTERM);
        let (code, console, stderr) = self.machine.end();
        assert_eq!(code, 0, "{console} {stderr}");
    }
}

/// What the tests of a migration need: two hosts that reach each other, and a machine in the first.
fn two_hosts(directories: &[PathBuf; 2], keys: &Path) -> [Host; 2] {
    let hosts = [Host::boot(1, "3d", &directories[0], keys), Host::boot(2, "20d", &directories[1], keys)];
    hosts.iter().for_each(Host::await_boot);
    let [one, two] = [0, 1].map(|at: usize| hosts[at].machine.leader().to_string());
    let link = ["link", "add", LINK, "netns", &one, "type", "veth", "peer", "name", LINK, "netns", &two];
    let made = output(Command::new("ip").args(link));
    assert!(made.status.success(), "{made:?}");
    hosts[0].sh("ssh-keygen -q -t ed25519 -N '' -f /keys/client");
    hosts.iter().for_each(Host::connect);
    // A link that is gone is noticed after three seconds.
    let config = "Port 2222\nBatchMode yes\nIdentityFile /keys/client\nUserKnownHostsFile /keys/known\nStrictHostKeyChecking yes\n\
        ServerAliveInterval 1\nServerAliveCountMax 2\nConnectTimeout 5\nLogLevel ERROR\n";
    fs::write(keys.join("config"), config).unwrap();
    let uptimes = hosts.each_ref().map(|host| host.sh("cut -d. -f1 /proc/uptime").parse::<u64>().unwrap());
    assert!(uptimes[1] - uptimes[0] > 16 * 86_400, "{uptimes:?}");
    hosts
}

/// The monitor is a service of the machine in `tree`.
fn put_monitor(tree: &Path) {
    let gettime = nix::libc::SYS_clock_gettime;
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::write(tree.join("etc/monitor.pl"), MONITOR).unwrap();
    let service = format!("[Service]\nExecStart=/usr/bin/perl /etc/monitor.pl {gettime}\n");
    fs::write(tree.join("etc/systemd/system/monitor.service"), service).unwrap();
    fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink("../monitor.service", wants.join("monitor.service")).unwrap();
    fs::write(tree.join("etc/machine-id"), format!("{:032x}\n", 0x0a5e_u32)).unwrap();
}

/// What osier says of how long it stood still, seconds.
fn downtime(said: &Output) -> f64 {
    let text = String::from_utf8_lossy(&said.stdout);
    let words = text.rsplit("it stood still for ").next().unwrap().trim();
    words
        .split(' ')
        .map(|word| {
            let unit = word.trim_start_matches(|char: char| char.is_ascii_digit() || char == '.');
            let number: f64 = word[..word.len() - unit.len()].parse().unwrap_or_else(|_| panic!("{text}"));
            number
                * match unit {
                    "ms" => 1e-3,
                    "min" => 60.0,
                    _ => 1.0,
                }
        })
        .sum()
}

#[test]
fn a_machine_goes_to_another_host_and_back_and_its_clocks_go_on() {
    let scratch = Scratch::new();
    let keys = scratch.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let directories = ["one", "two"].map(|name| scratch.path().join(name));
    let trees = directories.each_ref().map(|directory| Layered::over(&debian(), directory));
    trees.iter().for_each(|tree| put_monitor(&tree.0));
    let [one, two] = two_hosts(&directories, &keys);
    one.sh(&format!(
        "systemd-run --quiet --unit=wanderer osier boot --checkpointable --console=passive /var/lib/machines/{NAME}"
    ));
    let first = one.assert_runs();
    let began = Instant::now();
    await_that("the machine to be up", || {
        one.run(&format!("osier show {NAME} --json | grep -q '\"state\": *\"running\"'")).status.success()
    });
    let mut stood = Vec::new();
    for _ in 0..ROUNDS {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let began = Instant::now();
            let went = from.migrate_to(to);
            assert!(went.status.success(), "{went:?}");
            stood.push(downtime(&went));
            let seen = to.assert_runs();
            eprintln!("{:.2} s, still for {:.3} s: {seen:?}", began.elapsed().as_secs_f64(), downtime(&went));
            assert_eq!(seen.back, 0, "a clock went back: {seen:?}, first {first:?}");
            let most = stood.iter().fold(0.0, |most: f64, one| most.max(*one));
            assert!((seen.ahead as f64) < (1.0 + most) * 1e9, "a clock jumped: {seen:?}, first {first:?}");
            from.assert_nothing();
        }
    }
    let seen = one.assert_runs();
    let passed = i64::try_from((began.elapsed() + Duration::from_secs(1)).as_nanos()).unwrap();
    for (now, then) in [(seen.monotonic, first.monotonic), (seen.boottime, first.boottime)] {
        assert!((1..passed).contains(&(now - then)), "{then} .. {now} in {passed} ns");
    }
    eprintln!("it stood still for {stood:.3?} s");
    a_link_that_goes_down_leaves_it_where_it_was(&one, &two);
    one.sh(&format!("osier terminate {NAME}"));
    [one, two].into_iter().for_each(Host::end);
}

fn a_link_that_goes_down_leaves_it_where_it_was(one: &Host, two: &Host) {
    let freezer = one.payload().unwrap().join("cgroup.freeze");
    let is_frozen = || fs::read_to_string(&freezer).is_ok_and(|state| state.trim() == "1");
    std::thread::scope(|scope| {
        let migration = scope.spawn(|| one.migrate_to(two));
        let deadline = Instant::now() + PATIENCE;
        while !is_frozen() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Not by way of its systemd, which takes time.
        let cut = one.machine.enter(&["ip", "link", "set", LINK, "down"]);
        assert!(cut.status.success(), "{cut:?}");
        let went = migration.join().unwrap();
        assert!(!went.status.success(), "{went:?}");
        eprintln!("cut: {}", String::from_utf8_lossy(&went.stderr).trim());
    });
    assert!(!is_frozen());
    assert_eq!(one.assert_runs().back, 0);
    await_that("the other host to give up", || two.sh("ls -A /var/lib/osier/checkpoints").is_empty());
    two.assert_nothing();
    one.sh(&format!("ip link set {LINK} up"));
    let went = one.migrate_to(two);
    assert!(went.status.success(), "{went:?}");
    assert_eq!(two.assert_runs().back, 0);
    one.assert_nothing();
    let back = two.migrate_to(one);
    assert!(back.status.success(), "{back:?}");
}
