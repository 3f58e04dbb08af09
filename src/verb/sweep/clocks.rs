//! The clocks of a sweep, as they are listed on the command line.

use crate::clock::{Now, Wanted};
use crate::duration::point;
use crate::error::{Context, Result};
use crate::settings::Setting;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    /// As it was written.
    pub(super) text: String,
    /// What monotonic and boottime start at.
    pub(super) wanted: Wanted,
}

/// Reads a list such as `host,0,uint32-ms-30s`.
///
/// # Errors
/// The first that is missing, is no clock, is out of range, or is there already.
pub(super) fn parse(list: &str) -> Result<Vec<Clock>> {
    let now = Now::read().context(|| "cannot read the host's clocks")?;
    let mut clocks: Vec<Clock> = Vec::new();
    for text in list.split(',').map(str::trim) {
        let refuse =
            |text: &str, reason: &dyn std::fmt::Display| Setting::flag("--clock-sweep", text).refuse(reason);
        if text.is_empty() {
            return Err(refuse(list, &"a clock is missing; there is one before, after and between commas"));
        }
        let wanted = match text {
            "host" => Wanted::Host,
            _ => Wanted::At(point::parse(text).map_err(|reason| refuse(text, &reason))?),
        };
        now.resolve_both(wanted, wanted).map_err(|range| refuse(text, &range))?;
        if let Some(same) = clocks.iter().find(|clock| clock.wanted == wanted) {
            return Err(refuse(text, &format!("it is the same clock as '{}'", same.text)));
        }
        clocks.push(Clock { text: text.to_owned(), wanted });
    }
    Ok(clocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_in_its_order() {
        let clocks = parse("host, 0,1d 2h,uint32-ms-30s,497d").unwrap();
        let texts: Vec<_> = clocks.iter().map(|clock| clock.text.as_str()).collect();
        assert_eq!(texts, ["host", "0", "1d 2h", "uint32-ms-30s", "497d"]);
        assert_eq!(clocks[0].wanted, Wanted::Host);
        assert_eq!(clocks[3].wanted, Wanted::At(4_294_937_296_000_000));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, words) in [
            ("", "--clock-sweep=: a clock is missing"),
            (" ", "a clock is missing"),
            ("0,,1d", "--clock-sweep=0,,1d: a clock is missing"),
            ("0,", "a clock is missing"),
            ("0,3x", "--clock-sweep=3x: 'x' is no unit of time"),
            ("0,uint32-sm", "--clock-sweep=uint32-sm: 'uint32-sm' is no point that has a name; did you mean"),
            ("1d,24h", "--clock-sweep=24h: it is the same clock as '1d'"),
            ("host,host", "it is the same clock as 'host'"),
            (
                "0,-1s",
                "--clock-sweep=-1s: the monotonic clock cannot start at -1s; it can start between 0 and 146y",
            ),
            ("147y", "it can start between 0 and 146y"),
        ] {
            let error = parse(list).unwrap_err();
            assert!(error.to_string().contains(words), "{list}: {error}");
            assert_eq!(error.kind(), crate::error::Kind::Usage, "{list}");
        }
    }
}
