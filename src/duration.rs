//! Lengths of time as people write them, `systemd.time(7)`'s way: `3d2h`, `1h 30min`, `49.7d`, `-500ms`.
//!
//! Signed nanoseconds in an `i64`: exact, and about 292 years either way. What does not fit, or is finer than a
//! nanosecond, is refused and never rounded: clocks are set with it.

pub mod point;

use std::fmt;
use std::fmt::Write as _;

const SECOND: i128 = 1_000_000_000;

/// Every unit by its names, longest unit first; `month` and `year` are systemd.time(7)'s 30.44 and 365.25 days.
const UNITS: [(i128, &[&str]); 10] = [
    (31_557_600 * SECOND, &["y", "year", "years"]),
    (2_629_800 * SECOND, &["M", "month", "months"]),
    (604_800 * SECOND, &["w", "week", "weeks"]),
    (86_400 * SECOND, &["d", "day", "days"]),
    (3_600 * SECOND, &["h", "hr", "hour", "hours"]),
    (60 * SECOND, &["min", "m", "minute", "minutes"]),
    (SECOND, &["s", "sec", "second", "seconds"]),
    (1_000_000, &["ms", "msec"]),
    (1_000, &["us", "usec", "\u{b5}s", "\u{3bc}s"]),
    (1, &["ns", "nsec"]),
];

/// Why a text is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// Nothing is there.
    Empty,
    /// A number was expected where this stands.
    NotANumber(String),
    /// No unit has this name.
    UnknownUnit(String),
    /// It is finer than a nanosecond.
    TooFine,
    /// It is more than an `i64` of nanoseconds holds, about 292 years.
    TooLong,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a length of time is missing, such as '3d 2h' or '500ms'"),
            Self::NotANumber(text) => write!(f, "a number was expected at '{text}'"),
            Self::UnknownUnit(unit) => {
                write!(f, "'{unit}' is no unit of time; y, month, w, d, h, min, s, ms, us and ns are")
            }
            Self::TooFine => f.write_str("it is finer than a nanosecond"),
            Self::TooLong => f.write_str("it is longer than 292 years"),
        }
    }
}

impl std::error::Error for ParseError {}

/// Nanoseconds from a text: an optional `+` or `-` for all of it, then terms of a number and a unit; a number without a
/// unit is seconds.
///
/// # Errors
/// [`ParseError`]; its text says what is wrong in words.
pub fn parse(text: &str) -> Result<i64, ParseError> {
    let text = text.trim();
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest.is_empty() {
        return Err(ParseError::Empty);
    }
    let mut sum: i128 = 0;
    while !rest.is_empty() {
        let (term, after) = parse_term(rest)?;
        // A term is at most 2^64 and a unit, and the sum at most 2^63 before it: an i128 holds that.
        sum += term;
        if sum > i128::from(i64::MAX) + 1 {
            return Err(ParseError::TooLong);
        }
        rest = after.trim_start();
    }
    i64::try_from(if negative { -sum } else { sum }).map_err(|_| ParseError::TooLong)
}

/// One number with its unit, and what follows it.
fn parse_term(text: &str) -> Result<(i128, &str), ParseError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.').map(split_digits) {
        Some(("", _)) => return Err(ParseError::NotANumber(rest.to_owned())),
        Some(parts) => parts,
        None => ("", rest),
    };
    if whole.is_empty() {
        return Err(ParseError::NotANumber(text.to_owned()));
    }
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(end);
    let unit = match unit {
        "" => SECOND,
        _ => UNITS
            .iter()
            .find(|(_, names)| names.contains(&unit))
            .map(|(length, _)| *length)
            .ok_or_else(|| ParseError::UnknownUnit(unit.to_owned()))?,
    };
    let whole: i128 = whole.parse().map_err(|_| ParseError::TooLong)?;
    let whole = whole.checked_mul(unit).filter(|term| *term <= 1 << 64).ok_or(ParseError::TooLong)?;
    Ok((whole + parse_fraction(fraction, unit)?, after))
}

