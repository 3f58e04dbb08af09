//! What a machine hangs on while a part of its memory is elsewhere. Who brings that holds the other end, and says so when all
//! has come; whoever dies before has taken the rest of it along, and the machine cannot go on.
//!
//! That it is whole is written down here, by whoever lives as long as the machine, and not by who brings it.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::migration::ledger::Charge;

/// All has come.
const WHOLE: u8 = 1;
/// How long whoever brings it may take to say so of a machine that has ended: what asks for its memory sees that as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// The machine's end.
#[derive(Debug)]
pub struct Tether {
    waits: OwnedFd,
    _open: OwnedFd,
    /// What is to be written down.
    charge: RefCell<Option<Charge>>,
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
        Ok((Self { waits, _open: open, charge: RefCell::new(None) }, Bringer(holds)))
    }

    /// The machine runs: `charge`, which says that its memory is still coming, is from now on what is written down of it.
    pub fn charge(&self, charge: Charge) {
        self.charge.replace(Some(charge));
    }

    /// Readable when there is news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.waits.as_fd()
    }

    /// Writes down that all has come.
    ///
    /// # Errors
    /// As [`Charge::running`].
    pub fn note(&self) -> io::Result<()> {
        self.charge.take().map_or(Ok(()), Charge::running)
    }

    /// The machine has ended. That it was whole until then is said by who brings its memory; one of which that is not known is lost.
    ///
    /// # Errors
    /// As [`Charge::running`].
    pub fn close(self) -> io::Result<()> {
        let charge = self.charge.take();
        let deadline = Instant::now() + PATIENCE;
        while charge.is_some() {
            match self.look() {
                Grip::Whole => return charge.map_or(Ok(()), Charge::running),
                Grip::Broken => break,
                Grip::Holds => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], patience) {
                Ok(0) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
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
    use crate::ids::MachineId;
    use crate::migration::ledger::{Entry, Ledger};
    use crate::migration::protocol::Fate;
    use crate::testdir::TestDir;

    fn open() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn an_end_without_a_word_is_the_end() {
        let (tether, bringer) = Tether::new(open()).unwrap();
        assert_eq!(tether.look(), Grip::Holds);
        bringer.whole();
        assert_eq!(tether.look(), Grip::Whole);
        let (tether, bringer) = Tether::new(open()).unwrap();
        drop(bringer);
        assert_eq!(tether.look(), Grip::Broken);
    }

    #[test]
    fn what_is_written_down_is_what_was_said_last() {
        let dir = TestDir::new("tether");
        let ledger = Ledger::at(dir.join("migrations"));
        let arrived = |byte: u8| -> (Entry, Tether, Bringer) {
            let entry = ledger.begin(MachineId::from_bytes([byte; 16])).unwrap();
            let (tether, bringer) = Tether::new(open()).unwrap();
            let mut charge = entry.charge().unwrap();
            charge.going().and_then(|()| charge.coming()).unwrap();
            tether.charge(charge);
            (entry, tether, bringer)
        };
        // The receiver is killed right after it has said that all has come, before it could have said so to anybody else.
        let (entry, tether, bringer) = arrived(1);
        bringer.whole();
        drop(entry);
        assert_eq!(tether.look(), Grip::Whole);
        tether.note().unwrap();
        assert_eq!(ledger.settle(MachineId::from_bytes([1; 16])).unwrap(), Fate::Running);
        // And right before.
        let (entry, tether, bringer) = arrived(2);
        drop(bringer);
        assert_eq!(tether.look(), Grip::Broken);
        tether.close().unwrap();
        assert_eq!(entry.settle().unwrap(), Fate::Lost);
        // The machine ends by itself while the last of its memory is coming.
        let (entry, tether, bringer) = arrived(3);
        let saying = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            bringer.whole();
        });
        tether.close().unwrap();
        saying.join().unwrap();
        assert_eq!(entry.settle().unwrap(), Fate::Running);
    }
}
