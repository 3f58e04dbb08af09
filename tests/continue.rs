//! `--clock=continue`: a machine's clocks go on from where they were, whatever ended it, and on a host whose own clocks show
//! anything. They never run backwards. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use support::machine::{Machine, code, osier, output, run, stdout_of_run};
use support::tree::{Scratch, Tree, debian};
use support::{await_that, leftovers, unique};

/// A clock of the time namespace that the tests run in, in seconds.
fn here(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// What a running machine's clocks show at this moment, in seconds: monotonic and boottime. From outside, so that nothing is
/// lost on the way.
fn inside(machine: &Machine) -> (f64, f64) {
    let clocks = machine.show()["clocks"].clone();
    let offset = |key: &str| clocks[key].as_i64().unwrap() as f64 / 1e9;
    (
        here(ClockId::Monotonic) + offset("monotonic_offset_ns"),
        here(ClockId::Boottime) + offset("boottime_offset_ns"),
    )
}

/// What it would have shown, had it run then.
fn inside_at(machine: &Machine, monotonic_here: f64) -> f64 {
    let (now, before) = (inside(machine).0, here(ClockId::Monotonic));
    now - (before - monotonic_here)
}

fn file(tree: &Path) -> PathBuf {
    tree.with_file_name(format!(".#{}.osier-clocks.json", tree.file_name().unwrap().display()))
}

fn state(tree: &Path) -> Value {
    serde_json::from_slice(&fs::read(file(tree)).unwrap()).unwrap()
}

/// Monotonic in the file, in seconds.
fn kept(tree: &Path) -> f64 {
    state(tree)["monotonic_ns"].as_i64().unwrap() as f64 / 1e9
}

/// What is beside the tree.
fn beside(tree: &Tree) -> Vec<String> {
    let entries = fs::read_dir(tree.outside()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != tree.name());
    names.sort();
    names
}

fn uptime(text: &str) -> f64 {
    text.split(' ').next().unwrap().trim().parse().unwrap()
}

fn end(machine: Machine) {
    machine.signal(Signal::SIGTERM);
    assert_eq!(machine.end().0, 0);
}

#[test]
fn they_go_on_after_poweroff_and_the_time_between_does_not_count() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--clock=continue", "--uptime=3d"]);
    assert_eq!(state(&tree.path())["running"], true);
    sleep(Duration::from_secs(1));
    let (monotonic, boottime) = inside(&machine);
    assert!((259_200.0..259_260.0).contains(&monotonic) && (259_200.0..259_260.0).contains(&boottime));
    end(machine);
    let stopped = state(&tree.path());
    assert_eq!(stopped["running"], false);
    assert!(kept(&tree.path()) >= monotonic);
    assert_eq!(beside(&tree), [file(&tree.path()).file_name().unwrap().to_str().unwrap()]);

    sleep(Duration::from_secs(3));
    let before = here(ClockId::Monotonic);
    // That it was to begin elsewhere is old news.
    let machine = Machine::minimal(&tree, &["--clock=continue", "--uptime=9d"]);
    let after = here(ClockId::Monotonic);
    let (earliest, latest) = (inside_at(&machine, before), inside_at(&machine, after));
    let kept = stopped["monotonic_ns"].as_i64().unwrap() as f64 / 1e9;
    assert!(earliest <= kept + 1e-3 && latest >= kept, "{earliest} {kept} {latest}");
    let (monotonic, boottime) = inside(&machine);
    assert!((monotonic - boottime).abs() < 1.0, "{monotonic} {boottime}");
    end(machine);
}

#[test]
fn they_go_on_over_a_reboot_in_place() {
    let tree = Tree::minimal();
    let machine = Machine::minimal(&tree, &["--clock=continue"]);
    for boots in 2..5 {
        let before = uptime(&machine.sh("cat /proc/uptime"));
        let leader = machine.leader();
        assert!(output(&mut osier(["reboot", &machine.name])).status.success());
        machine.await_outputs("osier-minimal: ready", boots);
        await_that("the next boot's record", || machine.leader() != leader);
        let after = uptime(&machine.sh("cat /proc/uptime"));
        assert!(after >= before && after < before + 20.0, "{before} {after}");
    }
    end(machine);
}

