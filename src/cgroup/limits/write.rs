//! Limits into the files of a cgroup, all or none.
//!
//! cgroups-rs writes them, its controllers constructed for the one directory (see [`crate::cgroup::usage`]). Written
//! here are `io.max` and `io.weight`, for which the crate has the files of version 1 only or one rate in each write, and
//! the old texts when a later one fails: those are the kernel's own, to be given back as they were.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::Path;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuset::CpuSetController;
use cgroups_rs::fs::error::Error as CrateError;
use cgroups_rs::fs::memory::{MemController, SetMemory};
use cgroups_rs::fs::pid::PidController;

use super::{Amount, Limit};
use crate::error::Error;

/// Microseconds: the kernel's own period.
pub(super) const PERIOD: u64 = 100_000;

/// A limit that the kernel did not take; none of those asked for at the same time holds.
#[derive(Debug)]
pub struct Refused {
    /// Which.
    pub limit: Limit,
    /// `ENOENT` when its controller is not enabled for the directory.
    pub cause: io::Error,
}

impl Refused {
    /// What the operator reads about it; `cgroup` is the directory that was written to.
    pub fn explain(&self, cgroup: &Path) -> Error {
        let error = Error::io(format!("cannot set {}", self.limit), &self.cause);
        let (controller, path) = (self.limit.controller(), cgroup.display());
        match self.cause.raw_os_error() {
            Some(libc::ENOENT) => {
                error.because(format!("the {controller} controller is not enabled for '{path}'"))
            }
            // blkcg_conf_open_bdev() of block/blk-cgroup.c.
            Some(libc::ENODEV) => error.because("there is no such disk, or it cannot be limited"),
            _ => error,
        }
    }
}

/// Writes all of `limits` to the directory `cgroup`, on a host with so many bytes of memory.
///
/// # Errors
/// The first that cannot be written; those before it have been put back.
pub fn write(limits: &[Limit], cgroup: &Path, memory: u64) -> Result<(), Refused> {
    let mut before: Vec<(&Limit, String)> = Vec::new();
    for limit in limits {
        let written = read(limit, cgroup).and_then(|old| {
            write_one(limit, limits, cgroup, memory)?;
            before.push((limit, old));
            Ok(())
        });
        if let Err(cause) = written {
            for (limit, old) in before.iter().rev() {
                put_back(limit, cgroup, old);
            }
            return Err(Refused { limit: limit.clone(), cause });
        }
    }
    Ok(())
}

/// It was taken before. What has become impossible since is not worth losing the first error for.
fn put_back(limit: &Limit, cgroup: &Path, old: &str) {
    let put = fs::write(cgroup.join(limit.file()), old);
    if let (Err(_), Some(above), Limit::Cpus(_) | Limit::Mems(_)) = (put, cgroup.parent(), limit) {
        // An empty list is what a cgroup has at first and cannot get again while it has processes: all that there is above.
        let all = fs::read_to_string(above.join(format!("{}.effective", limit.file())));
        let _ = all.and_then(|all| fs::write(cgroup.join(limit.file()), all));
    }
}

/// What the file says now, as a text that says it again when it is written.
pub(super) fn read(limit: &Limit, cgroup: &Path) -> io::Result<String> {
    let text = fs::read_to_string(cgroup.join(limit.file()))?;
    let Limit::Io(device, ..) = limit else { return Ok(text) };
    let (major, minor) = device.numbers();
    let device = format!("{major}:{minor} ");
    let line = text.lines().find(|line| line.starts_with(&device)).map(str::to_owned);
    Ok(line.unwrap_or_else(|| format!("{device}rbps=max wbps=max riops=max wiops=max")))
}

/// Writes `limit`, one of `limits`.
fn write_one(limit: &Limit, limits: &[Limit], cgroup: &Path, memory: u64) -> io::Result<()> {
    let root = || cgroup.to_owned();
    let mem = || MemController::new(root(), root(), true);
    let cpu = || CpuController::new(root(), root(), true);
    let cpuset = || CpuSetController::new(root(), root(), true);
    let max = |amount: &Amount| {
        amount.bytes(memory).map_or(MaxValue::Max, |bytes| MaxValue::Value(bytes.cast_signed()))
    };
    // A write of no bytes is none, and the kernel would never see it.
    let list = |list: &str| format!("{list}\n");
    let file = |text: String| fs::write(cgroup.join(limit.file()), text);
    let written = match limit {
        Limit::MemoryMax(amount) => mem().set_mem(SetMemory { max: Some(max(amount)), ..none() }),
        Limit::MemoryHigh(amount) => mem().set_mem(SetMemory { high: Some(max(amount)), ..none() }),
        Limit::MemorySwapMax(amount) => {
            mem().set_memswap_limit(amount.bytes(memory).map_or(-1, u64::cast_signed))
        }
        Limit::CpuShare(_) | Limit::CpuPeriod(_) => {
            let (share, period) = share_and_period(limits, read_cpu_max(cgroup)?);
            cpu().set_cfs_quota_and_period(Some(quota(share, period)), Some(period))
        }
        Limit::CpuWeight(weight) => cpu().set_shares(*weight),
        Limit::PidsMax(limit) => PidController::new(root(), root(), true)
            .set_pid_max(limit.map_or(MaxValue::Max, |limit| MaxValue::Value(limit.cast_signed()))),
        Limit::Io(device, rate, limit) => {
            let limit = limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
            let (major, minor) = device.numbers();
            return file(format!("{major}:{minor} {}={limit}", rate.key()));
        }
        Limit::IoWeight(weight) => return file(format!("default {weight}")),
        Limit::Cpus(cpus) => cpuset().set_cpus(&list(cpus)),
        Limit::Mems(mems) => cpuset().set_mems(&list(mems)),
    };
    written.map_err(cause)
}

fn none() -> SetMemory {
    SetMemory { low: None, high: None, min: None, max: None }
}

/// Both are in one file: what `limits` do not say stays as it is.
fn share_and_period(limits: &[Limit], (mut share, mut period): (Option<u64>, u64)) -> (Option<u64>, u64) {
    for limit in limits {
        match limit {
            Limit::CpuShare(wanted) => share = *wanted,
            Limit::CpuPeriod(wanted) => period = *wanted,
            _ => {}
        }
    }
    (share, period)
}

/// Microseconds in each period; -1 is the crate's word for no limit.
fn quota(share: Option<u64>, period: u64) -> i64 {
    share.map_or(-1, |share| (share * period).div_ceil(1_000_000).max(1000).cast_signed())
}

/// `cpu.max` as it is: the share, microseconds a second, and the period.
pub(super) fn read_cpu_max(cgroup: &Path) -> io::Result<(Option<u64>, u64)> {
    let text = fs::read_to_string(cgroup.join("cpu.max"))?;
    let (quota, period) = text.trim_end().split_once(' ').unwrap_or(("max", ""));
    let period = period.parse().unwrap_or(PERIOD);
    Ok((quota.parse::<u64>().ok().map(|quota| quota * 1_000_000 / period), period))
}

/// The kernel's answer, out of what the crate wraps around it.
fn cause(error: CrateError) -> io::Error {
    let errno = error.source().and_then(|source| source.downcast_ref::<io::Error>()?.raw_os_error());
    errno.map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}
