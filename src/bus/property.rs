//! `--property=NAME=VALUE`: unit properties in the words of unit files, as typed D-Bus values.
//!
//! Unit files and the bus differ: `CPUQuota=150%` is `CPUQuotaPerSecUSec`, sizes and times are numbers, a percentage of
//! memory is a property of its own (man 5 systemd.resource-control, man 5 org.freedesktop.systemd1). Known are the
//! properties that a scope takes and that mean something for a machine; its cgroup, processes and delegation are osier's.

use std::fmt;
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use zbus::zvariant;

use crate::{duration, size};

/// A property of a unit, ready for the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Property {
    name: String,
    value: Value,
}

/// The value of a [`Property`], one variant per D-Bus type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// `b`
    Bool(bool),
    /// `i`
    I32(i32),
    /// `u`
    U32(u32),
    /// `t`
    U64(u64),
    /// `s`
    Text(String),
    /// `as`
    Texts(Vec<String>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `a(st)`: a device and its limit.
    Limits(Vec<(String, u64)>),
    /// `a(ss)`: a device and what may be done with it.
    Devices(Vec<(String, String)>),
}

impl Value {
    pub(super) fn to_variant(&self) -> zvariant::Value<'_> {
        match self {
            Self::Bool(value) => (*value).into(),
            Self::I32(value) => (*value).into(),
            Self::U32(value) => (*value).into(),
            Self::U64(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::Texts(value) => value.clone().into(),
            Self::Bytes(value) => value.clone().into(),
            Self::Limits(value) => value.clone().into(),
            Self::Devices(value) => value.clone().into(),
        }
    }
}

/// Why a `--property=` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PropertyError {
    /// There is no `=` in it.
    NoValue(String),
    /// No such property, or none for machines.
    Unknown {
        /// The name that was given.
        name: String,
        /// Known names: those that look like it, or all where none does.
        known: Vec<&'static str>,
    },
    /// The value is none for this property.
    Bad {
        /// The property.
        name: &'static str,
        /// The value that was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl fmt::Display for PropertyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoValue(text) => write!(f, "property '{text}' has no value: NAME=VALUE"),
            Self::Unknown { name, known } if known.len() == KNOWN.len() => {
                write!(f, "unknown property '{name}'; known are {}", known.join(", "))
            }
            Self::Unknown { name, known } => {
                write!(f, "unknown property '{name}'; did you mean {}?", known.join(" or "))
            }
            Self::Bad { name, value, expected } => write!(f, "{name}={value}: not {expected}"),
        }
    }
}

impl std::error::Error for PropertyError {}

/// How a property's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Text,
    Words,
    Signal,
    /// Bytes, `infinity`, or a percentage of the memory (then `…Scale`).
    Memory,
    /// A number, `infinity`, or a percentage of what is possible (then `…Scale`).
    Count,
    /// 1 to 10000.
    Weight,
    /// The same, or `idle`.
    CpuWeight,
    /// A percentage of one CPU's time.
    Quota,
    /// A time span; on the bus in microseconds.
    Span,
    /// A list of numbers and ranges; on the bus a bit mask.
    Cpus,
    /// A device and a number of bytes a second.
    DeviceBytes,
    /// A device and a number a second.
    DeviceCount,
    /// A device and a weight.
    DeviceWeight,
    /// A device and `rwm`.
    DeviceAllow,
}

