//! `list`, `status`, `show` and `terminate` on records that this test holds as a supervisor would. Needs root: the
//! directory of records is mounted over /run/osier/machines in a mount namespace of its own for each command.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its records has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use osier::image::Init;
use osier::machine::record::{Claim, Clocks, Record, Stage, Store};
use serde_json::Value;

struct Machines {
    directory: PathBuf,
    store: Store,
}

impl Machines {
    fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("osier-records-{test}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let store = Store::at(&directory);
        Self { directory, store }
    }

    fn start(&self, name: &str, leader: u32) -> Claim {
        let mut claim = self.store.claim(name).unwrap();
        claim.write(&record(name, leader)).unwrap();
        claim
    }

    fn osier(&self, arguments: &[&str]) -> Output {
        self.osier_with(&[], arguments)
    }

    /// With these variables in its environment, `NAME=VALUE`.
    fn osier_with(&self, environment: &[&str], arguments: &[&str]) -> Output {
        let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/osier/machines && \
            mount --bind \"$1\" /run/osier/machines && shift && exec \"$@\"";
        Command::new("unshare")
            .args(["--mount", "--propagation=private", "sh", "-c", script, "sh"])
            .arg(&self.directory)
            .arg("env")
            .args(environment)
            .arg(env!("CARGO_BIN_EXE_osier"))
            .args(arguments)
            .output()
            .unwrap()
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn record(name: &str, leader: u32) -> Record {
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - Duration::from_secs(90_000);
    Record {
        version: Record::VERSION,
        name: name.to_owned(),
        id: "0123456789abcdef".repeat(2),
        class: "container".to_owned(),
        verb: "boot".to_owned(),
        init: Some(Init::Systemd),
        state: Stage::Starting,
        leader,
        supervisor: std::process::id(),
        owner: 0,
        root: Path::new("/var/lib/machines").join(name),
        os: Some("Debian GNU/Linux 13 (trixie)".to_owned()),
        unit: Some(format!("machine-{name}.scope")),
        registered: false,
        cgroup: None,
        users: None,
        namespaces: BTreeMap::from([("pid".to_owned(), namespace)]),
        clocks: Clocks { monotonic_offset_ns: -3_600_000_000_000, boottime_offset_ns: 5 },
        checkpointable: None,
        links: vec![format!("ve-{name}")],
        started: u64::try_from(started.as_micros()).unwrap(),
        started_monotonic: 5_000_000,
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn the_reading_verbs_tell_what_the_record_says() {
    let machines = Machines::new("read");
    assert_eq!(stdout(&machines.osier(&["list"])), "No machines.\n");
    let own = std::process::id();
    let web = machines.start("web", own);
    let mail = machines.start("mail", own);
    let claimed = machines.store.claim("claimed-only").unwrap();

    let table = machines.osier(&["list"]);
    let lines: Vec<_> = stdout(&table).lines().collect();
    assert!(lines[0].starts_with("MACHINE CLASS     SERVICE OS "), "{lines:?}");
    assert!(
        lines[1].starts_with("mail    container osier   Debian GNU/Linux 13 (trixie) 1d 1h  -"),
        "{lines:?}"
    );
    assert_eq!((lines.len(), lines[4]), (5, "2 machines listed."), "{lines:?}");
    let bare = machines.osier(&["list", "--no-legend"]);
    assert_eq!(stdout(&bare).lines().count(), 2);
    let array: Vec<Value> = serde_json::from_str(stdout(&machines.osier(&["list", "--json"]))).unwrap();
    assert_eq!((&array[1]["name"], &array[1]["leader"]), (&"web".into(), &own.into()));

    let shown: Record = serde_json::from_str(stdout(&machines.osier(&["show", "web", "--json"]))).unwrap();
    assert_eq!(shown.root, Path::new("/var/lib/machines/web"));
    let lines = machines.osier(&["show", "web"]);
    for line in [
        &format!("Leader={own}"),
        "State=starting",
        "Unit=machine-web.scope",
        "Unit=machine-web.scope",
        "TimestampMonotonic=5000000",
        "Owner=0",
        "ClockMonotonicOffsetNSec=-3600000000000",
    ] {
        assert!(stdout(&lines).lines().any(|found| found == line), "{line} is not in {}", stdout(&lines));
    }
    let one = machines.osier(&["show", "web", "mail", "-p", "Name,Class", "--value"]);
    assert_eq!(stdout(&one), "web\ncontainer\nmail\ncontainer\n");
    assert_eq!(machines.osier(&["show", "web", "-p", "Nmae"]).status.code(), Some(2));

    let status = machines.osier(&["status", "web"]);
    for part in [
        "; 1d 1h ago\n",
        "Uptime: 1d 1h; inside ",
        "Clocks: monotonic -1h, boottime +",
        "Interface: ve-web\n",
        "Root: /var/lib/machines/web\n",
        "Init: systemd\n",
    ] {
        assert!(stdout(&status).contains(part), "{part} is not in {}", stdout(&status));
    }
    let slip = machines.osier(&["status", "wbe"]);
    assert!(String::from_utf8_lossy(&slip.stderr).ends_with("hint: did you mean 'web'?\n"), "{slip:?}");
    for claim in [web, mail, claimed] {
        claim.close().unwrap();
    }
    assert_eq!(stdout(&machines.osier(&["list"])), "No machines.\n");
}

/// The keys of a value as osier-json(5) writes them; what an object of many has (`namespaces`) is not a key.
fn paths(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) if prefix != "namespaces" => {
            for (key, value) in members {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                paths(value, &path, found);
                found.push(path);
            }
        }
        Value::Array(items) if prefix.is_empty() => items.iter().for_each(|item| paths(item, "", found)),
        Value::Array(items) => items.iter().for_each(|item| paths(item, &format!("{prefix}[]"), found)),
        _ => {}
    }
}

#[test]
fn every_key_that_is_printed_is_in_the_page_and_the_other_way_round() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/osier-json.5");
    let page = fs::read_to_string(page).unwrap();
    let listed = |section: &str| -> Vec<String> {
        let (_, section) = page.split_once(&format!(".SS {section}\n")).unwrap();
        let section = section.split("\n.SS ").next().unwrap();
        let keys = section.lines().filter_map(|line| line.strip_prefix("\\fB")?.split_once("\\fR: "));
        keys.map(|(key, _)| key.to_owned()).collect()
    };
    let machines = Machines::new("keys");
    let web = machines.start("web", std::process::id());
    for (arguments, sections) in [
        (&["list", "--json"][..], &["osier list"][..]),
        (&["show", "web", "--json"], &["osier show"]),
        (&["status", "web", "--json"], &["osier show", "osier status"]),
        (&["check", "--json"], &["osier check"]),
    ] {
        let output = machines.osier(arguments);
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut printed = Vec::new();
        paths(&value, "", &mut printed);
        let listed: Vec<_> = sections.iter().flat_map(|section| listed(section)).collect();
        for path in &printed {
            assert!(listed.contains(path), "{arguments:?}: {path} is not in {listed:?}");
        }
        for path in listed.iter().filter(|path| !path.contains('.')) {
            assert!(printed.contains(path), "{arguments:?}: {path} is not in {value}");
        }
    }
    web.close().unwrap();
}

#[test]
fn terminate_kills_the_leaders_and_waits_for_the_records() {
    let machines = Machines::new("terminate");
    let mut supervised: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|name| {
            let leader = sleeper();
            (machines.start(name, leader.id()), leader)
        })
        .collect();
    let refused = machines.osier(&["terminate", "a", "c"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(supervised[0].1.try_wait().unwrap().is_none(), "all named have to be there, or none is ended");

    let store = machines.store.clone();
    let supervisor = std::thread::spawn(move || {
        for (claim, mut leader) in supervised {
            let status = leader.wait().unwrap();
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
            std::thread::sleep(Duration::from_millis(100));
            claim.close().unwrap();
        }
    });
    let ended = machines.osier(&["terminate", "a", "b"]);
    assert!(ended.status.success(), "{ended:?}");
    assert!(store.list().unwrap().is_empty(), "it came back before the machines were gone");
    supervisor.join().unwrap();
}

#[test]
fn a_number_that_is_another_process_now_is_not_killed() {
    let machines = Machines::new("reused");
    let mut stranger = sleeper();
    let mut claim = machines.store.claim("web").unwrap();
    let mut stale = record("web", stranger.id());
    stale.namespaces.insert("pid".to_owned(), 1);
    claim.write(&stale).unwrap();
    let supervisor = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        claim.close().unwrap();
    });
    assert!(machines.osier(&["terminate", "web"]).status.success());
    supervisor.join().unwrap();
    let survived = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(survived, "a process outside of the machine was killed");
}

