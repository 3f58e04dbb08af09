//! How much room a checkpoint needs, and how much there is: asked before the machine is stopped for it.

use std::fs;
use std::io;
use std::path::Path;

use libmount::mountinfo::Parser;

use super::cause::{At, Cause, CheckpointError, Of};
use super::draft::{Form, parent};

/// What CRIU writes of a process beside its memory, about, bytes.
const PER_PROCESS: u64 = 64 << 10;
/// What it writes of a machine without any process, about, bytes.
const AT_LEAST: u64 = 1 << 20;

/// About how many bytes the images of these processes will have, with the content of every tmpfs that the first of them
/// sees; the pids are the host's.
///
/// Counted is what is nowhere else: anonymous memory, in RAM or swapped out, of each process that has it (CRIU writes what two
/// share after a fork twice), and shared memory once. A process that has ended has none.
pub fn estimate(pids: &[u32]) -> u64 {
    let memory: u64 = pids.iter().map(|pid| PER_PROCESS + memory(*pid)).sum();
    AT_LEAST + memory + pids.first().map_or(0, |leader| temporary(*leader))
}

/// proc_pid_smaps(5): lines of `Key: N kB`.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let counted = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let counts = ["Anonymous", "Swap", "Pss_Shmem"].contains(&key);
        counts.then(|| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).flatten()
    });
    counted.sum::<u64>() << 10
}

/// What is in the tmpfs mounts of the machine: CRIU's images have their files.
fn temporary(leader: u32) -> u64 {
    let text = fs::read(format!("/proc/{leader}/mountinfo")).unwrap_or_default();
    let mounts = Parser::new(&text).flatten().filter(|mount| &*mount.fstype == "tmpfs");
    // A bind of a tmpfs is the same one again.
    let mut seen = Vec::new();
    let mut sum = 0;
    for mount in mounts {
        if seen.contains(&(mount.major, mount.minor)) {
            continue;
        }
        seen.push((mount.major, mount.minor));
        let point = Path::new(&*mount.mount_point).strip_prefix("/").unwrap_or(Path::new("")).to_owned();
        if let Ok(stat) = rustix::fs::statvfs(Path::new(&format!("/proc/{leader}/root")).join(point)) {
            sum += (stat.f_blocks - stat.f_bfree) * stat.f_frsize;
        }
    }
    sum
}

/// So many bytes may still be written to the file system that `path` is in.
///
/// # Errors
/// What statvfs(3) gives.
pub fn free(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Refuses to begin a checkpoint `target` with so many bytes of images when there is no room for it.
///
/// # Errors
/// [`Cause::NoRoom`]; [`Cause::Io`] when the directory is not there.
pub fn require(target: &Path, form: Form, images: u64) -> Result<(), CheckpointError> {
    // The images are there when the file is made of them.
    let needed = match form {
        Form::Directory => images,
        Form::File(_) => images.saturating_mul(2),
    };
    let parent = parent(target);
    let free = free(&parent).at(&parent).writing(target)?;
    if needed > free { Err(Cause::NoRoom { needed, free }).writing(target) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    #[test]
    fn memory_is_counted() {
        let before = estimate(&[std::process::id()]);
        let memory = vec![1_u8; 64 << 20];
        let after = estimate(&[std::process::id()]);
        assert!(after > before + (60 << 20), "{before} {after} {}", memory.len());
        assert_eq!(estimate(&[u32::MAX]), AT_LEAST + PER_PROCESS);
    }

    #[test]
    fn too_much_is_refused_before_anything_is_written() {
        let dir = TestDir::new("checkpoint-room");
        require(&dir.join("web"), Form::Directory, 1).unwrap();
        let free = free(dir.path()).unwrap();
        require(&dir.join("web.osier"), Form::of(Path::new("x.osier")), free / 4).unwrap();
        let error = require(&dir.join("web.osier"), Form::of(Path::new("x.osier")), free).unwrap_err();
        assert!(matches!(error.cause, Cause::NoRoom { .. }));
        let error = crate::error::Error::from(error);
        let text = error.to_string();
        assert!(text.contains("no room: it needs about") && text.contains("are free"), "{text}");
        assert!(error.hint_text().unwrap().contains("make room"));
        assert!(require(&dir.join("none/web"), Form::Directory, 1).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
