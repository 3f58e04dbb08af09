//! Sizes: numbers of bytes as systemd and the kernel take them, `1.5G`, with a factor of 1024 per letter.

/// The letters, from the largest.
const UNITS: [(&str, u32); 6] = [("E", 60), ("P", 50), ("T", 40), ("G", 30), ("M", 20), ("K", 10)];

/// Bytes: a number, whole or decimal, and K, M, G, T, P, E or nothing; `None` for what is none or does not fit.
pub fn parse(text: &str) -> Option<u64> {
    let number = text.trim_end_matches(|one: char| one.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let shift = match unit {
        "" | "B" => 0,
        _ => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    fixed_point(number.trim_end(), 1 << shift)
}

/// The shortest text that [`parse`] reads as `bytes`, without fractions.
pub fn format(bytes: u64) -> String {
    let fits = |(_, shift): &&(&str, u32)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match UNITS.iter().find(fits) {
        Some((name, shift)) => format!("{}{name}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// A decimal number times `unit`, rounded down, without going through floating point.
pub fn fixed_point(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|one| one.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let rest = u64::try_from(fraction * u128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_a_power_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("7", 7),
            ("7B", 7),
            ("1.5K", 1536),
            ("2M", 2 << 20),
            ("3 G", 3 << 30),
            ("1E", 1 << 60),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1k", "2X", "1..5K", "1.5.5", "16E", "1.1234567890", "+1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_formatted_is_read_again() {
        for (bytes, text) in
            [(0, "0"), (1023, "1023"), (1536, "1536"), (2 << 30, "2G"), (u64::MAX, "18446744073709551615")]
        {
            assert_eq!(format(bytes), text);
            assert_eq!(parse(text), Some(bytes));
        }
    }
}
