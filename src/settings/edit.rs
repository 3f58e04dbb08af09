//! Keys of `[X-Osier]` written into a settings file: what they were is replaced where it stood, and everything else stays
//! byte for byte as it was.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::ini::{self, Malformed};
use super::nspawn::OWN;

/// So long somebody else may take to write a file.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked whether they have.
const PACE: Duration = Duration::from_millis(10);

/// `text` with these assignments in its `[X-Osier]`. Of a key whose values begin with a device (`IO…`), the one of the same
/// device is replaced.
///
/// # Errors
/// A line that is none: nobody can say what it is part of.
pub fn assign(text: &str, assignments: &[(&str, String)]) -> Result<String, Malformed> {
    let mut text = text.to_owned();
    for (key, value) in assignments {
        text = assign_one(&text, key, value)?;
    }
    Ok(text)
}

fn assign_one(text: &str, key: &str, value: &str) -> Result<String, Malformed> {
    let subject = |value: &str| match key.starts_with("IO") && key != "IOWeight" {
        true => value.split_whitespace().next().map(str::to_owned),
        false => None,
    };
    let mut before = ini::parse(text)?;
    before.retain(|one| one.section == OWN && one.key == key && subject(&one.value) == subject(value));
    let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
    let line = format!("{key}={value}\n");
    if let Some(first) = before.first() {
        let at = first.line - 1;
        for one in before.iter().rev() {
            lines.drain(one.line - 1..one.last);
        }
        lines.insert(at, line);
        return Ok(lines.concat());
    }
    if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
        last.push('\n');
    }
    match lines.iter().rposition(|line| line.trim() == format!("[{OWN}]")) {
        Some(section) => lines.insert(end_of(&lines, section), line),
        None => {
            let gap = if lines.is_empty() { "" } else { "\n" };
            lines.push(format!("{gap}[{OWN}]\n{line}"));
        }
    }
    Ok(lines.concat())
}

/// After the last line of a section that is not blank.
fn end_of(lines: &[String], section: usize) -> usize {
    let after = &lines[section + 1..];
    let length = after.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(after.len());
    let used = after[..length].iter().rposition(|line| !line.trim().is_empty()).map_or(0, |at| at + 1);
    section + 1 + used
}

/// A settings file that nobody else changes meanwhile: of two `osier set` at once each reads what the other wrote.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    /// The directory, locked (man 2 flock) until this is closed.
    _lock: File,
    /// The directory, where it was made for this and nothing is in it yet.
    made: Option<PathBuf>,
}

/// A file's new content beside it, to take its place: everybody sees the old one or the new one, whole.
#[derive(Debug)]
pub struct Replacement {
    held: Held,
    beside: PathBuf,
}