/// Known properties: in unit files, on the bus, how they are written. Sorted.
const KNOWN: &[(&str, &str, Kind)] = &[
    ("AllowedCPUs", "AllowedCPUs", Kind::Cpus),
    ("AllowedMemoryNodes", "AllowedMemoryNodes", Kind::Cpus),
    ("CPUAccounting", "CPUAccounting", Kind::Bool),
    ("CPUQuota", "CPUQuotaPerSecUSec", Kind::Quota),
    ("CPUQuotaPeriodSec", "CPUQuotaPeriodUSec", Kind::Span),
    ("CPUWeight", "CPUWeight", Kind::CpuWeight),
    ("CollectMode", "CollectMode", Kind::Text),
    ("CoredumpReceive", "CoredumpReceive", Kind::Bool),
    ("Description", "Description", Kind::Text),
    ("DeviceAllow", "DeviceAllow", Kind::DeviceAllow),
    ("DevicePolicy", "DevicePolicy", Kind::Text),
    ("Documentation", "Documentation", Kind::Words),
    ("FinalKillSignal", "FinalKillSignal", Kind::Signal),
    ("IOAccounting", "IOAccounting", Kind::Bool),
    ("IODeviceWeight", "IODeviceWeight", Kind::DeviceWeight),
    ("IOReadBandwidthMax", "IOReadBandwidthMax", Kind::DeviceBytes),
    ("IOReadIOPSMax", "IOReadIOPSMax", Kind::DeviceCount),
    ("IOWeight", "IOWeight", Kind::Weight),
    ("IOWriteBandwidthMax", "IOWriteBandwidthMax", Kind::DeviceBytes),
    ("IOWriteIOPSMax", "IOWriteIOPSMax", Kind::DeviceCount),
    ("IPAccounting", "IPAccounting", Kind::Bool),
    ("KillMode", "KillMode", Kind::Text),
    ("KillSignal", "KillSignal", Kind::Signal),
    ("ManagedOOMMemoryPressure", "ManagedOOMMemoryPressure", Kind::Text),
    ("ManagedOOMPreference", "ManagedOOMPreference", Kind::Text),
    ("ManagedOOMSwap", "ManagedOOMSwap", Kind::Text),
    ("MemoryAccounting", "MemoryAccounting", Kind::Bool),
    ("MemoryHigh", "MemoryHigh", Kind::Memory),
    ("MemoryLow", "MemoryLow", Kind::Memory),
    ("MemoryMax", "MemoryMax", Kind::Memory),
    ("MemoryMin", "MemoryMin", Kind::Memory),
    ("MemorySwapMax", "MemorySwapMax", Kind::Memory),
    ("MemoryZSwapMax", "MemoryZSwapMax", Kind::Memory),
    ("OOMPolicy", "OOMPolicy", Kind::Text),
    ("RuntimeMaxSec", "RuntimeMaxUSec", Kind::Span),
    ("SendSIGHUP", "SendSIGHUP", Kind::Bool),
    ("SendSIGKILL", "SendSIGKILL", Kind::Bool),
    ("StartupCPUWeight", "StartupCPUWeight", Kind::CpuWeight),
    ("StartupIOWeight", "StartupIOWeight", Kind::Weight),
    ("TasksAccounting", "TasksAccounting", Kind::Bool),
    ("TasksMax", "TasksMax", Kind::Count),
    ("TimeoutStopSec", "TimeoutStopUSec", Kind::Span),
];

impl Property {
    /// Reads `NAME=VALUE`, NAME as in unit files or as on the bus (`TimeoutStopSec`, `TimeoutStopUSec`).
    ///
    /// # Errors
    /// A name that is not known, a value that does not fit it.
    pub fn parse(text: &str) -> Result<Self, PropertyError> {
        let (name, value) = text.split_once('=').ok_or_else(|| PropertyError::NoValue(text.to_owned()))?;
        let &(name, on_bus, kind) = KNOWN
            .iter()
            .find(|(known, on_bus, _)| *known == name || *on_bus == name)
            .ok_or_else(|| PropertyError::Unknown { name: name.to_owned(), known: close_to(name) })?;
        let (on_bus, value) = read(on_bus, kind, value.trim()).ok_or_else(|| PropertyError::Bad {
            name,
            value: value.to_owned(),
            expected: expected(kind),
        })?;
        Ok(Self { name: on_bus, value })
    }

    /// Its name on the bus.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    pub fn value(&self) -> &Value {
        &self.value
    }
}

impl FromStr for Property {
    type Err = PropertyError;

    fn from_str(text: &str) -> Result<Self, PropertyError> {
        Self::parse(text)
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "'yes' or 'no'",
        Kind::Text | Kind::Words => "a text",
        Kind::Signal => "a signal, such as SIGTERM or SIGRTMIN+3",
        Kind::Memory => "a size such as 2G, a percentage of the memory, or 'infinity'",
        Kind::Count => "a number, a percentage, or 'infinity'",
        Kind::Weight => "a number from 1 to 10000",
        Kind::CpuWeight => "a number from 1 to 10000, or 'idle'",
        Kind::Quota => "a percentage of one CPU, such as 150%",
        Kind::Span => "a time span such as 90s or '1min 30s', or 'infinity'",
        Kind::Cpus => "a list of numbers and ranges, such as 0-3,8",
        Kind::DeviceBytes => "a device and a number of bytes, such as '/dev/sda 10M'",
        Kind::DeviceCount => "a device and a number, such as '/dev/sda 100'",
        Kind::DeviceWeight => "a device and a number from 1 to 10000",
        Kind::DeviceAllow => "a device and some of 'rwm', such as '/dev/fuse rw'",
    }
}