/// The digits after a decimal point as a part of `unit`.
fn parse_fraction(digits: &str, unit: i128) -> Result<i128, ParseError> {
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    // No unit is a multiple of 2^17 or of 5^17, so that a part of it with more digits is no whole number of nanoseconds.
    if digits.len() > 16 {
        return Err(ParseError::TooFine);
    }
    let numerator: i128 = digits.bytes().fold(0, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    let denominator = (0..digits.len()).fold(1, |power: i128, _| power * 10);
    let product = numerator * unit;
    if product % denominator == 0 { Ok(product / denominator) } else { Err(ParseError::TooFine) }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The shortest text that [`parse`] reads back as the same: `3d 2h 1.5s`, `-500ms`, `0`.
///
/// The sign holds for all of it. Weeks and months are not used: they read worse than days.
pub fn format(nanoseconds: i64) -> String {
    let mut rest = i128::from(nanoseconds.unsigned_abs());
    if rest == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (unit, names) in UNITS.iter().filter(|(_, names)| !matches!(names[0], "M" | "w")) {
        let (count, left) = (rest / unit, rest % unit);
        if count == 0 {
            continue;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        // Writing to a String does not fail.
        let _ = write!(text, "{count}");
        if *unit <= SECOND && left > 0 {
            let width = unit.ilog10() as usize;
            let decimals = format!("{left:0width$}");
            let _ = write!(text, ".{}", decimals.trim_end_matches('0'));
        }
        text.push_str(names[0]);
        rest = if *unit <= SECOND { 0 } else { left };
    }
    if nanoseconds < 0 { format!("-{text}") } else { text }
}

/// Writes how long something took, to the millisecond.
pub fn taken(time: std::time::Duration) -> String {
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    format(milliseconds.saturating_mul(1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NS: i64 = 1_000_000_000;

    #[test]
    fn every_form_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("-0", 0),
            ("5", 5 * NS),
            ("3d2h", 74 * 3600 * NS),
            ("3d 2h", 74 * 3600 * NS),
            (" 3 d  2 hours ", 74 * 3600 * NS),
            ("500ms", NS / 2),
            ("-1.5", -3 * NS / 2),
            ("+1.5s", 3 * NS / 2),
            ("-1h 30min", -5400 * NS),
            ("49.7d", 4_294_080 * NS),
            ("1w", 604_800 * NS),
            ("1month", 2_629_800 * NS),
            ("1M 1m", 2_629_860 * NS),
            ("1y", 31_557_600 * NS),
            ("0.1y", 3_155_760 * NS),
            ("7us 3ns", 7003),
            ("7\u{b5}s", 7000),
            ("7\u{3bc}s", 7000),
            ("1.000000001s", NS + 1),
            ("1.0000000010000000000000000000000s", NS + 1),
            ("5 3ms", 5 * NS + 3_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused_in_words() {
        for (text, words) in [
            ("", "missing"),
            ("-", "missing"),
            ("  ", "missing"),
            ("soon", "number was expected at 'soon'"),
            ("3d -2h", "number was expected at '-2h'"),
            ("--3d", "number was expected"),
            (".s", "number was expected"),
            (".5s", "number was expected at '.5s'"),
            ("2.s", "number was expected at '.s'"),
            ("1.2.3s", "number was expected at '.3s'"),
            ("1e3", "'e' is no unit"),
            ("3 dogs", "'dogs' is no unit"),
            ("infinity", "number was expected"),
            ("0.5ns", "finer than a nanosecond"),
            ("1.0000000001s", "finer than a nanosecond"),
            ("0.1234567890123456789012y", "finer than a nanosecond"),
            ("293y", "longer than 292 years"),
            ("9223372036854775808ns", "longer than 292 years"),
            ("292y 292y", "longer than 292 years"),
            ("340282366920938463463374607431768211456", "longer than 292 years"),
            ("99999999999999999999y", "longer than 292 years"),
            ("1٣s", "number was expected"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn texts_are_short() {
        for (nanoseconds, text) in [
            (0, "0"),
            (74 * 3600 * NS + 3 * NS / 2, "3d 2h 1.5s"),
            (4_294_080 * NS, "49d 16h 48min"),
            (-NS / 2, "-500ms"),
            (1500, "1.5us"),
            (1, "1ns"),
            (NS + 1, "1.000000001s"),
            (31_557_600 * NS, "1y"),
        ] {
            assert_eq!(format(nanoseconds), text);
        }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same() {
        // A linear congruential generator: every run sees the same 20,000 values of every magnitude.
        let mut state: u64 = 0x5eed;
        for turn in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = state.cast_signed() >> (turn % 64);
            assert_eq!(parse(&format(value)), Ok(value), "{value}");
        }
        for value in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1, -1] {
            assert_eq!(parse(&format(value)), Ok(value), "{value}");
        }
    }
}
