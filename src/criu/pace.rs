//! How long CRIU will take.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::Criu;

/// Of what was measured of a restore, this much is what any takes from the time namespace on: links, rules, what waits for the
/// kernel's readers (RCU).
const ANY: Duration = Duration::from_millis(90);
/// A tmpfs: a tar(1) is started for each.
const TMPFS: Duration = Duration::from_millis(4);
/// A task.
const TASK: Duration = Duration::from_millis(10);
/// Where this was measured CRIU started and answered in this time.
const STARTUP: Duration = Duration::from_millis(10);
/// So much faster or slower than that no host is taken for.
const SLOWNESS: (f64, f64) = (0.5, 8.0);
/// Bytes of memory that are read in a millisecond: they have just been written, or looked at.
const READ: u64 = 2 << 20;
/// A machine does not wait for longer: its clocks are ahead by the rest.
const LONGEST: Duration = Duration::from_secs(2);

impl Criu {
    /// The time from when the clocks of what is in `images` are made until its tasks can run, as a rule not less than it turns out to
    /// be. A wrong guess is late or waits; nothing depends on it.
    ///
    /// # Errors
    /// What reading the directory gives.
    pub fn lead(&self, images: &Path) -> io::Result<Duration> {
        let (mut tasks, mut tmpfs, mut memory) = (0, 0, 0);
        for entry in fs::read_dir(images)? {
            let entry = entry?;
            match entry.file_name().to_string_lossy().split_once('-') {
                Some(("core", _)) => tasks += 1,
                Some(("tmpfs", _)) => tmpfs += 1,
                Some(("pages", _)) => memory += fs::metadata(entry.path())?.len(),
                _ => {}
            }
        }
        let slowness = self.startup.div_duration_f64(STARTUP).clamp(SLOWNESS.0, SLOWNESS.1);
        let work = (ANY + TMPFS * tmpfs + TASK * tasks).mul_f64(slowness);
        Ok(LONGEST.min(work + Duration::from_millis(memory / READ)))
    }
}
