//! Writes the table of points in man/osier-clocks.7 and holds the page to it.
//!
//! After a point was added: `UPDATE=1 cargo test --lib point`.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::duration;

const NS: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * NS;
const UINT32_MS: i64 = 4_294_967_296_000_000;

fn read(text: &str) -> Result<i64, ParseError> {
    parse_at(text, || 250)
}

#[test]
fn a_name_is_the_first_nanosecond_that_does_not_fit() {
    for (name, nanoseconds) in [
        ("int32-ns", 1 << 31),
        ("uint32-us", (1 << 32) * 1_000),
        ("int32-ms", (1 << 31) * 1_000_000),
        ("uint32-ms", UINT32_MS),
        ("int32-cs", (1 << 31) * 10_000_000),
        ("uint32-s", (1 << 32) * NS),
        ("int32-jiffies", (1 << 31) * 4_000_000),
        ("float32-s", (1 << 24) * NS),
        ("float64-ns", 1 << 53),
    ] {
        assert_eq!(read(name), Ok(nanoseconds), "{name}");
        let point = POINTS.iter().find(|point| point.name == name).unwrap();
        let Unit::PerSecond(per_second) = point.unit else { continue };
        let count = |at: i64| i128::from(at) * i128::from(per_second) / SECOND;
        assert_eq!((count(nanoseconds - 1), count(nanoseconds)), ((1 << point.bits) - 1, 1 << point.bits));
    }
    // A tick of 3333333 ns is a third of ten milliseconds: the count is what programs reckon, seconds times HZ.
    assert_eq!(parse_at("uint32-jiffies", || 300), Ok(14_316_557_653_333_334));
}

#[test]
fn a_length_of_time_is_added_and_a_sign_holds_for_all() {
    for (text, nanoseconds) in [
        ("uint32-ms-1min", UINT32_MS - MINUTE),
        ("uint32-ms - 1min 30s", UINT32_MS - 3 * MINUTE / 2),
        (" uint32-ms+1ns ", UINT32_MS + 1),
        ("+uint32-ms -1min", UINT32_MS - MINUTE),
        ("-uint32-ms-1min", MINUTE - UINT32_MS),
        ("uint32-ns-10s", (1 << 32) - 10 * NS),
        // And all that is no name.
        ("49.7d", 4_294_080 * NS),
        ("-1h 30min", -5400 * NS),
        ("0", 0),
    ] {
        assert_eq!(read(text), Ok(nanoseconds), "{text}");
    }
}

#[test]
fn bad_texts_are_refused_in_words() {
    for (text, words) in [
        ("", "a length of time is missing"),
        ("soon", "a number was expected at 'soon'"),
        ("uint32-sm", "'uint32-sm' is no point that has a name; did you mean 'uint32-ms'?"),
        ("unit32-ms-1min", "'unit32-ms' is no point that has a name; did you mean 'uint32-ms'?"),
        ("uint32ms", "did you mean 'uint32-ms'?"),
        ("uint32ms-1min", "'uint32ms' is no point that has a name; did you mean 'uint32-ms'?"),
        ("uint32-jiffy", "did you mean 'uint32-jiffies'?"),
        ("UINT32-MS", "a number was expected at 'UINT32-MS'"),
        ("int64-months", "; int32-ns, uint32-ns, "),
        ("uint32-ms 1min", "after the name of a point + or - and a length of time was expected at '1min'"),
        ("uint32-ms-", "a length of time is missing"),
        ("uint32-ms--1min", "a number was expected at '-1min'"),
        ("uint32-ms-1min+1s", "a number was expected at '+1s'"),
        ("uint32-ms-soon", "a number was expected at 'soon'"),
        ("1min-uint32-ms", "a number was expected at '-uint32-ms'"),
        ("uint32-s+292y", "longer than 292 years"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn every_name_is_read_and_can_be_shown_by_a_clock() {
    for point in POINTS {
        for hz in [100, 250, 300, 1000] {
            let nanoseconds = point.nanoseconds(hz);
            assert_eq!(parse_at(point.name, || hz), Ok(nanoseconds));
            assert!(nanoseconds < 146 * 31_557_600 * NS, "{point:?}: no clock gets there");
        }
        assert_eq!(point.name.matches('-').count(), 1, "{point:?}: a name ends before its second hyphen");
    }
}

#[test]
fn the_frequency_is_the_kernels_own() {
    for (tick, hz) in
        [(10_000_000, 100), (4_000_000, 250), (3_333_333, 300), (1_000_000, 1000), (976_563, 1024)]
    {
        assert_eq!(of_tick(tick), hz);
    }
    let hz = hz();
    // Where the kernel says how it was built it has to agree.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let configured = fs::read_to_string(format!("/boot/config-{}", release.trim())).ok().or_else(|| {
        let zcat = std::process::Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        zcat.status.success().then(|| String::from_utf8_lossy(&zcat.stdout).into_owned())
    });
    match configured.as_ref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="))) {
        Some(configured) => assert_eq!(hz.to_string(), configured),
        None => assert!((24..=1200).contains(&hz), "{hz}"),
    }
}

const BEGIN: &str =
    ".\\\" Written by src/duration/point/tests.rs from the table of points: change it there.\n";
const END: &str = ".\\\" End of what src/duration/point/tests.rs writes.\n";

/// A row for each point; one that depends on the kernel's ticks has one for each usual frequency.
fn table() -> String {
    let mut text = String::from(".TS\nl l l.\nName\tThe clock shows\tDays\n_\n");
    for point in POINTS {
        let frequencies: &[u32] = if point.unit == Unit::Jiffy { &[1000, 300, 250, 100] } else { &[0] };
        for (row, hz) in frequencies.iter().enumerate() {
            let shows = point.nanoseconds(*hz);
            let days = i128::from(shows) * 10 / (86_400 * SECOND);
            let (name, at) = match (row, *hz) {
                (0, 0) => (point.name, String::new()),
                (0, hz) => (point.name, format!(", at {hz} Hz")),
                (_, hz) => ("", format!(", at {hz} Hz")),
            };
            let name = name.replace('-', "\\-");
            let _ = writeln!(text, "{name}\t{}{at}\t{}.{}", duration::format(shows), days / 10, days % 10);
        }
    }
    text + ".TE\n"
}

#[test]
fn the_page_has_every_point() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/osier-clocks.7");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("no beginning of the generated part");
    let (found, after) = rest.split_once(END).expect("no end of the generated part");
    let wanted = table();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(page, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert!(found == wanted, "man/osier-clocks.7 has other points: run UPDATE=1 cargo test --lib point");
}
