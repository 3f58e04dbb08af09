//! `osier run --clock-sweep`: one command under many clocks; what it finds, what it reports, and that nothing is left of it.
//! Needs root, and gcc for the program in the README.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quick_xml::Reader;
use quick_xml::events::Event;

use support::machine::{code, osier, output, wait};
use support::terminal::Terminal;
use support::tree::{Scratch, Tree};
use support::{await_that, leftovers};

/// `osier run --clock-sweep=CLOCKS OPTIONS TREE -- COMMAND`, to its end, of which nothing may be left.
fn sweep(tree: &Tree, clocks: &str, options: &[&str], command: &[&str]) -> Output {
    let mut osier = osier(["run", "--register=no", &format!("--clock-sweep={clocks}")]);
    osier.args(options).arg(tree.path()).arg("--").args(command);
    let output = output(&mut osier);
    assert_nothing_runs(tree);
    output
}

/// Nothing of any run of a tree's is there.
fn assert_nothing_runs(tree: &Tree) {
    assert_eq!(of_runs(tree), Vec::<String>::new());
}

fn of_runs(tree: &Tree) -> Vec<String> {
    let mut found = leftovers::of(tree.name(), &tree.path());
    for directory in ["/run/osier/machines", "/run/osier/console", "/run/systemd/nspawn/propagate"] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let own = entries.filter(|entry| entry.file_name().to_string_lossy().contains(tree.name()));
        found.extend(own.map(|entry| entry.path().display().to_string()));
    }
    found
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A test case of a report.
#[derive(Debug, Default)]
struct Case {
    attributes: BTreeMap<String, String>,
    /// The text of each element in it, and the attributes of those that have some.
    texts: BTreeMap<String, String>,
    bad: BTreeMap<String, String>,
}

