//! What a machine that is gone may not have left: process, cgroup, link, record, lock, mount, directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use osier::mount::table;

/// Where cgroup2 is mounted.
pub(crate) fn cgroup2() -> PathBuf {
    table::find_whole(&table::read().unwrap(), "cgroup2").unwrap().expect("cgroup2 is mounted")
}

/// The directory of a machine's cgroup; the same with systemd and without.
pub(crate) fn cgroup(name: &str) -> PathBuf {
    cgroup2().join("machine.slice").join(format!("machine-{}.scope", name.replace('-', r"\x2d")))
}

/// The host's end of its link.
pub(crate) fn link(name: &str) -> PathBuf {
    let (link, _) = osier::net::host_ifname(&name.parse().unwrap());
    Path::new("/sys/class/net").join(link)
}

/// Everything that is there of the machine `name` that runs, or ran, from `tree`.
pub(crate) fn of(name: &str, tree: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in paths(name, tree) {
        if path.symlink_metadata().is_ok() {
            found.push(path.display().to_string());
        }
    }
    // Wherever it is, and whichever way its name is written.
    directories(&cgroup2(), &mut |path, directory| {
        if directory.contains(&format!("machine-{name}.")) || path == cgroup(name) {
            found.push(path.display().to_string());
        }
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| is_of(line, name, tree)).map(|line| format!("mount {line}")));
    found.extend(processes(name, tree));
    found
}

/// Whether a line of mountinfo is a mount of the machine's. A tree that many share is beneath the layers of others' tests too, which are
/// mounted in their directories.
fn is_of(line: &str, name: &str, tree: &Path) -> bool {
    let tree = tree.to_string_lossy();
    let target = line.split(' ').nth(4).unwrap();
    if target.contains("/osier-t-dir-") && !target.contains(&*tree) {
        return target.split('/').any(|part| part == name);
    }
    line.contains(&*tree) || line.split([' ', '/']).any(|part| part == name)
}

fn paths(name: &str, tree: &Path) -> Vec<PathBuf> {
    let records = Path::new("/run/osier/machines");
    let mut paths = vec![
        records.join(format!("{name}.json")),
        records.join(format!(".{name}.json.new")),
        Path::new("/run/osier/console").join(name),
        Path::new("/run/systemd/nspawn/propagate").join(name),
        link(name),
        tree.with_file_name(format!(".#{}.lck", tree.file_name().unwrap().display())),
    ];
    if let Ok(stat) = tree.metadata() {
        let lock = format!("inode-{}:{}", stat.dev(), stat.ino());
        paths.push(Path::new("/run/systemd/nspawn/locks").join(lock));
    }
    paths
}

fn directories(above: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(&entry.path(), &entry.file_name().to_string_lossy());
            directories(&entry.path(), look);
        }
    }
}

/// Logs of a CRIU that has failed, which stay.
pub(crate) fn logs(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(osier::console::log::DIRECTORY);
    let paths = [format!("{name}.criu.log"), format!("{name}.lazy-pages.criu.log")];
    paths.into_iter().map(|log| directory.join(log)).filter(|log| log.exists()).collect()
}

/// Processes in its cgroup, supervisors that were started for its tree under its name, and who brings its memory.
fn processes(name: &str, tree: &Path) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.file_name().is_some_and(|pid| pid.as_encoded_bytes()[0].is_ascii_digit()))
        .filter(|path| !path.ends_with(&own))
        .filter_map(|path| {
            let read =
                |file| String::from_utf8_lossy(&fs::read(path.join(file)).unwrap_or_default()).into_owned();
            let (cgroup, line) = (read("cgroup"), read("cmdline"));
            // Whoever adopted it has not waited for it yet: nothing of it is left but its status.
            if read("status").contains("\nState:\tZ") {
                return None;
            }
            let in_cgroup = cgroup.contains(&format!("machine-{name}.scope"));
            let supervises =
                line.contains(&*tree.to_string_lossy()) && line.contains("osier") && line.contains(name);
            // `criu lazy-pages`, by its log.
            let brings = line.contains(&format!("/{name}.lazy-pages."));
            (in_cgroup || supervises || brings)
                .then(|| format!("process {} {}", path.display(), line.replace('\0', " ")))
        })
        .collect()
}

/// Fails with the list of what there is.
pub(crate) fn assert_none(name: &str, tree: &Path) {
    assert_eq!(of(name, tree), Vec::<String>::new(), "left behind by {name}");
}
