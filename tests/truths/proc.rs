//! /proc and sysinfo(2).

use std::fs;
use std::process::{Command, Stdio};

use rustix::time::ClockId;

use crate::here::{Clock, Here, MS, SECOND, read};

/// USER_HZ.
const TICK: i128 = 10 * MS;

/// A number of seconds with two decimals.
fn hundredths(text: &str) -> i128 {
    text.trim().replace('.', "").parse::<i128>().unwrap() * TICK
}

pub(crate) fn uptime(here: &Here) {
    here.assert_shows(Clock::Boottime, TICK, || {
        hundredths(fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap())
    });
}

/// The second field of /proc/uptime.
pub(crate) fn idle() -> i128 {
    hundredths(fs::read_to_string("/proc/uptime").unwrap().split(' ').nth(1).unwrap())
}

pub(crate) fn sysinfo(here: &Here) {
    here.assert_shows(Clock::Boottime, SECOND, || i128::from(rustix::system::sysinfo().uptime) * SECOND);
}

/// What the time of day was when the clock was at zero.
pub(crate) fn btime(here: &Here) {
    here.assert_shows(Clock::Boottime, SECOND, || {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let line = stat.lines().find_map(|line| line.strip_prefix("btime ")).unwrap();
        read(ClockId::Realtime) - line.parse::<i128>().unwrap() * SECOND
    });
}

/// The 22nd field of /proc/PID/stat, as nanoseconds.
pub(crate) fn start_time(pid: u32) -> i128 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').nth(19).unwrap().parse::<i128>().unwrap() * TICK
}

pub(crate) fn started(here: &Here) {
    here.assert_shows(Clock::Boottime, TICK, || {
        let mut child = Command::new("/proc/self/exe").arg("hold").stdin(Stdio::piped()).spawn().unwrap();
        let started = start_time(child.id());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        started
    });
}