/// The cases of a report by their names; it has to be XML from the first to the last byte.
fn cases(file: &Path) -> BTreeMap<String, Case> {
    let text = fs::read_to_string(file).unwrap();
    let mut reader = Reader::from_str(&text);
    reader.config_mut().check_end_names = true;
    let (mut cases, mut case, mut inside) = (BTreeMap::new(), Case::default(), Vec::new());
    loop {
        let event = reader.read_event().unwrap();
        match &event {
            Event::Start(start) | Event::Empty(start) => {
                let name = String::from_utf8(start.name().as_ref().to_vec()).unwrap();
                let attributes = start.attributes().map(|attribute| {
                    let attribute = attribute.unwrap();
                    let key = String::from_utf8(attribute.key.as_ref().to_vec()).unwrap();
                    let value = std::str::from_utf8(&attribute.value).unwrap().to_owned();
                    (key, quick_xml::escape::unescape(&value).unwrap().into_owned())
                });
                match name.as_str() {
                    "testcase" => case = Case { attributes: attributes.collect(), ..Case::default() },
                    "failure" | "error" => {
                        case.bad.extend(attributes.chain([("element".to_owned(), name.clone())]))
                    }
                    _ => {}
                }
                if matches!(event, Event::Start(_)) {
                    inside.push(name);
                }
            }
            Event::Text(text) => {
                let name = inside.last().cloned().unwrap_or_default();
                case.texts.entry(name).or_default().push_str(&text.decode().unwrap());
            }
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().unwrap() {
                    Some(char) => char.to_string(),
                    None => {
                        let name = reference.decode().unwrap();
                        quick_xml::escape::resolve_predefined_entity(&name).unwrap().to_owned()
                    }
                };
                case.texts.entry(inside.last().unwrap().clone()).or_default().push_str(&character);
            }
            Event::End(_) => {
                let closed = inside.pop();
                if closed.as_deref() == Some("testcase") {
                    let case = std::mem::take(&mut case);
                    assert!(cases.insert(case.attributes["name"].clone(), case).is_none());
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(inside.is_empty(), "{inside:?}");
    cases
}

/// What stands between two lines of the README, the second one the first of its kind after the first.
fn readme(begin: &str, end: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = text.split_once(&format!("\n{begin}\n")).unwrap_or_else(|| panic!("README: no {begin}"));
    rest.split_once(&format!("\n{end}\n")).unwrap().0.to_owned()
}

/// Words, without the times that runs took.
fn words(text: &str) -> Vec<String> {
    let is_time = |word: &str| {
        word.strip_suffix('s').is_some_and(|number| number.contains('.') && number.parse::<f64>().is_ok())
            && !word.contains(".2")
    };
    text.split_whitespace().filter(|word| !is_time(word)).map(str::to_owned).collect()
}

#[test]
fn it_finds_the_overflow_that_is_planted_in_the_readme() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let source = scratch.file("patience.c", readme("```c", "```"));
    let binary = scratch.path().join("patience");
    let gcc = Command::new("gcc").args(["-static", "-o"]).args([&binary, &source]).output().unwrap();
    assert!(gcc.status.success(), "{gcc:?}");
    let session = readme("```console", "```");
    let (command, shown) = session.split_once('\n').unwrap();
    let options: Vec<_> = command.split(' ').filter(|word| word.starts_with("--clock-sweep=")).collect();
    let clocks = options[0].strip_prefix("--clock-sweep=").unwrap();

    let report = scratch.path().join("sweep.xml");
    let bind = format!("--bind-ro={}:/mnt/patience", binary.display());
    let junit = format!("--junit={}", report.display());
    let output = sweep(&tree, clocks, &[&bind, &junit], &["/mnt/patience"]);
    assert_eq!(code(output.status), 1, "{output:?}");
    assert_eq!(words(&stdout(&output)), words(shown), "{}", stdout(&output));
    let cases = cases(&report);
    for (name, case) in &cases {
        let fails = name == "uint32-ms-30s";
        assert_eq!(
            case.bad.get("message"),
            fails.then(|| "exit status 1".to_owned()).as_ref(),
            "{name}: {case:?}"
        );
        let said = if fails { "no answer within a minute\n" } else { "the answer came\n" };
        assert_eq!(case.texts["system-out"], said, "{name}");
    }
    assert_eq!(cases.keys().map(String::as_str).collect::<Vec<_>>().join(",").len(), clocks.len());
}

#[test]
fn each_run_has_its_clock_and_nothing_else_of_its_own() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let before = tree.fingerprint();
    // Of the machine's own name, and above the clocks only where it is no clock.
    let file = |clocks: &str| {
        let settings = format!("[Exec]\nHostname=willow\n[X-Osier]\n{clocks}\n");
        fs::write(tree.outside().join(format!("{}.nspawn", tree.name())), settings).unwrap();
    };
    let report = scratch.path().join("r.xml");
    let junit = format!("--junit={}", report.display());
    let script = "cut -d' ' -f1 /proc/uptime; hostname; cat /proc/self/timens_offsets; echo more >/etc/passwd; touch /x";
    for (mode, clocks) in [
        ("--settings=trusted", "ClockMonotonic=+5s\nUptime=3h"),
        ("--settings=override", "ClockMonotonic=+5s\nUptime=3h"),
        ("--settings=trusted", "Clock=continue"),
    ] {
        file(clocks);
        let output = sweep(&tree, "host,0,7d,int32-cs-1h", &[&junit, mode], &["sh", "-c", script]);
        assert!(output.status.success(), "{output:?}");
        assert!(stdout(&output).ends_with("Passed under 4 clocks.\n"), "{output:?}");
        let cases = cases(&report);
        for (name, seconds) in [("0", 0.0), ("7d", 604_800.0), ("int32-cs-1h", 21_474_836.48 - 3600.0)] {
            let lines: Vec<_> = cases[name].texts["system-out"].lines().map(str::to_owned).collect();
            let uptime: f64 = lines[0].parse().unwrap();
            assert!((seconds..seconds + 10.0).contains(&uptime), "{name}: {lines:?}");
            assert_eq!(lines[1], "willow");
            let whole = |line: &str| line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap();
            let (monotonic, boottime) = (whole(&lines[2]), whole(&lines[3]));
            // The host of this test may have been suspended.
            let suspended = suspended();
            assert!((monotonic - boottime - suspended).abs() <= 1, "{name}: {lines:?} {suspended}");
        }
        assert!(cases["host"].texts["system-out"].contains("monotonic           0         0\n"), "{cases:?}");
    }
    assert_eq!(tree.fingerprint(), before, "the tree was written to");
    assert_eq!(fs::read_dir(tree.outside()).unwrap().count(), 2, "something was kept beside it");
    let output = sweep(&tree, "0,1d", &["--read-only"], &["touch", "/x"]);
    assert_eq!(code(output.status), 1, "{output:?}");
    assert!(stdout(&output).contains("Read-only file system"), "{output:?}");
}

fn suspended() -> i64 {
    use rustix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::Boottime).tv_sec - clock_gettime(ClockId::Monotonic).tv_sec
}

