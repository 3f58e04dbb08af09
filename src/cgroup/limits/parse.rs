//! The values of limits, with their ranges.

use super::{Amount, Device, Key, Limit, Rate};
use crate::{duration, size};

/// Below a page nothing runs; the kernel counts in pages.
const PAGE: u64 = 4096;
/// PID_MAX_LIMIT, the most that the kernel takes (include/linux/threads.h).
const PIDS: u64 = 4 << 20;
/// The most CPUs that Linux can be built for.
const CPUS: u64 = 8192;
/// Microseconds of a second.
const SECOND: u64 = 1_000_000;

/// Reads a value of `key`: the limits that it sets, `cpu.max` and `io.max` several at once.
///
/// # Errors
/// Why it is none; of a number out of range, the range.
pub fn parse(key: Key, text: &str) -> Result<Vec<Limit>, String> {
    let text = text.trim();
    let one = |limit| Ok(vec![limit]);
    match key {
        Key::MemoryMax => one(Limit::MemoryMax(amount(text, PAGE)?)),
        Key::MemoryHigh => one(Limit::MemoryHigh(amount(text, PAGE)?)),
        Key::MemorySwapMax => one(Limit::MemorySwapMax(amount(text, 0)?)),
        Key::CpuShare => one(Limit::CpuShare(share(text)?)),
        Key::Cpus if !text.ends_with('%') && !is_unlimited(text) => one(Limit::CpuShare(Some(cpus(text)?))),
        Key::Cpus => one(Limit::CpuShare(share(text)?)),
        Key::CpuMax => match text.split_once(char::is_whitespace) {
            Some((quota, period)) => quota_and_period(quota, period.trim_start()),
            None => one(Limit::CpuShare(share(text)?)),
        },
        Key::CpuPeriod => one(Limit::CpuPeriod(period(span(text)?)?)),
        Key::CpuWeight => one(Limit::CpuWeight(number(text, 1, 10_000)?)),
        Key::PidsMax if is_unlimited(text) => one(Limit::PidsMax(None)),
        Key::PidsMax => one(Limit::PidsMax(Some(number(text, 1, PIDS)?))),
        Key::IoMax => io_max(text),
        Key::Io(rate) => {
            let (device, limit) = text
                .rsplit_once(char::is_whitespace)
                .ok_or("not a device and a number, such as /dev/vda 1M")?;
            one(Limit::Io(Device::find(device.trim_end())?, rate, rate_limit(rate, limit)?))
        }
        Key::IoWeight => one(Limit::IoWeight(number(text, 1, 10_000)?)),
        Key::CpusetCpus => one(Limit::Cpus(list(text)?)),
        Key::CpusetMems => one(Limit::Mems(list(text)?)),
    }
}

/// The kernel's word, and systemd's.
fn is_unlimited(text: &str) -> bool {
    matches!(text, "max" | "infinity")
}

fn amount(text: &str, least: u64) -> Result<Amount, String> {
    if is_unlimited(text) {
        return Ok(Amount::Unlimited);
    }
    if let Some(percent) = text.strip_suffix('%') {
        return match percent.parse() {
            Ok(percent @ 1..=100) => Ok(Amount::Percent(percent)),
            _ => Err(format!("'{text}' is not a percentage of the host's memory from 1% to 100%")),
        };
    }
    let expected = "a size such as 512M or 2G, a percentage of the host's memory, or 'max'";
    let well_formed = text.starts_with(|first: char| first.is_ascii_digit());
    match size::parse(text) {
        // cgroups-rs has signed numbers, and no host half as much.
        Some(bytes) if (least..=i64::MAX.cast_unsigned()).contains(&bytes) => Ok(Amount::Bytes(bytes)),
        None if !well_formed || text.ends_with(|last: char| !"0123456789BKMGTPE".contains(last)) => {
            Err(format!("'{text}' is not {expected}"))
        }
        _ => Err(format!("'{text}' is out of range: {} to just below 8E, or 'max'", size::format(least))),
    }
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let out_of_range = || format!("'{text}' is out of range: {least} to {most}");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("'{text}' is not a number from {least} to {most}"));
    }
    text.parse().ok().filter(|number| (least..=most).contains(number)).ok_or_else(out_of_range)
}

/// Microseconds of CPU time a second, from a percentage of one CPU.
fn share(text: &str) -> Result<Option<u64>, String> {
    if is_unlimited(text) || text.is_empty() {
        return Ok(None);
    }
    let expected = || format!("'{text}' is not a percentage of one CPU such as 150%, or 'max'");
    let share = text.strip_suffix('%').and_then(|share| size::fixed_point(share, SECOND / 100));
    checked_share(share.ok_or_else(expected)?).map(Some).ok_or_else(|| {
        format!("'{text}' is out of range: 1% (a hundredth of one CPU) to {}%, or 'max'", CPUS * 100)
    })
}

