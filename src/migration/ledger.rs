//! What became of the machines that were sent here: one small file each, renamed from one state to the next.
//!
//! ```text
//! pending ──the supervisor has `Go`──▶ going ──▶ running         or, with post-copy, going ──▶ coming ──▶ running
//!    └──────▶ gone                       └────────────────▶ lost ◀───────────────────────────────┘
//! ```
//!
//! rename(2) decides who comes first: the supervisor that was told `Go` and lets the machine run, or the source that has heard
//! nothing, asks over another link and is promised that it never will. From `going` on the supervisor alone says what has become of it,
//! and holds a lock: who dies before it has said so has taken the machine along, and nobody knows how far that had come.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::protocol::Fate;
use crate::ids::MachineId;

/// Where the files are: not below /run, for a source may ask after this host has been restarted.
pub const DIRECTORY: &str = "/var/lib/osier/migrations";
/// After so long nobody asks any more.
const OLD: Duration = Duration::from_secs(30 * 86_400);
/// How long a machine may take from `Go` to running.
const PATIENCE: Duration = Duration::from_secs(30);

/// The states, as the files are called.
const PENDING: &str = "pending";
/// It may run by now.
const GOING: &str = "going";
/// It runs, and a part of its memory has still to come.
const COMING: &str = "coming";
const RUNNING: &str = "running";
/// It may have run, and has ended before it was this host's altogether.
const LOST: &str = "lost";
const GONE: &str = "gone";
/// In the order in which one becomes another, but for the first.
const LATER: [&str; 5] = [GOING, COMING, RUNNING, LOST, GONE];

/// The files.
#[derive(Debug, Clone)]
pub struct Ledger {
    directory: PathBuf,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::at(DIRECTORY)
    }
}

/// A machine that is being received. Dropped, it never runs, if it does not yet.
#[derive(Debug)]
pub struct Entry {
    ledger: Ledger,
    id: MachineId,
    /// Forked children have a copy of this, and it is not for them to say that it is gone.
    owner: u32,
}

/// The supervisor's part of an [`Entry`]. Dropped before all of the machine is this host's, but after [`Charge::going`], it is lost.
#[derive(Debug)]
pub struct Charge {
    ledger: Ledger,
    id: MachineId,
    state: &'static str,
    /// Who said [`Charge::going`].
    owner: u32,
    /// Locked by flock(2).
    _lock: File,
}

