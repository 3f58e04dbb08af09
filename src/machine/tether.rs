//! What a machine hangs on while a part of its memory is elsewhere. Who brings that holds the other end, and says so when all
//! has come; whoever dies before has taken the rest of it along, and the machine cannot go on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

/// All has come.
const WHOLE: u8 = 1;

/// The machine's end.
#[derive(Debug)]
pub struct Tether {
    waits: OwnedFd,
    _open: OwnedFd,
}

/// The end of who brings its memory.
#[derive(Debug)]
pub struct Bringer(OwnedFd);

/// How the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grip {
    /// Some of its memory is still to come.
    Holds,
    /// All has come.
    Whole,
    /// It will never come.
    Broken,
}

impl Tether {
    /// Both ends. `open` stays open as long as the machine's end: while it is, missing memory is waited for and not taken for
    /// zeros.
    ///
    /// # Errors
    /// What pipe(2) gives.
    pub fn new(open: OwnedFd) -> io::Result<(Self, Bringer)> {
        let (waits, holds) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { waits, _open: open }, Bringer(holds)))
    }

    /// Readable when there is news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.waits.as_fd()
    }

    /// How it is.
    pub fn look(&self) -> Grip {
        let mut word = [0];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.waits, &mut word)) {
            Ok(1..) if word == [WHOLE] => Grip::Whole,
            Err(rustix::io::Errno::AGAIN) => Grip::Holds,
            _ => Grip::Broken,
        }
    }
}

impl Bringer {
    /// All has come.
    pub fn whole(self) {
        // Nobody reads it of a machine that has ended.
        let _ = rustix::io::write(&self.0, &[WHOLE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_word_is_the_end() {
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (tether, bringer) = Tether::new(open()).unwrap();
        assert_eq!(tether.look(), Grip::Holds);
        bringer.whole();
        assert_eq!(tether.look(), Grip::Whole);
        let (tether, bringer) = Tether::new(open()).unwrap();
        drop(bringer);
        assert_eq!(tether.look(), Grip::Broken);
    }
}
