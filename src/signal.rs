//! Signals by name and number (man 7 signal): `SIGRTMIN+3`, `TERM`, `15`.

use std::fmt;
use std::str::FromStr;

/// A signal that can be sent, standard or real-time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

/// What was given is no signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotASignal;

impl fmt::Display for NotASignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a signal; signals are named as in signal(7), such as SIGTERM or SIGRTMIN+3")
    }
}

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// SIGINT.
    pub const INT: Self = Self(libc::SIGINT);
    /// SIGTERM.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// SIGUSR1.
    pub const USR1: Self = Self(libc::SIGUSR1);
    /// SIGUSR2.
    pub const USR2: Self = Self(libc::SIGUSR2);

    /// `SIGRTMIN+offset`, which systemd takes as a request (man 1 systemd, Signals): 3 is halt, 4 power off, 5 reboot.
    pub fn realtime(offset: i32) -> Self {
        Self(libc::SIGRTMIN() + offset)
    }

    /// The names of the standard ones: `SIGHUP`, `SIGINT`…
    pub fn names() -> impl Iterator<Item = &'static str> {
        nix::sys::signal::Signal::iterator().map(nix::sys::signal::Signal::as_str)
    }

    /// Its number.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = NotASignal;

    fn from_str(text: &str) -> Result<Self, NotASignal> {
        if let Ok(number) = text.parse() {
            return (1..=libc::SIGRTMAX()).contains(&number).then_some(Self(number)).ok_or(NotASignal);
        }
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let number = if let Some(offset) = name.strip_prefix("RTMIN") {
            libc::SIGRTMIN() + parse_offset(offset, '+')?
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            libc::SIGRTMAX() - parse_offset(offset, '-')?
        } else {
            let standard: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| NotASignal)?;
            return Ok(Self(standard as i32));
        };
        (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(Self(number)).ok_or(NotASignal)
    }
}

fn parse_offset(text: &str, sign: char) -> Result<i32, NotASignal> {
    match text.strip_prefix(sign) {
        None if text.is_empty() => Ok(0),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map_err(|_| NotASignal)
        }
        _ => Err(NotASignal),
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(standard) => f.write_str(standard.as_str()),
            Err(_) => write!(f, "SIGRTMIN+{}", self.0 - libc::SIGRTMIN()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_same_signals() {
        for (text, number) in [("TERM", 15), ("sigterm", 15), ("15", 15), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for wrong in ["", "SIG", "0", "65", "-1", "RTMIN-1", "RTMIN+99", "RTMIN+ 3", "NOSUCH"] {
            assert_eq!(wrong.parse::<Signal>(), Err(NotASignal), "{wrong}");
        }
        assert_eq!(Signal::realtime(3).to_string(), "SIGRTMIN+3");
        assert_eq!(Signal::KILL.to_string(), "SIGKILL");
    }
}