impl Ledger {
    /// The files in `directory`; [`DIRECTORY`] but in tests.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn path(&self, id: MachineId, state: &str) -> PathBuf {
        self.directory.join(format!("{id}.{state}"))
    }

    /// Begins to receive the machine of this migration. Forgets those of which nobody will ask.
    ///
    /// # Errors
    /// `AlreadyExists` for one that was there before: what has been promised of it holds.
    pub fn begin(&self, id: MachineId) -> io::Result<Entry> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        self.forget();
        if LATER.iter().any(|state| self.path(id, state).exists()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        File::create_new(self.path(id, PENDING))?;
        Ok(Entry { ledger: self.clone(), id, owner: std::process::id() })
    }

    /// What became of the machine of this migration. One that does not run yet never will after this.
    ///
    /// # Errors
    /// What rename(2) gives; `TimedOut` for one that is just about to run and does not come to it.
    pub fn settle(&self, id: MachineId) -> io::Result<Fate> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::rename(self.path(id, PENDING), self.path(id, GONE)) {
                Ok(()) => return Ok(Fate::Gone),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match LATER.into_iter().find(|state| self.path(id, state).exists()) {
                Some(RUNNING) => return Ok(Fate::Running),
                Some(GONE) => return Ok(Fate::Gone),
                Some(LOST) => return Ok(Fate::Lost),
                Some(state) if self.is_deserted(id, state) => {
                    match fs::rename(self.path(id, state), self.path(id, LOST)) {
                        // Somebody else who asked was quicker.
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => continue,
                    }
                }
                Some(_) => {}
                None => {
                    // Never heard of.
                    File::create(self.path(id, GONE))?;
                    continue;
                }
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its supervisor was killed, and has taken it along.
    fn is_deserted(&self, id: MachineId, state: &str) -> bool {
        File::open(self.path(id, state)).is_ok_and(|file| file.try_lock().is_ok())
    }

    fn forget(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let age = entry
                .metadata()
                .and_then(|found| found.modified())
                .map(|then| SystemTime::now().duration_since(then));
            if matches!(age, Ok(Ok(age)) if age > OLD) && is_state(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn is_state(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|state| state == PENDING || LATER.contains(&state))
}

impl Entry {
    /// The part of whoever lets it run.
    ///
    /// # Errors
    /// `NotFound` when it was promised meanwhile that it never runs here; what flock(2) gives.
    pub fn charge(&self) -> io::Result<Charge> {
        let lock = File::open(self.ledger.path(self.id, PENDING))?;
        lock.lock()?;
        let (ledger, id) = (self.ledger.clone(), self.id);
        Ok(Charge { ledger, id, state: PENDING, owner: 0, _lock: lock })
    }

    /// What has become of it: as [`Ledger::settle`].
    ///
    /// # Errors
    /// As [`Ledger::settle`].
    pub fn settle(&self) -> io::Result<Fate> {
        self.ledger.settle(self.id)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = fs::rename(self.ledger.path(self.id, PENDING), self.ledger.path(self.id, GONE));
        }
    }
}

impl Charge {
    /// The source has given it away, and it is about to run.
    ///
    /// # Errors
    /// `NotFound` when it was promised meanwhile that it never runs here.
    pub fn going(&mut self) -> io::Result<()> {
        self.become_one(GOING)?;
        self.owner = std::process::id();
        Ok(())
    }

    /// It runs, and a part of its memory comes later.
    ///
    /// # Errors
    /// What rename(2) gives.
    pub fn coming(&mut self) -> io::Result<()> {
        self.become_one(COMING)
    }

    /// It runs, and all of it is here.
    ///
    /// # Errors
    /// What rename(2) gives. Nobody is told anything then for as long as this process lives.
    pub fn running(mut self) -> io::Result<()> {
        // Nobody is to take the lock of one that does run for free.
        self.become_one(RUNNING).inspect_err(|_| std::mem::forget(self))
    }

    fn become_one(&mut self, state: &'static str) -> io::Result<()> {
        fs::rename(self.ledger.path(self.id, self.state), self.ledger.path(self.id, state))?;
        self.state = state;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if [GOING, COMING].contains(&self.state) && self.owner == std::process::id() {
            let _ = fs::rename(self.ledger.path(self.id, self.state), self.ledger.path(self.id, LOST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn id(byte: u8) -> MachineId {
        MachineId::from_bytes([byte; 16])
    }

    #[test]
    fn who_comes_first_decides() {
        let dir = TestDir::new("ledger");
        let ledger = Ledger::at(dir.join("migrations"));
        // The source asks before `Go` was read.
        let entry = ledger.begin(id(1)).unwrap();
        let mut charge = entry.charge().unwrap();
        assert_eq!(ledger.settle(id(1)).unwrap(), Fate::Gone);
        assert_eq!(charge.going().unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(charge);
        assert_eq!(entry.settle().unwrap(), Fate::Gone);
        // And after it; the receiver's end is nothing to it then.
        let entry = ledger.begin(id(2)).unwrap();
        let mut charge = entry.charge().unwrap();
        charge.going().unwrap();
        drop(entry);
        charge.running().unwrap();
        assert_eq!(ledger.settle(id(2)).unwrap(), Fate::Running);
        // What broke off is gone, and what was never heard of.
        let entry = ledger.begin(id(3)).unwrap();
        let mut charge = entry.charge().unwrap();
        drop(entry);
        assert!(charge.going().is_err());
        assert_eq!(ledger.settle(id(3)).unwrap(), Fate::Gone);
        assert_eq!(ledger.settle(id(4)).unwrap(), Fate::Gone);
        for byte in 1..=4 {
            assert_eq!(ledger.begin(id(byte)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn who_may_have_run_is_lost() {
        let dir = TestDir::new("ledger-lost");
        let ledger = Ledger::at(dir.join("migrations"));
        let begun = |byte, comes| {
            let entry = ledger.begin(id(byte)).unwrap();
            let mut charge = entry.charge().unwrap();
            charge.going().unwrap();
            if comes {
                charge.coming().unwrap();
            }
            (entry, charge)
        };
        for (byte, comes) in [(1, false), (2, true)] {
            // It gave up; and another one was killed.
            drop(begun(byte, comes));
            assert_eq!(ledger.settle(id(byte)).unwrap(), Fate::Lost);
            let (entry, mut charge) = begun(byte + 2, comes);
            charge.owner = 0;
            drop(charge);
            assert_eq!(entry.settle().unwrap(), Fate::Lost);
        }
        // A copy in a forked child says nothing.
        let (entry, charge) = begun(5, true);
        let lock = charge._lock.try_clone().unwrap();
        drop(Charge { ledger: ledger.clone(), id: id(5), state: COMING, owner: 0, _lock: lock });
        charge.running().unwrap();
        assert_eq!(entry.settle().unwrap(), Fate::Running);
    }

    #[test]
    fn what_is_about_to_run_is_waited_for() {
        let dir = TestDir::new("ledger-going");
        let ledger = Ledger::at(dir.join("migrations"));
        let entry = ledger.begin(id(1)).unwrap();
        let mut charge = entry.charge().unwrap();
        charge.going().unwrap();
        let asked = {
            let ledger = ledger.clone();
            thread::spawn(move || ledger.settle(id(1)))
        };
        thread::sleep(Duration::from_millis(50));
        charge.coming().unwrap();
        thread::sleep(Duration::from_millis(50));
        charge.running().unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), Fate::Running);
    }
}
