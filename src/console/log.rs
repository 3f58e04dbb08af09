//! The log of a console that nobody looks at: bounded, one old one kept beside it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use vte::{Parser, Perform};

/// Where logs are.
pub const DIRECTORY: &str = "/var/log/osier";
/// So long a log gets before it becomes the old one.
pub const LONGEST: u64 = 1024 * 1024;

/// The log of the machine `name`'s console.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{name}.log"))
}

/// The one before it.
pub fn old(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A log that is written.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Goes on with the log at `path`.
    ///
    /// # Errors
    /// What mkdir(2) and open(2) give.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        }
        let file = open(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    /// The file that is written at present.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Adds what the console has written. What cannot be written (a full disk) is lost: no machine waits for its log.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.length >= LONGEST && self.turn_over().is_err() {
                return;
            }
            let room = usize::try_from(LONGEST - self.length).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if self.file.write_all(now).is_err() {
                return;
            }
            self.length += now.len() as u64;
            bytes = later;
        }
    }

    /// The log becomes the old one.
    fn turn_over(&mut self) -> io::Result<()> {
        match fs::rename(&self.path, old(&self.path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = open(&self.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }
}

/// A log that is read.
#[derive(Debug)]
pub struct Reading {
    path: PathBuf,
    file: File,
    news: OwnedFd,
}

impl Reading {
    /// The log at `path`, and its last `lines`, or all of them; the old one's come first.
    ///
    /// # Errors
    /// `NotFound` when there is no such log; what open(2), read(2) and inotify_add_watch(2) give.
    pub fn open(path: PathBuf, lines: Option<usize>) -> io::Result<(Self, Vec<u8>)> {
        let news = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&news, directory, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::ONLYDIR)?;
        let mut file = File::open(&path)?;
        let mut text = match fs::read(old(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            text => text?,
        };
        file.read_to_end(&mut text)?;
        let skipped = lines.map_or(0, |lines| start_of_last(&text, lines));
        Ok((Self { path, file, news }, text.split_off(skipped)))
    }

    /// Readable when something may have been added.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// What was added since, whatever became of the file meanwhile.
    ///
    /// # Errors
    /// What read(2) gives.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.news, &mut buffer);
        // Before the reading: what is added after it is news again.
        while events.next().is_ok() {}
        let mut text = Vec::new();
        self.file.read_to_end(&mut text)?;
        if let Ok(next) = File::open(&self.path)
            && !is_same(&next, &self.file)?
        {
            // It was turned over, and nothing is added to the old one any more: what is in it now is all.
            self.file.read_to_end(&mut text)?;
            // Turned over twice while nobody read: the one between.
            match File::open(old(&self.path)) {
                Ok(mut between) if !is_same(&between, &self.file)? => {
                    between.read_to_end(&mut text)?;
                }
                _ => {}
            }
            self.file = next;
            self.file.read_to_end(&mut text)?;
        }
        Ok(text)
    }
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn start_of_last(text: &[u8], lines: usize) -> usize {
    let whole = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = whole.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match lines {
        0 => text.len(),
        lines => ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0),
    }
}

/// Takes what is no text out of what a machine has written: on a terminal, escape sequences would be obeyed.
#[derive(Default)]
pub struct Plain(Parser);

impl Plain {
    /// The text in `bytes`, which go on where the last ones ended.
    pub fn of(&mut self, bytes: &[u8]) -> String {
        let mut text = Text(String::new());
        self.0.advance(&mut text, bytes);
        text.0
    }
}

struct Text(String);

impl Perform for Text {
    fn print(&mut self, char: char) {
        // C1 controls in UTF-8 are controls to some terminals; vte prints one whose bytes came apart.
        self.0.push(if char.is_control() { char::REPLACEMENT_CHARACTER } else { char });
    }

    fn execute(&mut self, byte: u8) {
        if matches!(byte, b'\n' | b'\t') {
            self.0.push(char::from(byte));
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_log_is_bounded_and_loses_nothing_of_the_last() {
        let directory = std::env::temp_dir().join(format!("osier-log-{}", std::process::id()));
        let path = directory.join("web.log");
        let mut log = Log::open(path.clone()).unwrap();
        let line = "0123456789abcde\n";
        for _ in 0..200 {
            log.write(line.repeat(1000).as_bytes());
        }
        let (new, before) = (fs::read(&path).unwrap(), fs::read(old(&path)).unwrap());
        assert_eq!(before.len() as u64, LONGEST);
        assert_eq!(before.len() + new.len() + 2 * 1024 * 1024, 200 * 1000 * line.len());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        let (mut reading, last) = Reading::open(path.clone(), Some(2)).unwrap();
        assert_eq!(last, line.repeat(2).as_bytes());
        let all = Reading::open(path.clone(), None).unwrap().1;
        assert_eq!(all.len(), before.len() + new.len());
        assert!(Reading::open(path.clone(), Some(0)).unwrap().1.is_empty());
        assert_eq!(reading.more().unwrap(), b"");
        // Through a turn and on.
        let rest = usize::try_from(LONGEST).unwrap() - new.len() + 7;
        log.write("x".repeat(rest).as_bytes());
        assert_eq!(reading.more().unwrap(), "x".repeat(rest).as_bytes());
        assert_eq!(fs::read(&path).unwrap().len(), 7);
        log.write(b"more");
        assert_eq!(reading.more().unwrap(), b"more");
        drop(log);
        Log::open(path.clone()).unwrap().write(b"and on");
        assert!(fs::read(&path).unwrap().ends_with(b"and on"));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_terminal_is_shown_text_alone() {
        let mut plain = Plain::default();
        let bytes = "one\r\n\x1b[31mred\x1b[m\ttab\x07\x1b]0;title\x07 gr\u{fc}n\u{9b}2J\n".as_bytes();
        let (first, second) = bytes.split_at(7);
        let text = plain.of(first) + &plain.of(second);
        assert_eq!(text, "one\nred\ttab gr\u{fc}n2J\n");
    }
}
