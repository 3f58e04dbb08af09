//! What became of the machines that were sent here: one small file each, renamed from one state to the next.
//!
//! rename(2) decides who comes first: the receiver that has read `Go` and lets the machine run, or the source that has heard
//! nothing, asks over another link and is promised that it never will.

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
const GOING: &str = "going";
const RUNNING: &str = "running";
const GONE: &str = "gone";
/// It runs, and a part of its memory has still to come.
const COMING: &str = "coming";
/// It ran, and that part never came.
const LOST: &str = "lost";

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

/// A machine that is being received. Dropped, it is gone, or lost when it ran.
#[derive(Debug)]
pub struct Entry {
    ledger: Ledger,
    id: MachineId,
    state: &'static str,
    /// Forked children have a copy of this, and it is not for them to say that it is gone.
    owner: u32,
    /// Locked by flock(2) as long as somebody receives it.
    _file: File,
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
        if [GOING, COMING, RUNNING, LOST, GONE].iter().any(|state| self.path(id, state).exists()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = File::create_new(self.path(id, PENDING))?;
        file.lock()?;
        Ok(Entry { ledger: self.clone(), id, state: PENDING, owner: std::process::id(), _file: file })
    }

    /// What became of the machine of this migration. One that does not run yet never will after this.
    ///
    /// # Errors
    /// What rename(2) gives; `TimedOut` for one that is just about to run and does not come to it.
    pub fn settle(&self, id: MachineId) -> io::Result<Fate> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.path(id, RUNNING).exists() {
                return Ok(Fate::Running);
            }
            if self.path(id, GONE).exists() {
                return Ok(Fate::Gone);
            }
            if self.path(id, LOST).exists() {
                return Ok(Fate::Lost);
            }
            match fs::rename(self.path(id, PENDING), self.path(id, GONE)) {
                Ok(()) => return Ok(Fate::Gone),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // In the order in which one becomes another.
            match [GOING, COMING, RUNNING, LOST].iter().find(|state| self.path(id, state).exists()) {
                // Whoever brought the rest of its memory was killed, and has taken that along.
                Some(&COMING) if self.is_deserted(id) => {
                    match fs::rename(self.path(id, COMING), self.path(id, LOST)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => continue,
                    }
                }
                Some(&(GOING | COMING)) => {}
                Some(_) => continue,
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

    fn is_deserted(&self, id: MachineId) -> bool {
        File::open(self.path(id, COMING)).is_ok_and(|file| file.try_lock().is_ok())
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
    extension.is_some_and(|state| [PENDING, GOING, COMING, RUNNING, LOST, GONE].contains(&state))
}

impl Entry {
    /// The source has given it away.
    ///
    /// # Errors
    /// `NotFound` when it was promised meanwhile that it never runs here.
    pub fn going(&mut self) -> io::Result<()> {
        self.become_one(GOING)
    }

    /// It is about to run, and a part of its memory comes later.
    ///
    /// # Errors
    /// What rename(2) gives.
    pub fn coming(&mut self) -> io::Result<()> {
        self.become_one(COMING)
    }

    /// It runs.
    ///
    /// # Errors
    /// What rename(2) gives.
    pub fn running(mut self) -> io::Result<()> {
        self.become_one(RUNNING)
    }

    fn become_one(&mut self, state: &'static str) -> io::Result<()> {
        fs::rename(self.ledger.path(self.id, self.state), self.ledger.path(self.id, state))?;
        self.state = state;
        Ok(())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.state != RUNNING && self.owner == std::process::id() {
            let end = if self.state == COMING { LOST } else { GONE };
            let _ = fs::rename(self.ledger.path(self.id, self.state), self.ledger.path(self.id, end));
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
        let mut entry = ledger.begin(id(1)).unwrap();
        assert_eq!(ledger.settle(id(1)).unwrap(), Fate::Gone);
        assert_eq!(entry.going().unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(entry);
        // And after it.
        let mut entry = ledger.begin(id(2)).unwrap();
        entry.going().unwrap();
        entry.running().unwrap();
        assert_eq!(ledger.settle(id(2)).unwrap(), Fate::Running);
        // What broke off is gone, and what was never heard of.
        drop(ledger.begin(id(3)).unwrap());
        assert_eq!(ledger.settle(id(3)).unwrap(), Fate::Gone);
        assert_eq!(ledger.settle(id(4)).unwrap(), Fate::Gone);
        // And what ran without all of its memory.
        let mut entry = ledger.begin(id(5)).unwrap();
        entry.going().unwrap();
        entry.coming().unwrap();
        drop(entry);
        assert_eq!(ledger.settle(id(5)).unwrap(), Fate::Lost);
        let mut entry = ledger.begin(id(6)).unwrap();
        entry.going().unwrap();
        entry.coming().unwrap();
        // As one that is killed.
        entry.owner = 0;
        drop(entry);
        assert_eq!(ledger.settle(id(6)).unwrap(), Fate::Lost);
        for byte in 1..=6 {
            assert_eq!(ledger.begin(id(byte)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn what_is_about_to_run_is_waited_for() {
        let dir = TestDir::new("ledger-going");
        let ledger = Ledger::at(dir.join("migrations"));
        let mut entry = ledger.begin(id(1)).unwrap();
        entry.going().unwrap();
        let asked = {
            let ledger = ledger.clone();
            thread::spawn(move || ledger.settle(id(1)))
        };
        thread::sleep(Duration::from_millis(50));
        entry.running().unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), Fate::Running);
    }
}
