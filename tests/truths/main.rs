//! What follows the clocks of a machine and what does not: each line of osier-clocks(7) is tried in machines that osier made,
//! with clocks ahead of the host's, behind them, and from zero.
//!
//! The machine runs this program again: `inside` as its first process, which starts `case NAME PLACE` for each case, a
//! process with one thread that enters the place (place.rs) and then makes the system calls that it is about. The cases of
//! the kernel's own tests of time namespaces are among them. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;

mod apart;
mod bare;
mod clocks;
mod here;
mod host;
mod members;
mod page;
mod place;
mod proc;
mod timers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, ExitCode, Stdio};

use here::Here;
use place::Place;
use support::machine::stdout_of_run;
use support::tree::Tree;
use support::unique;

/// Where the line of the page is tried.
#[derive(Clone, Copy)]
enum Tried {
    Everywhere,
    /// Outside of user namespaces.
    AsRoot,
    /// It makes namespaces of its own.
    Once,
}

/// A name by which the page refers to it, where it is tried, how.
type Case = (&'static str, Tried, fn(&Here));

const CASES: &[Case] = &[
    ("clock_monotonic", Tried::Everywhere, clocks::monotonic),
    ("clock_monotonic_raw", Tried::Everywhere, clocks::monotonic_raw),
    ("clock_monotonic_coarse", Tried::Everywhere, clocks::monotonic_coarse),
    ("clock_boottime", Tried::Everywhere, clocks::boottime),
    ("clock_boottime_alarm", Tried::Everywhere, clocks::boottime_alarm),
    ("clock_by_system_call", Tried::Everywhere, clocks::by_system_call),
    ("clock_of_cpu_time", Tried::Everywhere, clocks::of_cpu_time),
    ("clock_cannot_be_set", Tried::Everywhere, clocks::cannot_be_set),
    ("proc_uptime", Tried::Everywhere, proc::uptime),
    ("sysinfo", Tried::Everywhere, proc::sysinfo),
    ("proc_stat_btime", Tried::Everywhere, proc::btime),
    ("proc_start_time", Tried::Everywhere, proc::started),
    ("timerfd_absolute", Tried::Everywhere, timers::timerfd_absolute),
    ("timerfd_alarm", Tried::AsRoot, timers::timerfd_alarm),
    ("timer_absolute", Tried::Everywhere, timers::timer_absolute),
    ("sleep_absolute", Tried::Everywhere, timers::sleep_absolute),
    ("sleep_interrupted", Tried::Everywhere, timers::sleep_interrupted),
    ("futex_absolute", Tried::Everywhere, timers::futex_absolute),
    ("realtime_absolute", Tried::Everywhere, timers::realtime_absolute),
    ("relative", Tried::Everywhere, timers::relative),
    ("children", Tried::Once, members::children),
    ("exec", Tried::Once, members::exec),
    ("vfork_and_exec", Tried::Once, members::vfork_and_exec),
    ("setns", Tried::Once, members::setns),
    ("offsets_are_fixed", Tried::Once, members::offsets_are_fixed),
    ("offsets_of_root", Tried::Once, members::offsets_of_root),
    ("offsets_out_of_range", Tried::Once, members::offsets_out_of_range),
];

/// On the host.
const APART: &[(&str, fn())] = &[
    ("page", page::every_line_is_tried),
    ("seen_from_the_host", apart::seen_from_the_host),
    ("io_uring_absolute", apart::io_uring_absolute),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inside", filter] => inside(filter),
        ["case", name, place] => case(name, Place::find(place)),
        ["expect", monotonic, boottime] => members::expect(monotonic, boottime),
        ["hold"] => _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()),
        ["--list", ..] => names().for_each(|name| println!("{name}: test")),
        _ => {
            let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
            return outside(filter.map_or("", String::as_str));
        }
    }
    ExitCode::SUCCESS
}

/// Every name that the page may refer to.
fn names() -> impl Iterator<Item = &'static str> {
    let cases = CASES.iter().map(|(name, ..)| *name);
    cases.chain(host::READINGS.iter().map(|(name, ..)| *name)).chain(APART.iter().map(|(name, _)| *name))
}

fn case(name: &str, place: Place) {
    place.enter();
    // What waits for ever ends, and is named.
    nix::unistd::alarm::set(20);
    let (.., run) = CASES.iter().find(|(known, ..)| *known == name).expect("a case");
    run(&Here::read());
}