#[test]
fn so_many_run_at_a_time_as_are_asked_for() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let bind = format!("--bind={}:/mnt", scratch.path().display());
    // Each waits for all three.
    let together =
        "touch /mnt/$$-$(cut -d. -f1 /proc/uptime); while [ $(ls /mnt | wc -l) -lt 3 ]; do sleep 0.05; done";
    let output = sweep(&tree, "0,1d,2d", &["--jobs=3", "--timeout=30s", &bind], &["sh", "-c", together]);
    assert!(output.status.success(), "{output:?}");
    // Each wants to be alone.
    let alone = "mkdir /mnt/alone && sleep 0.2 && rmdir /mnt/alone";
    let output = sweep(&tree, "0,1d,2d", &["--jobs=1", &bind], &["sh", "-c", alone]);
    assert!(output.status.success(), "{output:?}");
    let output = sweep(&tree, "0,1d,2d", &["--jobs=2", &bind], &["sh", "-c", alone]);
    assert_eq!(code(output.status), 1, "two at a time are not alone: {output:?}");
}

#[test]
fn a_run_that_takes_too_long_is_ended() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let report = scratch.path().join("r.xml");
    let junit = format!("--junit={}", report.display());
    // Under one clock alone, and deaf to the signal.
    let script =
        "trap '' TERM; echo up; [ $(cut -d. -f1 /proc/uptime) -lt 86000 ] || while :; do sleep 1; done";
    let options = ["--timeout=700ms", &junit, "--kill-signal=SIGTERM"];
    let start = Instant::now();
    let output = sweep(&tree, "0,1d", &options, &["sh", "-c", script]);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(code(output.status), 1, "{output:?}");
    assert!(
        stdout(&output).contains("\n1d: took longer than 700ms; the last that it wrote\n  up\n"),
        "{output:?}"
    );
    let cases = cases(&report);
    assert!(cases["0"].bad.is_empty());
    let bad = &cases["1d"].bad;
    assert_eq!((bad["element"].as_str(), bad["type"].as_str()), ("failure", "timeout"), "{bad:?}");
}

#[test]
fn what_cannot_be_run_is_an_error_and_not_a_failed_test() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let report = scratch.path().join("r.xml");
    let junit = format!("--junit={}", report.display());
    let output = sweep(&tree, "0,1d", &[&junit], &["/no/such/command"]);
    assert_eq!(code(output.status), 125, "{output:?}");
    assert!(stdout(&output).contains("not run: cannot execute '/no/such/command'"), "{output:?}");
    let bad = &cases(&report)["0"].bad;
    assert_eq!((bad["element"].as_str(), bad["type"].as_str()), ("error", "osier"), "{bad:?}");
    let killed = sweep(&tree, "0", &["--as-pid2"], &["sh", "-c", "kill -SEGV $$"]);
    assert_eq!(code(killed.status), 1, "{killed:?}");
    assert!(stdout(&killed).contains("exit status 139 (SIGSEGV)"), "{killed:?}");
}

#[test]
fn any_output_is_kept_within_bounds_and_is_xml() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let report = scratch.path().join("r.xml");
    let junit = format!("--junit={}", report.display());
    let script = "printf 'a<b>&\"\\000\\033[31mred\\033[m\\377]]>\\001\\n' >&2; head -c 30000000 /dev/urandom; \
                  seq 500000; exit 3";
    let output = sweep(&tree, "0", &[&junit], &["sh", "-c", script]);
    assert_eq!(code(output.status), 1);
    let shown = stdout(&output);
    assert!(shown.contains("\n  500000\n") && shown.len() < 20_000, "{}", shown.len());
    let cases = cases(&report);
    let texts = &cases["0"].texts;
    assert!(texts["system-err"].starts_with("a<b>&\"red\u{fffd}]]>"), "{:?}", texts["system-err"]);
    let out = &texts["system-out"];
    let (first, rest) = out.split_once('\n').unwrap();
    assert!(first.ends_with(" bytes before this are not kept]"), "{first}");
    assert!(rest.ends_with("\n499999\n500000\n"));
    assert!((1 << 20..1 << 21).contains(&out.len()), "{}", out.len());
    // Without a word, to a place that is no file.
    let output = sweep(&tree, "0", &["--quiet", "--junit=/dev/stdout"], &["true"]);
    assert!(output.status.success() && stdout(&output).starts_with("<?xml"), "{output:?}");
}

/// A sweep of three runs that wait; ended when it is dropped.
struct Waiting {
    child: Child,
    /// Of its machines.
    names: Vec<String>,
}

