use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, fcntl};

use super::*;

struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("osier-record-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> Store {
        Store::at(self.0.join("machines"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn record(name: &str, leader: u32) -> Record {
    Record {
        version: Record::VERSION,
        name: name.to_owned(),
        id: "0".repeat(32),
        class: "container".to_owned(),
        verb: "boot".to_owned(),
        init: Some(Init::Systemd),
        state: Stage::Running,
        leader,
        supervisor: std::process::id(),
        owner: 0,
        root: PathBuf::from("/var/lib/machines/web"),
        os: None,
        unit: None,
        registered: false,
        cgroup: None,
        users: None,
        namespaces: BTreeMap::new(),
        clocks: Clocks { monotonic_offset_ns: -1, boottime_offset_ns: 1 },
        checkpointable: None,
        links: Vec::new(),
        started: 0,
        started_monotonic: 0,
    }
}

/// What a supervisor leaves that dies without its guards: the file without its locks.
fn die(claim: Claim) {
    let claim = std::mem::ManuallyDrop::new(claim);
    let copy = claim.file.as_fd().try_clone_to_owned().unwrap();
    // Unlocking through a duplicate unlocks the description that both share.
    fcntl(copy, FcntlArg::F_OFD_SETLK(&super::locks::range(libc::F_UNLCK, 0, 2))).unwrap();
}

#[test]
fn a_name_is_taken_once_and_given_back() {
    let directory = Directory::new("once");
    let store = directory.store();
    let mut claim = store.claim("web").unwrap();
    let refused = store.claim("web").unwrap_err();
    assert_eq!(refused.kind(), Kind::InUse);
    assert!(store.list().unwrap().is_empty(), "claimed is not running");
    claim.write(&record("web", 7)).unwrap();
    let refused = store.claim("web").unwrap_err().to_string();
    assert!(refused.contains("/var/lib/machines/web"), "{refused}");
    assert_eq!(store.read("web"), Some(record("web", 7)));
    claim.write(&record("web", 8)).unwrap();
    assert_eq!(store.list().unwrap(), [record("web", 8)]);
    claim.close().unwrap();
    assert_eq!(store.read("web"), None);
    assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 0, "nothing is left");
    drop(store.claim("web").unwrap());
    assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 0, "nor by a drop");
}

#[test]
fn a_dead_machines_record_goes_to_the_next_owner_and_never_reads_as_living() {
    let directory = Directory::new("dead");
    let store = directory.store();
    let mut claim = store.claim("web").unwrap();
    claim.write(&record("web", 7)).unwrap();
    fs::write(claim.replacement(), "half").unwrap();
    die(claim);
    assert_eq!(store.read("web"), None);
    assert_eq!(store.dead().unwrap(), [record("web", 7)]);
    let mut next = store.claim("web").unwrap();
    assert_eq!(next.leftover(), Some(&record("web", 7)));
    assert_eq!(store.read("web"), None, "being taken over");
    assert!(store.dead().unwrap().is_empty(), "nobody else cleans up meanwhile");
    next.write(&record("web", 9)).unwrap();
    assert_eq!(next.leftover(), None);
    assert_eq!(store.read("web"), Some(record("web", 9)));
    next.close().unwrap();
    assert_eq!(fs::read_dir(&store.directory).unwrap().count(), 0);
}

#[test]
fn no_name_leaves_the_directory() {
    let directory = Directory::new("names");
    let store = directory.store();
    for name in ["", ".", "..", "../web", "a/b", ".web"] {
        assert_eq!(store.claim(name).unwrap_err().kind(), Kind::Usage, "{name:?}");
        assert_eq!(store.read(name), None);
    }
}

#[test]
fn readers_see_a_machine_at_every_moment_and_never_stop_a_writer() {
    let directory = Directory::new("race");
    let store = directory.store();
    let mut claim = store.claim("web").unwrap();
    claim.write(&record("web", 1)).unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || (0..2000).filter(|_| store.read("web").is_none()).count())
        })
        .collect();
    for leader in 0..2000 {
        claim.write(&record("web", leader)).unwrap();
    }
    let missed: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert_eq!(missed, 0);
    claim.close().unwrap();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || (0..500).filter(|_| store.claim("web").is_err()).count())
    };
    for _ in 0..2000 {
        store.read("web");
    }
    assert_eq!(writer.join().unwrap(), 0, "a reader made a claim fail");
}

#[test]
fn of_many_at_once_one_has_the_name() {
    let directory = Directory::new("many");
    let store = directory.store();
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for leader in 0..500 {
                    let Ok(mut claim) = store.claim("web") else { continue };
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    claim.write(&record("web", leader)).unwrap();
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    claim.close().unwrap();
                }
            });
        }
    });
}

#[test]
fn what_is_kept_stays_with_every_record() {
    let directory = Directory::new("kept");
    let store = directory.store();
    let mut claim = store.claim("web").unwrap();
    claim.keep(b"secret".to_vec());
    for leader in [1, 2] {
        let record = record("web", leader);
        claim.write(&record).unwrap();
        assert_eq!(store.kept(&record).unwrap().as_deref(), Some(b"secret".as_slice()));
        let text = fs::read_to_string(directory.0.join("machines/web.json")).unwrap();
        assert!(!text.contains("secret"));
    }
    claim.close().unwrap();
}
