//! Times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const UNITS: [(u64, &str); 4] = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// A span in its two greatest units: `3d 4h`, `5min 2s`; milliseconds below a second.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{}ms", span.subsec_millis());
    };
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if rest / unit > 0 {
            parts.push(format!("{}{name}", rest / unit));
        }
        rest %= unit;
    }
    parts.join(" ")
}

/// An offset in nanoseconds, with its sign: `+3d 4h`; `0` for none.
pub(super) fn offset(nanoseconds: i64) -> String {
    let sign = match nanoseconds.signum() {
        0 => return "0".to_owned(),
        1 => '+',
        _ => '-',
    };
    format!("{sign}{}", span(Duration::from_nanos(nanoseconds.unsigned_abs())))
}

/// How long ago `started` was, microseconds of CLOCK_REALTIME; zero when the clock was set back since.
pub(super) fn since(started: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_micros(started))
}

/// A moment, microseconds of CLOCK_REALTIME, in UTC as systemd writes it: `Mon 2026-11-23 18:16:45 UTC`.
pub(super) fn moment(microseconds: u64) -> String {
    let seconds = microseconds / 1_000_000;
    let days = seconds / 86400;
    let (year, month, day) = civil(days);
    let weekday = DAYS[usize::try_from(days % 7).unwrap_or_default()];
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday} {year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the
/// leap day is a year's last; 719468 days lie between 0000-03-01 and the epoch.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_are_enough() {
        for (seconds, text) in
            [(0, "0ms"), (59, "59s"), (61, "1min 1s"), (3600, "1h"), (3601, "1h"), (273_600, "3d 4h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span(Duration::from_millis(250)), "250ms");
        assert_eq!(offset(-90_000_000_000), "-1min 30s");
        assert_eq!(offset(0), "0");
        assert_eq!(offset(i64::MIN), "-106751d 23h");
    }

    #[test]
    fn moments_are_dates_own() {
        // As `date -u -d @N` says.
        for (seconds, text) in [
            (0, "Thu 1970-01-01 00:00:00 UTC"),
            (951_782_400, "Tue 2000-02-29 00:00:00 UTC"),
            (1_709_251_199, "Thu 2024-02-29 23:59:59 UTC"),
            (1_795_457_805, "Mon 2026-11-23 18:16:45 UTC"),
            (4_107_542_400, "Mon 2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(moment(seconds * 1_000_000), text);
        }
    }
}
