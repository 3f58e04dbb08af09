//! What a console's last bytes have made of a screen, for a terminal that sees it for the first time.
//!
//! The bytes are the machine's, and the screen is worked out by the front, not by the supervisor: only the process of who
//! asked to see it can come to harm.

use std::num::NonZeroU16;

use vt100::{MouseProtocolMode, Parser, Screen};

/// No terminal has more; whoever is root inside can say that the console has, and the memory for it would be the host's.
const MOST: u16 = 1000;

/// A screen, as the console's programs have left it.
pub struct Replay(Parser);

impl Replay {
    /// Works it out from the last bytes written to a console of `rows` and `columns`; 24 and 80 where they are not known.
    pub fn of(bytes: &[u8], rows: u16, columns: u16) -> Self {
        let rows = NonZeroU16::new(rows.min(MOST)).unwrap_or(const { NonZeroU16::new(24).unwrap() });
        let columns = NonZeroU16::new(columns.min(MOST)).unwrap_or(const { NonZeroU16::new(80).unwrap() });
        let mut parser = Parser::new(rows, columns, 0);
        parser.process(bytes);
        Self(parser)
    }

    fn screen(&self) -> &Screen {
        self.0.screen()
    }

    /// What brings a terminal to that state: contents, cursor, colours, modes.
    pub fn for_terminal(&self) -> String {
        let screen = self.screen();
        let alternate = if screen.alternate_screen() { "\x1b[?1049h" } else { "" };
        alternate.to_owned() + &screen.state_formatted()
    }

    /// The contents alone, for what is no terminal.
    pub fn as_text(&self) -> String {
        let text = self.screen().contents();
        if text.is_empty() { text } else { text + "\n" }
    }

    /// What brings a terminal back from that state to one that a shell can use.
    pub fn farewell(&self) -> String {
        let screen = self.screen();
        let mut text = String::from("\x1b[m");
        let modes = [
            (screen.alternate_screen(), "\x1b[?1049l"),
            (screen.hide_cursor(), "\x1b[?25h"),
            (screen.application_keypad(), "\x1b>"),
            (screen.application_cursor(), "\x1b[?1l"),
            (screen.bracketed_paste(), "\x1b[?2004l"),
            // Each protocol, and each encoding, is off when one of them is turned off (xterm, ctlseqs).
            (
                screen.mouse_protocol_mode() != MouseProtocolMode::None,
                "\x1b[?9l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1005l\x1b[?1006l",
            ),
        ];
        modes.iter().filter(|(is_on, _)| *is_on).for_each(|(_, off)| text.push_str(off));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_that_claims_to_be_huge_is_not_believed() {
        let replay = Replay::of(b"\x1b[?1049htext", u16::MAX, u16::MAX);
        let (rows, columns) = replay.screen().size();
        assert_eq!((rows.get(), columns.get()), (MOST, MOST));
        assert_eq!(replay.as_text(), "text\n");
    }

    #[test]
    fn a_terminal_comes_to_the_same_screen() {
        let mut bytes = b"first\r\n".repeat(100);
        bytes.extend(b"\x1b[?1049h\x1b[2J\x1b[5;10H\x1b[31mred\x1b[?25l\x1b[?2004h\x1b[?1h");
        let replay = Replay::of(&bytes, 24, 80);
        let again = Replay::of(replay.for_terminal().as_bytes(), 24, 80);
        assert_eq!(again.screen().state_formatted(), replay.screen().state_formatted());
        assert!(again.screen().alternate_screen());
        assert!(replay.as_text().contains("red") && !replay.as_text().contains("first"));
        let after = Replay::of(&[&bytes, replay.farewell().as_bytes()].concat(), 24, 80);
        let screen = after.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor() && !screen.bracketed_paste());
        assert!(!screen.application_cursor() && screen.contents().contains("first"));
    }

    #[test]
    fn nothing_that_a_machine_writes_stops_it() {
        let mut state = 7_u32;
        for (rows, columns) in [(1, 1), (0, 0), (24, 80), (2, 1), (1, 2)] {
            let bytes: Vec<u8> = (0..200_000)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let byte = state.to_be_bytes()[0];
                    if byte < 60 { b"\x1b[;?0123456789hlHJKMLr"[usize::from(byte) % 22] } else { byte }
                })
                .collect();
            Replay::of(&bytes, rows, columns).for_terminal();
        }
    }
}