#[test]
fn a_supervisor_that_is_killed_costs_less_than_a_second_and_no_step_back() {
    let tree = Tree::minimal();
    let mut last = 0.0;
    for pause in [0, 130, 310, 490, 680, 1250] {
        let machine = Machine::minimal(&tree, &["--clock=continue"]);
        let first = uptime(&machine.sh("cat /proc/uptime"));
        assert!(first >= last, "it showed {last} once, and {first} later");
        sleep(Duration::from_millis(pause));
        last = inside(&machine).0;
        machine.signal(Signal::SIGKILL);
        assert_eq!(machine.end_leaving().0, 137);
        assert_eq!(state(&tree.path())["running"], true);
        let next = osier(["run", "--dry-run", "--clock=continue"])
            .arg(tree.path())
            .args(["--", "true"])
            .output()
            .unwrap();
        let next = String::from_utf8(next.stdout).unwrap();
        let next = next.lines().find_map(|line| line.strip_prefix("clocks        go on from ")).unwrap();
        let next = osier::duration::parse(next.split(" (monotonic)").next().unwrap()).unwrap() as f64 / 1e9;
        assert!(next >= last && next <= last + 1.2, "it was at {last}, and would go on from {next}");
    }
    // What is left of the last one goes with the next.
    assert_eq!(code(run(&tree, &["--clock=continue"], &["true"]).status), 0);
}

/// `osier run --clock=continue` on a host whose clocks are off by so many seconds; gives /proc/uptime inside.
fn on_another_host(tree: &Tree, (monotonic, boottime): (i64, i64), host_boot_id: &Path) -> f64 {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--time", "--fork"]);
    unshare.args([format!("--monotonic={monotonic}"), format!("--boottime={boottime}")]);
    unshare.args(["sh", "-c", "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\""]);
    unshare.arg(host_boot_id).arg(support::program()).args(["run", "--clock=continue"]);
    unshare.arg(tree.path()).args(["--", "sh", "-c", "cat /proc/uptime; sleep 0.2"]);
    let output = output(unshare.stdin(std::process::Stdio::null()));
    assert!(output.status.success(), "{output:?}");
    uptime(&String::from_utf8(output.stdout).unwrap())
}

#[test]
fn they_go_on_where_the_hosts_own_clocks_are_ahead_or_behind() {
    let tree = Tree::minimal();
    let ids = Scratch::new();
    stdout_of_run(&tree, &["--clock=continue", "--uptime=20d"], &["true"]);
    let behind = -(here(ClockId::Monotonic) as i64) + 5;
    let mut last = kept(&tree.path());
    for (at, offsets) in
        [(10 * 86_400, 30 * 86_400), (behind, behind), (0, 0), (behind, 365 * 86_400)].into_iter().enumerate()
    {
        let id = ids.file(&format!("boot-{at}"), format!("00000000-0000-4000-8000-00000000000{at}\n"));
        let shown = on_another_host(&tree, offsets, &id);
        assert!(shown + 0.01 >= last && shown < last + 30.0, "{last} {shown} on a host off by {offsets:?}");
        last = kept(&tree.path());
        assert!(last > shown);
    }
}

#[test]
fn a_host_that_lost_power_costs_a_minute_and_no_step_back() {
    let tree = Tree::minimal();
    stdout_of_run(&tree, &["--clock=continue", "--uptime=1h"], &["true"]);
    let mut state = state(&tree.path());
    state["running"] = true.into();
    state["host_boot_id"] = "0c0c0c0c-0000-4000-8000-000000000000".into();
    fs::write(file(&tree.path()), state.to_string()).unwrap();
    let shown = uptime(&stdout_of_run(&tree, &["--clock=continue"], &["cat", "/proc/uptime"]));
    assert!((3660.0..3690.0).contains(&shown), "{shown}");
}

