//! What a machine may use by now: the settings that it was started with, and the limits that were set since.
//!
//! Who reads them is the kernel, not a list of who asked for what: `osier set`, `systemctl set-property` and a file written by hand
//! count alike. A limit that was lifted since is said as well, or it would come back.

use std::path::Path;

use serde_json::Value;

use crate::bus::systemd::TASKS;
use crate::cgroup::limits::{self, Limit};
use crate::settings::{LimitSetting, Setting, Settings};
use crate::spec::MachineSpec;

/// Who has made a machine's cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// systemd, as a unit's.
    Unit,
    /// osier.
    Osier,
}

/// `settings` with the limits that `cgroup`, the machine's own, holds otherwise than they say.
pub(super) fn noted(settings: &Value, cgroup: &Path, maker: Maker) -> Value {
    // What cannot be read here is refused where it is to be used.
    let Ok(said) = serde_json::from_value::<Settings>(settings.clone()) else { return settings.clone() };
    let mut expected = MachineSpec::resolve_limits(&said).unwrap_or_default();
    if maker == Maker::Unit && !expected.iter().any(|limit| matches!(limit, Limit::PidsMax(_))) {
        expected.push(Limit::PidsMax(Some(TASKS)));
    }
    let mut now = said;
    for (key, file, value) in limits::changed(&expected, cgroup) {
        now.limits.push(LimitSetting { key, setting: Setting::flag(file, value) });
    }
    serde_json::to_value(now).unwrap_or_else(|_| settings.clone())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::limits::Key;
    use crate::testdir::TestDir;

    fn amounts(noted: &Value) -> Vec<Limit> {
        MachineSpec::resolve_limits(&serde_json::from_value(noted.clone()).unwrap()).unwrap()
    }

    #[test]
    fn what_was_set_since_is_said_and_what_was_lifted_too() {
        let cgroup = TestDir::new("allowance");
        let set = |file: &str, text: &str| fs::write(cgroup.join(file), format!("{text}\n")).unwrap();
        for (file, text) in [
            ("memory.max", "104857600"),
            ("memory.high", "max"),
            ("cpu.max", "max 100000"),
            ("cpu.weight", "100"),
            ("pids.max", "16384"),
            ("io.max", ""),
            ("cpuset.cpus", ""),
        ] {
            set(file, text);
        }
        let said = |key, text: &str| LimitSetting { key, setting: Setting::flag("--limit", text) };
        let limits = vec![said(Key::MemoryMax, "100M"), said(Key::Cpus, "max")];
        let settings = serde_json::to_value(Settings { limits, ..Settings::default() }).unwrap();
        assert_eq!(noted(&settings, cgroup.path(), Maker::Unit), settings);
        // Without a unit nobody has limited its tasks.
        assert!(
            amounts(&noted(&settings, cgroup.path(), Maker::Osier)).contains(&Limit::PidsMax(Some(16384)))
        );

        set("memory.max", "max");
        set("cpu.max", "150000 100000");
        set("pids.max", "max");
        set("io.max", "8:0 rbps=2097152 wbps=max riops=max wiops=max");
        set("cpuset.cpus", "0");
        let now = amounts(&noted(&settings, cgroup.path(), Maker::Unit));
        let words: Vec<_> = now.iter().map(ToString::to_string).collect();
        for word in [
            "memory.max=max",
            "cpu.max=150%",
            "pids.max=max",
            "io.max=/dev/block/8:0 rbps=2M",
            "cpuset.cpus=0",
        ] {
            assert!(words.iter().any(|found| found == word), "{word}: {words:?}");
        }
        assert!(!words.iter().any(|word| word.starts_with("cpu.weight")), "{words:?}");
        // Once more from there it is nothing new.
        let noted_once = noted(&settings, cgroup.path(), Maker::Unit);
        assert_eq!(noted(&noted_once, cgroup.path(), Maker::Unit), noted_once);
        // A disk that is limited no more.
        set("io.max", "");
        let lifted = amounts(&noted(&noted_once, cgroup.path(), Maker::Unit));
        assert!(lifted.iter().all(|limit| !matches!(limit, Limit::Io(_, _, Some(_)))), "{lifted:?}");
    }
}