impl Waiting {
    fn start(tree: &Tree, spawn: impl FnOnce(&Command) -> Child) -> Self {
        let mut command = osier(["run", "--register=no", "--clock-sweep=0,1d,2d", "--jobs=3"]);
        command.arg(tree.path()).args(["--", "sleep", "1000"]);
        let child = spawn(&command);
        let names = (1..=3).map(|at| format!("{}-clock-{}-{at}", tree.name(), child.id())).collect();
        let waiting = Self { child, names };
        let runs = |name: &String| Path::new("/run/osier/machines").join(format!("{name}.json")).exists();
        await_that("three machines", || waiting.names.iter().all(runs));
        waiting
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

#[test]
fn control_c_ends_all_runs() {
    let tree = Tree::minimal();
    let terminal = Terminal::new();
    let mut waiting = Waiting::start(&tree, |command| terminal.spawn(command));
    terminal.press("\x03");
    let start = Instant::now();
    assert_eq!(code(wait(&mut waiting.child, &|| terminal.screen())), 130);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    for name in &waiting.names {
        leftovers::assert_none(name, &tree.path());
    }
    assert_nothing_runs(&tree);
    assert!(!terminal.screen().contains("CLOCK"), "{}", terminal.screen());
    terminal.assert_as_found();
}

#[test]
fn a_sweep_that_is_killed_takes_its_runs_along() {
    let tree = Tree::minimal();
    let mut waiting = Waiting::start(&tree, |command| {
        let mut spawned = Command::new(command.get_program());
        spawned.args(command.get_args()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        spawned.spawn().unwrap()
    });
    waiting.signal(Signal::SIGKILL);
    waiting.child.wait().unwrap();
    for name in &waiting.names {
        await_that(&format!("the end of {name}"), || leftovers::of(name, &tree.path()).is_empty());
    }
}

#[test]
fn what_is_wrong_is_refused_before_anything_runs() {
    let (tree, scratch) = (Tree::minimal(), Scratch::new());
    let touched = scratch.path().join("touched");
    let bind = format!("--bind={}:/mnt", scratch.path().display());
    let missing = format!("--junit={}/no/r.xml", scratch.path().display());
    let directory = format!("--junit={}", scratch.path().display());
    for (options, expected, words) in [
        (&["--clock-sweep="][..], 2, "a clock is missing"),
        (&["--clock-sweep=0,,1d"], 2, "a clock is missing"),
        (&["--clock-sweep=0,1dd"], 2, "'dd' is no unit of time"),
        (&["--clock-sweep=0,uint32-sm"], 2, "did you mean 'uint32-ms'?"),
        (
            &["--clock-sweep=0,147y"],
            2,
            "--clock-sweep=147y: the monotonic clock cannot start at 147y; it can start between",
        ),
        (&["--clock-sweep=-1d"], 2, "cannot start at -1d"),
        (&["--clock-sweep=24h,1d"], 2, "it is the same clock as '24h'"),
        (&["--clock-sweep=0", "--uptime=1d"], 2, "cannot be used with"),
        (&["--clock-sweep=0", "--clock=host"], 2, "cannot be used with"),
        (&["--clock-sweep=0", "--clock-boottime=+1d"], 2, "cannot be used with"),
        (&["--clock-sweep=0", "--console=interactive"], 2, "cannot be used with"),
        (&["--clock-sweep=0", "--jobs=0"], 2, "--jobs"),
        (&["--clock-sweep=0", "--timeout=soon"], 2, "a number was expected at 'soon'"),
        (&["--clock-sweep=0", "--timeout=-1s"], 2, "it is before now"),
        (&["--jobs=2"], 2, "--clock-sweep"),
        (&["--junit=/tmp/x"], 2, "--clock-sweep"),
        (&["--clock-sweep=0", &missing], 125, "r.xml': no such file or directory"),
        (&["--clock-sweep=0", &directory], 125, "is a directory"),
        (&["--clock-sweep=0", "--junit=/proc/r.xml"], 125, "cannot write '/proc/r.xml'"),
        (&["--clock-sweep=0", "--machine=-"], 2, "--machine=-"),
    ] {
        let mut command = osier(["run", &bind]);
        command.args(options).arg(tree.path()).args(["--", "touch", "/mnt/touched"]);
        let output = output(&mut command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(code(output.status), expected, "{options:?}: {stderr}");
        assert!(stderr.contains(words) && output.stdout.is_empty(), "{options:?}: {stderr}");
        assert!(!touched.exists(), "{options:?}");
    }
    let output = output(&mut osier(["run", "--clock-sweep=0,1d", "/no/such/tree", "--", "true"]));
    assert_eq!(code(output.status), 125, "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("'/no/such/tree'"));
    assert_nothing_runs(&tree);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[test]
fn a_dry_run_prints_the_plan_of_each() {
    let tree = Tree::minimal();
    let output = sweep(&tree, "0,uint32-ms", &["--dry-run"], &["true"]);
    let text = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    let names: Vec<PathBuf> = text
        .lines()
        .filter(|line| line.contains(&format!("{}-clock-", tree.name())))
        .map(PathBuf::from)
        .collect();
    assert!(names.len() >= 2, "{text}");
    assert_eq!(text.matches("  hostname").count() + text.matches("\nhostname").count(), 2, "{text}");
}