/// The value of a property and its name on the bus, which for a percentage is another one.
fn read(name: &str, kind: Kind, text: &str) -> Option<(String, Value)> {
    if let (Kind::Memory | Kind::Count, Some(share)) = (kind, text.strip_suffix('%')) {
        let share = share.parse::<u32>().ok().filter(|share| *share <= 100)?;
        // A share of the whole range of the type; systemd rounds the same way.
        let scaled = (u64::from(share) * u64::from(u32::MAX) + 50) / 100;
        return Some((format!("{name}Scale"), Value::U32(u32::try_from(scaled).ok()?)));
    }
    let value = match kind {
        Kind::Bool => Value::Bool(match text {
            "yes" | "y" | "true" | "t" | "on" | "1" => true,
            "no" | "n" | "false" | "f" | "off" | "0" => false,
            _ => return None,
        }),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Words => Value::Texts(text.split_whitespace().map(str::to_owned).collect()),
        Kind::Signal => Value::I32(signal(text)?),
        Kind::Memory => Value::U64(if text == "infinity" { u64::MAX } else { size::parse(text)? }),
        Kind::Count => Value::U64(if text == "infinity" { u64::MAX } else { text.parse().ok()? }),
        Kind::CpuWeight if text == "idle" => Value::U64(0),
        Kind::Weight | Kind::CpuWeight => Value::U64(weight(text)?),
        Kind::Quota if text.is_empty() => Value::U64(u64::MAX),
        Kind::Quota => Value::U64(quota(text)?),
        Kind::Span => Value::U64(span(text)?),
        Kind::Cpus => Value::Bytes(mask(text)?),
        Kind::DeviceBytes => limits(text, |limit| unlimited(limit).or_else(|| size::parse(limit)))?,
        Kind::DeviceCount => limits(text, |limit| unlimited(limit).or_else(|| limit.parse().ok()))?,
        Kind::DeviceWeight => limits(text, weight)?,
        Kind::DeviceAllow => Value::Devices(vec![device_allow(text)?]),
    };
    Some((name.to_owned(), value))
}

/// A device and what `read` makes of the rest.
fn limits(text: &str, read: impl Fn(&str) -> Option<u64>) -> Option<Value> {
    let (device, limit) = text.rsplit_once(char::is_whitespace)?;
    Some(Value::Limits(vec![(device.trim_end().to_owned(), read(limit)?)]))
}

fn unlimited(text: &str) -> Option<u64> {
    (text == "infinity").then_some(u64::MAX)
}

fn device_allow(text: &str) -> Option<(String, String)> {
    let (device, access) = text.rsplit_once(char::is_whitespace).unwrap_or((text, "rwm"));
    let fits = !device.is_empty() && !access.is_empty() && access.chars().all(|one| "rwm".contains(one));
    fits.then(|| (device.trim_end().to_owned(), access.to_owned()))
}

fn weight(text: &str) -> Option<u64> {
    text.parse().ok().filter(|weight| (1..=10000).contains(weight))
}

/// Microseconds of CPU time a second.
fn quota(text: &str) -> Option<u64> {
    size::fixed_point(text.strip_suffix('%')?, 10_000).filter(|share| *share > 0)
}

/// A time span as man 7 systemd.time has it, in microseconds; without a unit it is seconds.
fn span(text: &str) -> Option<u64> {
    if text == "infinity" {
        return Some(u64::MAX);
    }
    let nanoseconds = duration::parse(text).ok()?;
    u64::try_from(nanoseconds / 1000).ok()
}