/// What a shell's script asks (fish's needs no more than this), with the answer: the last word is being typed.
#[test]
fn completion_offers_the_machines_that_run() {
    let machines = Machines::new("completion");
    let claims = ["web", "web-2", "mail"].map(|name| machines.start(name, std::process::id()));
    let claimed = machines.store.claim("web-starting").unwrap();
    for (line, offered) in [
        (&["status", "we"][..], "web\nweb-2\n"),
        (&["show", "web", ""], "mail\nweb\nweb-2\n"),
        (&["terminate", "x"], ""),
        (&["shell", "root@ma"], "root@mail\n"),
        (&["shell", "m"], "mail\n"),
        (&["poweroff", "mail", "web-"], "web-2\n"),
    ] {
        let words: Vec<_> = ["--", "osier"].iter().chain(line).copied().collect();
        let output = machines.osier_with(&["_OSIER_COMPLETE=fish"], &words);
        let names: String = stdout(&output)
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_owned() + "\n")
            .filter(|name| !name.starts_with('-'))
            .collect();
        assert_eq!(names, offered, "{line:?}");
    }
    drop((claims, claimed));
}

#[test]
fn a_hundred_machines_are_listed_quickly() {
    let machines = Machines::new("many");
    let claims: Vec<_> =
        (0..100).map(|number| machines.start(&format!("m{number}"), std::process::id())).collect();
    let times = (0..10).map(|_| {
        let start = Instant::now();
        assert_eq!(machines.store.list().unwrap().len(), 100);
        start.elapsed()
    });
    let best = times.min().unwrap();
    assert!(best < Duration::from_millis(10), "{best:?}");
    drop(claims);
}