#[test]
fn a_file_that_cannot_be_used_is_refused_and_left_alone() {
    let tree = Tree::minimal();
    stdout_of_run(&tree, &["--clock=continue"], &["true"]);
    let whole = state(&tree.path());
    let with = |key: &str, value: Value| {
        let mut state = whole.clone();
        state[key] = value;
        state.to_string()
    };
    for (text, reason, hint) in [
        ("{ \"version\": 1".to_owned(), "it is not what osier writes", "once the file is gone"),
        (String::new(), "it is not what osier writes", "--clock=zero"),
        (with("version", 7.into()), "a later osier wrote it (version 7; this one knows 1)", "--clock=zero"),
        (with("monotonic_ns", (-1).into()), "monotonic_ns is -1", "--clock=zero"),
        (with("boottime_ns", i64::MAX.into()), "no clock can show that", "--clock=zero"),
    ] {
        fs::write(file(&tree.path()), &text).unwrap();
        for verb in ["boot", "run"] {
            let mut command = osier([verb, "--clock=continue"]);
            command.arg(tree.path());
            if verb == "run" {
                command.args(["--", "true"]);
            }
            let output = output(&mut command);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(code(output.status), 125, "{said}");
            assert!(said.contains(reason) && said.contains(hint), "{said}");
            assert!(
                said.contains(&format!("cannot continue the clocks in '{}'", file(&tree.path()).display())),
                "{said}"
            );
            leftovers::assert_none(tree.name(), &tree.path());
        }
        assert_eq!(fs::read_to_string(file(&tree.path())).unwrap(), text);
    }
    // The end of what the kernel can show, with less than a second of a crash to add.
    let mut last = whole.clone();
    last["monotonic_ns"] = 4_611_686_018_000_000_000_i64.into();
    last["running"] = true.into();
    last["host_boottime_ns"] = 0.into();
    fs::write(file(&tree.path()), last.to_string()).unwrap();
    let refused = run(&tree, &["--clock=continue"], &["true"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("the monotonic clock cannot start at 146y") && said.contains("--clock=zero"),
        "{said}"
    );
    // The way out that the hint shows.
    assert!(uptime(&stdout_of_run(&tree, &["--clock=zero"], &["cat", "/proc/uptime"])) < 20.0);
    fs::remove_file(file(&tree.path())).unwrap();
    assert!(uptime(&stdout_of_run(&tree, &["--clock=continue"], &["cat", "/proc/uptime"])) < 20.0);
}

#[test]
fn where_nothing_can_be_kept_nothing_runs() {
    let tree = Tree::minimal();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", "mount --bind $0 $0 && mount -o remount,ro,bind $0 && exec \"$@\""]);
    unshare.arg(tree.outside()).arg(support::program()).args(["run", "--clock=continue", "--read-only"]);
    let refused = output(unshare.arg(tree.path()).args(["--", "true"]));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(code(refused.status), 125, "{said}");
    assert!(
        said.contains("cannot keep the machine's clocks in") && said.contains("read-only file system"),
        "{said}"
    );
    assert!(said.contains("hint: --clock=zero"), "{said}");
    leftovers::assert_none(tree.name(), &tree.path());

    for (options, reason) in [
        (
            ["--clock=continue", "--ephemeral"],
            "an ephemeral machine leaves nothing to keep its clocks beside",
        ),
        (["--clock=continue", "--clock-monotonic=+1s"], "has no offset from the host's"),
        (["--clock=continue", "--clock-boottime=-1s"], "has no offset from the host's"),
    ] {
        let refused = run(&tree, &options, &["true"]);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(code(refused.status), 2, "{said}");
        assert!(said.contains(reason), "{said}");
    }
    // What could not be executed was no machine.
    assert_eq!(code(run(&tree, &["--clock=continue"], &["/nothing"]).status), 127);
    assert_eq!(beside(&tree), Vec::<String>::new());
    stdout_of_run(&tree, &["--clock=continue"], &["true"]);
    let before = fs::read(file(&tree.path())).unwrap();
    assert_eq!(code(run(&tree, &["--clock=continue"], &["/nothing"]).status), 127);
    assert_eq!(fs::read(file(&tree.path())).unwrap(), before);
}

