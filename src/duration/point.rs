//! The points of a clock that programs break at, by name: `uint32-ms` is where a count of milliseconds in 32 bits starts
//! again from zero, `uint32-ms-1min` a minute before. One table, [`POINTS`]; osier-clocks(7) has it from here.
//!
//! Jiffies have no namespace (man 7 time_namespaces does not know them, times(2) counts the host's): those points are for
//! programs that reckon in them, from a clock that has one and from the frequency of the kernel, [`hz`].

use std::fmt;

use rustix::time::{ClockId, clock_getres};

use super::ParseError as DurationError;

const SECOND: i128 = 1_000_000_000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// So many of them are a second.
    PerSecond(u32),
    /// The kernel's timer ticks, [`hz`] of them a second.
    Jiffy,
}

/// A point of a clock by its name: it shows `2^bits` units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// As it is written.
    pub name: &'static str,
    /// The first count that the type cannot hold is two to the power of this.
    pub bits: u32,
    /// Of what.
    pub unit: Unit,
}

const NS: Unit = Unit::PerSecond(1_000_000_000);
const US: Unit = Unit::PerSecond(1_000_000);
const MS: Unit = Unit::PerSecond(1_000);
const CS: Unit = Unit::PerSecond(100);
const S: Unit = Unit::PerSecond(1);

/// All that have a name and that a clock can show.
pub const POINTS: [Point; 15] = [
    point("int32-ns", 31, NS),
    point("uint32-ns", 32, NS),
    point("int32-us", 31, US),
    point("uint32-us", 32, US),
    point("int32-ms", 31, MS),
    point("uint32-ms", 32, MS),
    point("int32-jiffies", 31, Unit::Jiffy),
    point("uint32-jiffies", 32, Unit::Jiffy),
    point("int32-cs", 31, CS),
    point("uint32-cs", 32, CS),
    point("int32-s", 31, S),
    point("uint32-s", 32, S),
    point("float32-ms", 24, MS),
    point("float32-s", 24, S),
    point("float64-ns", 53, NS),
];

const fn point(name: &'static str, bits: u32, unit: Unit) -> Point {
    Point { name, bits, unit }
}

impl Point {
    /// What a clock shows there, in nanoseconds, where the kernel ticks `hz` times a second: the first nanosecond of the
    /// count that does not fit.
    pub fn nanoseconds(self, hz: u32) -> i64 {
        let per_second = match self.unit {
            Unit::PerSecond(number) => number,
            Unit::Jiffy => hz.max(1),
        };
        let product = (1 << self.bits) * SECOND;
        i64::try_from((product + i128::from(per_second) - 1) / i128::from(per_second)).unwrap_or(i64::MAX)
    }
}

/// Why a text is no point of a clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// It is no length of time either.
    Duration(DurationError),
    /// No point has this name; the one that has nearly the same.
    Unknown(String, Option<&'static str>),
    /// After a name `+` or `-` was expected where this stands.
    NoSign(String),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duration(reason) => reason.fmt(f),
            Self::Unknown(name, Some(close)) => {
                write!(f, "'{name}' is no point that has a name; did you mean '{close}'?")
            }
            Self::Unknown(name, None) => {
                let names = POINTS.map(|point| point.name).join(", ");
                write!(f, "'{name}' is no point that has a name; {names} have one")
            }
            Self::NoSign(text) => {
                write!(f, "after the name of a point + or - and a length of time was expected at '{text}'")
            }
        }
    }
}

impl std::error::Error for ParseError {}

impl From<DurationError> for ParseError {
    fn from(reason: DurationError) -> Self {
        Self::Duration(reason)
    }
}

/// How often the kernel's timer ticks a second (CONFIG_HZ), as its coarse clocks tell: their resolution is a tick
/// (man 2 clock_getres). `sysconf(_SC_CLK_TCK)` is another number, 100 whatever the kernel was built with.
pub fn hz() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse);
    of_tick(i128::from(tick.tv_sec) * SECOND + i128::from(tick.tv_nsec))
}

/// The frequency of ticks of so many nanoseconds, which the kernel has rounded.
fn of_tick(nanoseconds: i128) -> u32 {
    let nanoseconds = nanoseconds.max(1);
    u32::try_from((SECOND + nanoseconds / 2) / nanoseconds).unwrap_or(1)
}

/// Nanoseconds from a text: what [`super::parse`] reads, or the name of a point with a length of time added or taken away,
/// `uint32-ms - 1min 30s`. A sign before all of it holds for all of it.
///
/// # Errors
/// [`ParseError`]; its text says what is wrong in words.
pub fn parse(text: &str) -> Result<i64, ParseError> {
    parse_at(text, hz)
}

fn parse_at(text: &str, hz: impl FnOnce() -> u32) -> Result<i64, ParseError> {
    let text = text.trim();
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text.strip_prefix('+').unwrap_or(text).trim_start()),
    };
    if !rest.starts_with(|char: char| char.is_ascii_alphabetic()) {
        return Ok(super::parse(text)?);
    }
    let (name, rest) = rest.split_at(end_of_name(rest));
    let Some(point) = POINTS.iter().find(|point| point.name == name) else {
        return Err(unknown(name).unwrap_or(ParseError::Duration(DurationError::NotANumber(text.to_owned()))));
    };
    let sum = i128::from(point.nanoseconds(hz())) + i128::from(addend(rest.trim_start())?);
    let value = if negative { -sum } else { sum };
    i64::try_from(value).map_err(|_| DurationError::TooLong.into())
}

/// A name has one hyphen; what comes after the second one is taken away from it.
fn end_of_name(text: &str) -> usize {
    let hyphen = text.match_indices('-').nth(1).map(|(at, _)| at);
    let other = text.find(|char: char| char == '+' || char.is_whitespace());
    hyphen.into_iter().chain(other).min().unwrap_or(text.len())
}

/// What is added to a point.
fn addend(text: &str) -> Result<i64, ParseError> {
    let Some(sign) = text.chars().next() else { return Ok(0) };
    let length = match text.strip_prefix(['+', '-']) {
        None => return Err(ParseError::NoSign(text.to_owned())),
        Some(length) => length.trim_start(),
    };
    if length.starts_with(['+', '-']) {
        return Err(DurationError::NotANumber(length.to_owned()).into());
    }
    let length = super::parse(length)?;
    Ok(if sign == '-' { -length } else { length })
}

/// The refusal of what was probably meant as a name; a hyphen may have been left out before what is taken away.
fn unknown(name: &str) -> Option<ParseError> {
    let first = name.split('-').next().unwrap_or_default();
    let close = closest(name).map(|close| (name, close));
    let close = close.or_else(|| Some((first, closest(first)?)));
    let (name, close) = match close {
        Some((name, close)) => (name, Some(close)),
        None if ["int", "uint", "float"].iter().any(|kind| name.starts_with(kind)) => (name, None),
        None => return None,
    };
    Some(ParseError::Unknown(name.to_owned(), close))
}

/// The name that a mistyped one was probably meant to be: at most a third of it differs.
fn closest(name: &str) -> Option<&'static str> {
    let slips = name.chars().count() / 3;
    let measured = POINTS.iter().map(|point| (strsim::osa_distance(name, point.name), point.name));
    measured.filter(|(distance, _)| *distance <= slips).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