/// The machine's first process: a line for each case, `NAME` and what it said if it failed, and one for each reading.
fn inside(filter: &str) {
    let places = |tried: Tried| match tried {
        Tried::Everywhere => &Place::ALL[..],
        Tried::AsRoot | Tried::Once => &[Place::Machine],
    };
    let wanted = CASES.iter().filter(|(name, ..)| name.contains(filter));
    let all = wanted.flat_map(|(name, tried, _)| places(*tried).iter().map(move |place| (*name, *place)));
    // All at once: most of what they do is wait.
    let children: Vec<(String, Child)> = all
        .map(|(name, place)| {
            let mut command = Command::new("/proc/self/exe");
            command.args(["case", name, &place.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
            (format!("{place}/{name}"), command.spawn().unwrap())
        })
        .collect();
    for (name, child) in children {
        let output = child.wait_with_output().unwrap();
        let said = format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        println!("case {name} {:?}", if output.status.success() { String::new() } else { said });
    }
    for (name, _, read) in host::READINGS.iter().filter(|(name, ..)| name.contains(filter)) {
        println!("reading {name} {}", read().map_or("-".to_owned(), |value| value.to_string()));
    }
}

/// How clocks are set: a name for it, and the options.
fn settings() -> [(&'static str, Vec<String>); 3] {
    let now = osier::clock::Now::read().unwrap();
    let behind = |shown: i64, part: i64| format!("-{}ns", shown / 3 * part);
    [
        ("ahead", vec!["--clock-monotonic=+1000000.123456789s".into(), "--clock-boottime=+500d".into()]),
        (
            "behind",
            vec![
                format!("--clock-monotonic={}", behind(now.monotonic + now.own.monotonic, 1)),
                format!("--clock-boottime={}", behind(now.boottime + now.own.boottime, 2)),
            ],
        ),
        ("zero", vec!["--clock=zero".into()]),
    ]
}

/// A name, and what was said when it failed.
type Verdict = (String, Option<String>);

/// Runs all cases in a machine with these clocks.
fn machine(setting: &str, options: &[String], filter: &str) -> Vec<Verdict> {
    let tree = Tree::minimal();
    let program = std::env::current_exe().unwrap();
    let (directory, name) = (program.parent().unwrap().display(), program.file_name().unwrap().display());
    let mut all = vec![
        format!("--machine={}", unique("truths")),
        "--quiet".into(),
        "--network=none".into(),
        "--capability=CAP_WAKE_ALARM,CAP_SYSLOG".into(),
        "--bind-ro=/dev/kmsg".into(),
        format!("--bind-ro={directory}:/mnt"),
        here::handed_on(),
    ];
    all.extend_from_slice(options);
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let look = || host::READINGS.iter().map(|(.., read)| read()).collect::<Vec<_>>();
    let before = look();
    let text = stdout_of_run(&tree, &all, &[&format!("/mnt/{name}"), "inside", filter]);
    let after = look();
    let mut verdicts = Vec::new();
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap();
        let (name, rest) = rest.split_once(' ').unwrap();
        let said = if kind == "case" {
            (rest != "\"\"").then(|| rest.replace("\\n", "\n  "))
        } else {
            let (at, (_, back, _)) =
                host::READINGS.iter().enumerate().find(|(_, (known, ..))| *known == name).unwrap();
            let is_so = match (before[at], rest.parse::<i128>().ok(), after[at]) {
                (Some(before), Some(inside), Some(after)) => {
                    before - back <= inside && inside <= after + back
                }
                (None, None, None) => true,
                _ => false,
            };
            (!is_so).then(|| format!("{rest} is not between {:?} and {:?}", before[at], after[at]))
        };
        verdicts.push((format!("{setting}/{name}"), said));
    }
    verdicts
}

fn outside(filter: &str) -> ExitCode {
    let machines = settings().map(|(setting, options)| {
        let filter = filter.to_owned();
        std::thread::spawn(move || machine(setting, &options, &filter))
    });
    let mut verdicts: Vec<Verdict> = APART
        .iter()
        .filter(|(name, _)| name.contains(filter))
        .map(|(name, test)| {
            ((*name).to_owned(), catch_unwind(AssertUnwindSafe(test)).err().map(|_| "see above".into()))
        })
        .collect();
    for machine in machines {
        verdicts
            .extend(machine.join().unwrap_or_else(|_| vec![("machine".into(), Some("see above".into()))]));
    }
    for (name, said) in &verdicts {
        println!(
            "test {name} ... {}",
            said.as_ref().map_or("ok".to_owned(), |said| format!("FAILED\n  {said}"))
        );
    }
    let failed = verdicts.iter().filter(|(_, said)| said.is_some()).count();
    println!(
        "\ntest result: {}. {} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" },
        verdicts.len() - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