#[test]
fn a_settings_file_can_say_it_and_one_machine_at_a_time_has_them() {
    let tree = Tree::minimal();
    fs::write(
        tree.outside().join(format!("{}.nspawn", tree.name())),
        "[X-Osier]\nClock=continue\nUptime=1d\n",
    )
    .unwrap();
    let machine = Machine::minimal(&tree, &["--settings=trusted", "--read-only"]);
    assert!(inside(&machine).0 > 86_400.0);
    let mut second =
        osier(["run", "--clock=continue", "--read-only", &format!("--machine={}", unique("second"))]);
    let second = output(second.arg(tree.path()).args(["--", "true"]));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another machine runs from it"), "{said}");
    end(machine);
    assert!(kept(&tree.path()) > 86_400.0);
}

#[test]
fn a_full_disk_is_no_step_back() {
    let tree = Tree::minimal();
    let small = tree.outside().join("small");
    fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$1\"; mkdir \"$1/t\"; mount --bind \"$2\" \"$1/t\"
        \"$0\" run --machine=$3 --clock=continue --uptime=1h \"$1/t\" -- sleep 3 & sleep 1
        dd if=/dev/zero of=\"$1/fill\" bs=4k 2>/dev/null
        wait $! && \"$0\" run --machine=$3 --clock=continue \"$1/t\" -- cat /proc/uptime
        rm \"$1/.#t.osier-clocks.json\"; dd if=/dev/zero of=\"$1/more\" bs=4k 2>/dev/null
        \"$0\" run --machine=$3 --clock=continue \"$1/t\" -- cat /proc/uptime; ls -A \"$1\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script]).arg(support::program()).arg(&small).arg(tree.path());
    let output = output(unshare.arg(unique("full")));
    let (shown, said) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let lines: Vec<_> = shown.lines().collect();
    assert!((3603.0..3650.0).contains(&uptime(lines[0])), "{shown} {said}");
    // Where there was nothing before there is no room for it either, and nothing runs.
    assert!(said.contains("cannot keep the machine's clocks in") && said.contains("no space left"), "{said}");
    assert_eq!(lines[1..], ["fill", "more", "t"], "{said}");
}

/// How often a process has slept.
fn naps(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn the_file_is_fresh_and_who_keeps_none_sleeps() {
    let (tree, plain) = (Tree::minimal(), Tree::minimal());
    let (keeping, other) = (Machine::minimal(&tree, &["--clock=continue"]), Machine::minimal(&plain, &[]));
    sleep(Duration::from_secs(3));
    let asleep = naps(other.supervisor());
    let mut oldest: f64 = 0.0;
    for _ in 0..40 {
        sleep(Duration::from_millis(50));
        oldest = oldest.max(inside(&keeping).0 - kept(&tree.path()));
    }
    assert!(oldest < 1.0, "{oldest}");
    assert_eq!(naps(other.supervisor()), asleep);
    assert_eq!(fs::metadata(file(&tree.path())).unwrap().mode() & 0o7777, 0o644);
    end(keeping);
    end(other);
}

#[test]
fn a_debian_machine_goes_on_over_poweroff_and_boot() {
    let scratch = Scratch::below(Path::new("/var/tmp"));
    let name = unique("goes-on");
    let tree = scratch.path().join(&name);
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).args([&debian(), &tree]).status().unwrap();
    assert!(copied.success());
    let boot = || {
        let mut command = osier(["boot", "--clock=continue", "--uptime=uint32-ms"]);
        command.arg(&tree);
        let machine = Machine::spawn(command, &name, &tree);
        machine.await_output(" login: ");
        machine
    };
    let machine = boot();
    let first = uptime(&machine.sh("cat /proc/uptime"));
    assert!(first > 4_294_967.0, "{first}");
    end(machine);
    sleep(Duration::from_secs(2));
    let before = (here(ClockId::Boottime), state(&tree));
    let machine = boot();
    // systemd notes when it began to run, in CLOCK_MONOTONIC: where the machine's last life ended, and a launch later.
    let began: f64 = machine.sh("systemctl show -p UserspaceTimestampMonotonic --value").parse().unwrap();
    let ended = before.1["monotonic_ns"].as_f64().unwrap() / 1e9;
    assert!(began / 1e6 >= ended && began / 1e6 < ended + 20.0, "{ended} {began}");
    assert!(uptime(&machine.sh("cat /proc/uptime")) > first);
    end(machine);
}
