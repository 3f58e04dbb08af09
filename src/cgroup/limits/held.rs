//! What limits a cgroup holds: for who let somebody else set them. PID 1 takes properties that the kernel then refuses, and
//! tells the journal alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::write::{PERIOD, read, read_cpu_max};
use super::{Amount, Key, Limit, parse};

/// How long PID 1 has: it answers first and writes then.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often is looked whether it has.
const PACE: Duration = Duration::from_millis(2);
/// The largest page of any architecture; the kernel keeps whole pages.
const PAGE: u64 = 64 << 10;

/// Waits until `cgroup` holds all of `limits`.
///
/// # Errors
/// The first that it does not hold in time.
pub fn await_held<'a>(limits: &'a [Limit], cgroup: &Path) -> Result<(), &'a Limit> {
    let deadline = Instant::now() + PATIENCE;
    for limit in limits {
        while !is_held(limit, cgroup) {
            if Instant::now() >= deadline {
                return Err(limit);
            }
            thread::sleep(PACE);
        }
    }
    Ok(())
}

/// What `cgroup` holds of the things that `limits` are about, to be set again; a file that cannot be read says nothing.
pub fn held(limits: &[Limit], cgroup: &Path) -> Vec<Limit> {
    let mut found = Vec::new();
    for limit in limits {
        let text = read(limit, cgroup).unwrap_or_default();
        let key = Key::of_file(limit.file());
        let value = text.trim().trim_start_matches("default ");
        found.extend(key.and_then(|key| parse(key, value).ok()).unwrap_or_default());
    }
    let mut once = Vec::new();
    super::add(&mut once, found);
    once
}

/// What `cgroup` limits otherwise than `expected` says, and than by default where that says nothing: the file, and what is in it, a
/// line each. A file that cannot be read says nothing.
pub fn changed(expected: &[Limit], cgroup: &Path) -> Vec<(Key, &'static str, String)> {
    let mut found = Vec::new();
    for (file, key) in Key::files() {
        let Ok(text) = fs::read_to_string(cgroup.join(file)) else { continue };
        for line in lines(file, &text, expected, cgroup) {
            let limits = parse(key, &line).unwrap_or_default();
            if limits.iter().any(|limit| is_new(limit, expected, cgroup)) {
                found.push((key, file, line));
            }
        }
    }
    found
}

/// Of the disks, those that are limited, and those that are not any more.
fn lines(file: &str, text: &str, expected: &[Limit], cgroup: &Path) -> Vec<String> {
    if file != "io.max" {
        return vec![text.lines().next().unwrap_or_default().trim_start_matches("default ").to_owned()];
    }
    let known = expected.iter().filter(|limit| matches!(limit, Limit::Io(..)));
    let known = known.filter_map(|limit| read(limit, cgroup).ok());
    let mut lines: Vec<_> = text.lines().map(str::to_owned).chain(known).collect();
    lines.sort();
    lines.dedup();
    lines
}

fn is_new(limit: &Limit, expected: &[Limit], cgroup: &Path) -> bool {
    match expected.iter().find(|expected| limit.replaces(expected)) {
        Some(expected) => !is_held(expected, cgroup),
        None => !is_default(limit),
    }
}

/// Whether a new cgroup has it (Documentation/admin-guide/cgroup-v2.rst).
fn is_default(limit: &Limit) -> bool {
    match limit {
        Limit::MemoryMax(amount) | Limit::MemoryHigh(amount) | Limit::MemorySwapMax(amount) => {
            *amount == Amount::Unlimited
        }
        Limit::CpuShare(limit) | Limit::PidsMax(limit) | Limit::Io(_, _, limit) => limit.is_none(),
        Limit::CpuPeriod(period) => *period == PERIOD,
        Limit::CpuWeight(weight) | Limit::IoWeight(weight) => *weight == 100,
        Limit::Cpus(list) | Limit::Mems(list) => list.is_empty(),
    }
}

fn is_held(limit: &Limit, cgroup: &Path) -> bool {
    let Ok(text) = fs::read_to_string(cgroup.join(limit.file())) else { return false };
    let text = text.trim();
    let is_number = |wanted: &u64| text.trim_start_matches("default ").parse() == Ok(*wanted);
    match limit {
        Limit::MemoryMax(amount) | Limit::MemoryHigh(amount) | Limit::MemorySwapMax(amount) => match amount {
            Amount::Unlimited => text == "max",
            Amount::Bytes(bytes) => {
                text.parse().is_ok_and(|found: u64| found <= *bytes && bytes - found < PAGE)
            }
            // Of what systemd takes for the memory that there is.
            Amount::Percent(_) => text != "max",
        },
        Limit::CpuShare(wanted) => match (wanted, read_cpu_max(cgroup)) {
            // The quota is in whole microseconds of a period.
            (Some(wanted), Ok((Some(found), period))) => found.abs_diff(*wanted) <= 1_000_000 / period + 1,
            (None, Ok((None, _))) => true,
            _ => false,
        },
        // systemd makes it longer for a quota of less than a millisecond.
        Limit::CpuPeriod(wanted) => read_cpu_max(cgroup).is_ok_and(|(_, period)| period >= *wanted),
        Limit::CpuWeight(weight) | Limit::IoWeight(weight) | Limit::PidsMax(Some(weight)) => {
            is_number(weight)
        }
        Limit::PidsMax(None) => text == "max",
        Limit::Io(_, rate, wanted) => {
            let line = read(limit, cgroup).unwrap_or_default();
            let wanted = wanted.map_or_else(|| "max".to_owned(), |wanted| wanted.to_string());
            line.split(' ').any(|word| word == format!("{}={wanted}", rate.key()))
        }
        Limit::Cpus(list) | Limit::Mems(list) => members(list) == members(text),
    }
}

/// The numbers of a list that was checked.
fn members(list: &str) -> BTreeSet<u64> {
    let parts = list.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    parts.flatten().collect()
}