fn cpus(text: &str) -> Result<u64, String> {
    let expected =
        || format!("'{text}' is not a number of CPUs such as 1.5, or a percentage of one such as 150%");
    checked_share(size::fixed_point(text, SECOND).ok_or_else(expected)?)
        .ok_or_else(|| format!("'{text}' is out of range: 0.01 to {CPUS} CPUs, or 'max'"))
}

/// Not less than a millisecond in a period of the kernel's 100 (kernel/sched/core.c, min_cfs_quota_period).
fn checked_share(share: u64) -> Option<u64> {
    (SECOND / 100..=CPUS * SECOND).contains(&share).then_some(share)
}

fn quota_and_period(quota: &str, text: &str) -> Result<Vec<Limit>, String> {
    let period = period(number(text, 1000, SECOND)?)?;
    if is_unlimited(quota) {
        return Ok(vec![Limit::CpuShare(None), Limit::CpuPeriod(period)]);
    }
    let quota = number(quota, 1000, CPUS * period)?;
    // At most a microsecond a second less, which rounding up when it is written makes good.
    Ok(vec![Limit::CpuShare(Some(quota * SECOND / period)), Limit::CpuPeriod(period)])
}

fn period(microseconds: u64) -> Result<u64, String> {
    let fits = (1000..=SECOND).contains(&microseconds);
    fits.then_some(microseconds).ok_or_else(|| format!("{microseconds} us is out of range: 1ms to 1s"))
}

fn span(text: &str) -> Result<u64, String> {
    let nanoseconds = duration::parse(text).map_err(|reason| reason.to_string())?;
    u64::try_from(nanoseconds / 1000).map_err(|_| format!("'{text}' is out of range: 1ms to 1s"))
}

/// `DEVICE rbps=1M wiops=100`, in any order, with blanks or commas; `DEVICE max` lifts all four.
fn io_max(text: &str) -> Result<Vec<Limit>, String> {
    let mut words = text.split([' ', '\t', ',']).filter(|word| !word.is_empty());
    let expected = "not a device and some of rbps=, wbps=, riops=, wiops=, such as '/dev/vda rbps=1M'";
    let device = words.next().ok_or(expected)?;
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        return Err(expected.to_owned());
    }
    let device = Device::find(device)?;
    if let [word] = words.as_slice()
        && is_unlimited(word)
    {
        return Ok(Rate::ALL.map(|rate| Limit::Io(device.clone(), rate, None)).to_vec());
    }
    words
        .into_iter()
        .map(|word| {
            let (key, limit) = word.split_once('=').ok_or_else(|| format!("'{word}': {expected}"))?;
            let rate = Rate::ALL.into_iter().find(|rate| rate.key() == key);
            let rate = rate.ok_or_else(|| format!("'{key}' is not one of rbps, wbps, riops, wiops"))?;
            Ok(Limit::Io(device.clone(), rate, rate_limit(rate, limit)?))
        })
        .collect()
}

fn rate_limit(rate: Rate, text: &str) -> Result<Option<u64>, String> {
    if is_unlimited(text) {
        return Ok(None);
    }
    let number = if rate.is_bytes() { size::parse(text) } else { text.parse().ok() };
    match number {
        Some(0) => Err(format!("'{text}' is out of range: at least 1 a second, or 'max'")),
        // The kernel's own word for no limit.
        Some(u64::MAX) | None => {
            let kind = if rate.is_bytes() { "bytes a second such as 1M" } else { "a number a second" };
            Err(format!("'{text}' is not {kind}, or 'max'"))
        }
        limit => Ok(limit),
    }
}

/// A list of numbers and ranges (man 7 cpuset, List format), as the kernel writes it; `all` and nothing are all.
fn list(text: &str) -> Result<String, String> {
    if text == "all" {
        return Ok(String::new());
    }
    let expected = || format!("'{text}' is not a list of numbers and ranges such as 0-3,8");
    let mut parts = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let parsed = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
        let (first, last) = (parsed(first).ok_or_else(expected)?, parsed(last).ok_or_else(expected)?);
        if first > last {
            return Err(expected());
        }
        if last >= CPUS {
            return Err(format!("'{last}' is out of range: 0 to {}", CPUS - 1));
        }
        parts.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
    }
    Ok(parts.join(","))
}