/// The bit mask of `0-3,8`; the lists of cpuset(7), blanks as separators too.
fn mask(text: &str) -> Option<Vec<u8>> {
    let mut mask: Vec<u8> = Vec::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // CPU_SETSIZE of systemd's own limit: 8192 is the most that Linux can be built for.
        if first > last || last >= 8192 {
            return None;
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Some(mask)
}

/// A signal's number: by name with or without SIG, RTMIN+n, RTMAX-n, or as a number.
fn signal(text: &str) -> Option<i32> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let realtime = |base: i32, offset: &str| -> Option<i32> {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
        Some(base + offset)
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX"), name.parse::<i32>()) {
        (Some(offset), ..) => realtime(libc::SIGRTMIN(), offset)?,
        (_, Some(offset), _) => realtime(libc::SIGRTMAX(), offset)?,
        (_, _, Ok(number)) => number,
        _ => Signal::from_str(&format!("SIG{name}")).ok()? as i32,
    };
    (1..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

/// Known names that look like `name`; all of them where none does.
fn close_to(name: &str) -> Vec<&'static str> {
    let wanted = name.to_ascii_lowercase();
    let close: Vec<&'static str> = KNOWN
        .iter()
        .map(|(known, ..)| *known)
        .filter(|known| {
            let known = known.to_ascii_lowercase();
            distance(&wanted, &known) <= 2 || (wanted.len() >= 4 && known.contains(&wanted))
        })
        .collect();
    if close.is_empty() { KNOWN.iter().map(|(known, ..)| *known).collect() } else { close }
}

/// Edit distance (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let best = (diagonal + usize::from(a != b)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], best);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, Value) {
        let property = Property::parse(text).unwrap();
        (property.name, property.value)
    }

    #[test]
    fn values_take_the_types_that_the_bus_has_for_them() {
        for (text, name, value) in [
            ("MemoryMax=2G", "MemoryMax", Value::U64(2 << 30)),
            ("MemoryMax=1.5K", "MemoryMax", Value::U64(1536)),
            ("MemoryHigh=infinity", "MemoryHigh", Value::U64(u64::MAX)),
            ("MemoryMax=50%", "MemoryMaxScale", Value::U32(0x8000_0000)),
            ("TasksMax=500", "TasksMax", Value::U64(500)),
            ("TasksMax=100%", "TasksMaxScale", Value::U32(u32::MAX)),
            ("CPUQuota=150%", "CPUQuotaPerSecUSec", Value::U64(1_500_000)),
            ("CPUQuota=33.3333%", "CPUQuotaPerSecUSec", Value::U64(333_333)),
            ("CPUWeight=idle", "CPUWeight", Value::U64(0)),
            ("IOWeight=200", "IOWeight", Value::U64(200)),
            ("AllowedCPUs=0-1,8", "AllowedCPUs", Value::Bytes(vec![3, 1])),
            ("TimeoutStopSec=1min 30s", "TimeoutStopUSec", Value::U64(90_000_000)),
            ("TimeoutStopUSec=1.5s", "TimeoutStopUSec", Value::U64(1_500_000)),
            ("RuntimeMaxSec=2h", "RuntimeMaxUSec", Value::U64(7_200_000_000)),
            ("KillSignal=SIGRTMIN+3", "KillSignal", Value::I32(libc::SIGRTMIN() + 3)),
            ("KillSignal=TERM", "KillSignal", Value::I32(15)),
            ("MemoryAccounting=yes", "MemoryAccounting", Value::Bool(true)),
            ("Description=a = b", "Description", Value::Text("a = b".into())),
            (
                "Documentation=man:x(1) man:y(1)",
                "Documentation",
                Value::Texts(vec!["man:x(1)".into(), "man:y(1)".into()]),
            ),
            (
                "IOReadBandwidthMax=/dev/sda 10M",
                "IOReadBandwidthMax",
                Value::Limits(vec![("/dev/sda".into(), 10 << 20)]),
            ),
            (
                "IOWriteIOPSMax=/dev/sda infinity",
                "IOWriteIOPSMax",
                Value::Limits(vec![("/dev/sda".into(), u64::MAX)]),
            ),
            (
                "DeviceAllow=/dev/fuse rw",
                "DeviceAllow",
                Value::Devices(vec![("/dev/fuse".into(), "rw".into())]),
            ),
        ] {
            assert_eq!(parsed(text), (name.to_owned(), value), "{text}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        for text in [
            "MemoryMax=",
            "MemoryMax=-1",
            "MemoryMax=2X",
            "MemoryMax=101%",
            "MemoryMax=99999999999E",
            "TasksMax=x",
            "CPUQuota=150",
            "CPUQuota=0%",
            "CPUWeight=0",
            "CPUWeight=10001",
            "AllowedCPUs=3-1",
            "AllowedCPUs=99999",
            "TimeoutStopSec=",
            "TimeoutStopSec=5 parsecs",
            "KillSignal=0",
            "KillSignal=RTMIN+99",
            "KillSignal=FOO",
            "IPAccounting=maybe",
            "DeviceAllow=/dev/fuse x",
            "IOReadIOPSMax=/dev/sda",
        ] {
            assert!(matches!(Property::parse(text), Err(PropertyError::Bad { .. })), "{text}");
        }
        assert_eq!(Property::parse("MemoryMax"), Err(PropertyError::NoValue("MemoryMax".into())));
    }

    #[test]
    fn an_unknown_name_gets_what_it_may_have_meant() {
        let error = Property::parse("MemroyMax=1").unwrap_err();
        assert_eq!(error.to_string(), "unknown property 'MemroyMax'; did you mean MemoryMax?");
        let error = Property::parse("ExecStart=/bin/x").unwrap_err();
        assert!(error.to_string().contains("known are AllowedCPUs, "), "{error}");
        // The cgroup's delegation is osier's own affair.
        assert!(Property::parse("Delegate=no").is_err());
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(KNOWN.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