impl Held {
    /// Waits for the file at `path`, which need not be there; its directory is made.
    ///
    /// # Errors
    /// What mkdir(2), open(2) and flock(2) give.
    pub fn take(path: &Path) -> io::Result<Self> {
        // Of a link, what it leads to: the administrator keeps the file elsewhere.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let made = (!directory.exists()).then(|| directory.to_owned());
        fs::create_dir_all(directory)?;
        let lock = File::open(directory)?;
        // Whoever can read the directory can lock it too, and keep it.
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::WouldBlock if Instant::now() < deadline => std::thread::sleep(PACE),
                TryLockError::WouldBlock => return Err(io::Error::from_raw_os_error(libc::EBUSY)),
                TryLockError::Error(error) => return Err(error),
            }
        }
        Ok(Self { path, _lock: lock, made })
    }

    /// Writes `text` beside the file, with the mode and owner of what is there.
    ///
    /// # Errors
    /// What open(2), write(2) and fsync(2) give.
    pub fn replace(self, text: &str) -> io::Result<Replacement> {
        let name = self.path.file_name().unwrap_or_default().display().to_string();
        let beside = self.path.with_file_name(format!(".{name}.new"));
        // Of somebody who was killed on the way: the lock says that nobody is any more.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::create_new(&beside)?;
        let replacement = Replacement { held: self, beside };
        match fs::metadata(&replacement.held.path) {
            Ok(old) => {
                file.set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
            Err(_) => file.set_permissions(Permissions::from_mode(0o644))?,
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(replacement)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Not what somebody has put something into.
        let _ = self.made.as_ref().map(fs::remove_dir);
    }
}

impl Replacement {
    /// Puts it in the file's place.
    ///
    /// # Errors
    /// What rename(2) gives.
    pub fn commit(mut self) -> io::Result<()> {
        let beside = std::mem::take(&mut self.beside);
        fs::rename(&beside, &self.held.path).inspect_err(|_| self.beside = beside)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.beside.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(text: &str, key: &str, value: &str) -> String {
        assign(text, &[(key, value.to_owned())]).unwrap()
    }

    #[test]
    fn a_key_takes_its_old_place_and_the_rest_stays() {
        let text = "# mine\n[X-Osier]\n; why\nMemoryMax = 1G\nTasksMax=\\\n  5\n\n[Files]\nBind=/a\n";
        let expected = "# mine\n[X-Osier]\n; why\nMemoryMax=2G\nTasksMax=\\\n  5\n\n[Files]\nBind=/a\n";
        assert_eq!(assigned(text, "MemoryMax", "2G"), expected);
        let expected = "# mine\n[X-Osier]\n; why\nMemoryMax = 1G\nTasksMax=7\n\n[Files]\nBind=/a\n";
        assert_eq!(assigned(text, "TasksMax", "7"), expected);
        let expected =
            "# mine\n[X-Osier]\n; why\nMemoryMax = 1G\nTasksMax=\\\n  5\nCPUQuota=50%\n\n[Files]\nBind=/a\n";
        assert_eq!(assigned(text, "CPUQuota", "50%"), expected);
        let twice = "[X-Osier]\nMemoryMax=1\n[Exec]\nUser=a\n[X-Osier]\nMemoryMax=2\n";
        assert_eq!(assigned(twice, "MemoryMax", "3"), "[X-Osier]\nMemoryMax=3\n[Exec]\nUser=a\n[X-Osier]\n");
    }

    #[test]
    fn a_section_is_made_where_there_is_none() {
        assert_eq!(assigned("", "MemoryMax", "2G"), "[X-Osier]\nMemoryMax=2G\n");
        assert_eq!(
            assigned("[Exec]\nUser=a", "MemoryMax", "2G"),
            "[Exec]\nUser=a\n\n[X-Osier]\nMemoryMax=2G\n"
        );
        assert_eq!(assigned("[X-Osier]\n[Exec]\n", "A", "1"), "[X-Osier]\nA=1\n[Exec]\n");
    }

    #[test]
    fn each_device_has_a_line_of_its_own() {
        let text = "[X-Osier]\nIOReadBandwidthMax=/dev/vda 1M\nIOReadBandwidthMax=/dev/vdb 1M\n";
        let expected = "[X-Osier]\nIOReadBandwidthMax=/dev/vda 1M\nIOReadBandwidthMax=/dev/vdb 5M\nIOReadBandwidthMax=/dev/vdc 1M\n";
        let some = [
            ("IOReadBandwidthMax", "/dev/vdb 5M".to_owned()),
            ("IOReadBandwidthMax", "/dev/vdc 1M".to_owned()),
        ];
        assert_eq!(assign(text, &some).unwrap(), expected);
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let directory = std::env::temp_dir().join(format!("osier-edit-{}", std::process::id()));
        let path = directory.join("nspawn/web.nspawn");
        let replace = |text| Held::take(&path).unwrap().replace(text).unwrap();
        drop(replace("none"));
        assert!(!path.parent().unwrap().exists(), "it was made for this");
        replace("one").commit().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        drop(replace("two"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        replace("three").commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        // Four at once, each with a line of its own.
        std::thread::scope(|scope| {
            for key in ["A", "B", "C", "D"] {
                let path = &path;
                scope.spawn(move || {
                    let held = Held::take(path).unwrap();
                    let text = fs::read_to_string(path).unwrap();
                    let text = assigned(text.trim_start_matches("three"), key, "1");
                    held.replace(&text).unwrap().commit().unwrap();
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }
}
