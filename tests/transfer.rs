//! Files into running machines and out of them: what a copy keeps, what it refuses, and that a machine that means harm
//! gains nothing by it. Needs root.
#![expect(clippy::unwrap_used, reason = "a test that cannot do its own work has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use support::machine::{Machine, code, osier, output, wait};
use support::terminal::Terminal;
use support::tree::{Scratch, Tree};

/// A machine from a minimal tree of its own.
struct Running {
    tree: Tree,
    machine: Machine,
}

impl Running {
    fn new(options: &[&str]) -> Self {
        let tree = Tree::minimal();
        let machine = Machine::minimal(&tree, &[&["--network=none"], options].concat());
        Self { tree, machine }
    }

    fn name(&self) -> &str {
        self.tree.name()
    }

    /// A path inside, as the host sees it where nothing is mounted over.
    fn inside(&self, path: &str) -> PathBuf {
        self.tree.path().join(path.trim_start_matches('/'))
    }

    #[track_caller]
    fn copy_to(&self, options: &[&str], source: &Path, target: &str) {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        succeed(&mut osier);
    }

    #[track_caller]
    fn copy_from(&self, options: &[&str], source: &str, target: &Path) {
        let mut osier = osier(["copy-from"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        succeed(&mut osier);
    }

    #[track_caller]
    fn refused_to(&self, options: &[&str], source: &Path, target: &str) -> String {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        fail(&mut osier)
    }

    #[track_caller]
    fn refused_from(&self, options: &[&str], source: &str, target: &Path) -> String {
        let mut osier = osier(["copy-from"]);
        osier.args(options).arg(self.name()).arg(source).arg(target);
        fail(&mut osier)
    }

    /// Ends it; nothing may be left of it, nor of any copy.
    fn end(self) {
        assert_eq!(hidden(&self.tree.path()), Vec::<PathBuf>::new());
        self.machine.signal(Signal::SIGTERM);
        assert_eq!(self.machine.end().0, 0);
    }
}

#[track_caller]
fn succeed(command: &mut std::process::Command) {
    let output = output(command);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[track_caller]
fn fail(command: &mut std::process::Command) -> String {
    let output = output(command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(code(output.status), 1, "{said}");
    assert!(said.starts_with("osier: ") && output.stdout.is_empty(), "{said}");
    said
}

/// What half a copy would be called, anywhere below a directory.
fn hidden(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".osier-copy-") {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(hidden(&entry.path()));
        }
    }
    found
}

/// All that a copy keeps of what is below a directory, as text.
fn describe(directory: &Path) -> String {
    let mut text = String::new();
    let mut names: Vec<_> = vec![PathBuf::new()];
    names.extend(below(directory, Path::new("")));
    names.sort();
    for name in &names {
        let path = directory.join(name);
        let stat = path.symlink_metadata().unwrap();
        let _ = write!(text, "{name:?} {:o} {}:{} ", stat.mode(), stat.uid(), stat.gid());
        let _ = write!(text, "{}.{} ", stat.mtime(), stat.mtime_nsec());
        if !stat.is_dir() {
            let _ = write!(text, "{} links {} device {} ", stat.len(), stat.nlink(), stat.rdev());
        }
        if stat.is_symlink() {
            let _ = write!(text, "-> {:?}", fs::read_link(&path).unwrap());
        }
        if stat.is_file() {
            let _ = write!(text, "{:?}", fs::read(&path).unwrap());
        }
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let mut attributes: Vec<_> = list[..length].split(|byte| *byte == 0).collect();
        attributes.sort_unstable();
        for attribute in attributes.into_iter().filter(|attribute| !attribute.is_empty()) {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&path, attribute, &mut value[..]).unwrap();
            let _ = write!(text, " {}={:?}", String::from_utf8_lossy(attribute), &value[..length]);
        }
        text.push('\n');
    }
    text
}

fn below(directory: &Path, name: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory.join(name)).unwrap() {
        let entry = entry.unwrap();
        let name = name.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            names.extend(below(directory, &name));
        }
        names.push(name);
    }
    names
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// linux/posix_acl_xattr.h: version 2; entries of tag, permissions, ID; here rw for the owner, r for user 1234, rw as mask.
fn access_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1_u16, 6_u16, none), (2, 4, 1234), (4, 4, none), (0x10, 6, none), (0x20, 0, none)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// One of everything that a file system can hold, but devices.
fn everything(directory: &Path) -> PathBuf {
    let top = directory.join("everything");
    fs::create_dir_all(top.join("private/empty")).unwrap();
    let file = |name: &str, mode: u32| {
        let path = top.join(name);
        fs::write(&path, format!("this is {name}\0\n")).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    file("set-ids", 0o6755);
    file("unreadable", 0);
    fs::hard_link(file("private/one name", 0o640), top.join("another name")).unwrap();
    let listed = file("listed", 0o660);
    set(&listed, "system.posix_acl_access", &access_list());
    set(&listed, "user.note", b"a\0b");
    set(&listed, "trusted.note", b"for root alone");
    // Version 2 of VFS capabilities, effective: CAP_NET_RAW.
    let capability = [0x0200_0001_u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    set(&file("capable", 0o755), "security.capability", &capability);
    symlink("/nowhere/../at all", top.join("link")).unwrap();
    set(&top.join("link"), "trusted.note", b"on a link");
    rustix::fs::mknodat(CWD, top.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap());
    set(&top.join("private"), "system.posix_acl_default", &access_list());
    fs::set_permissions(top.join("private"), fs::Permissions::from_mode(0o3750)).unwrap();
    let old = std::process::Command::new("find")
        .arg(&top)
        .args(["-exec", "touch", "-h", "-d", "1999-12-31 23:59:59.123456789Z", "{}", "+"])
        .status();
    assert!(old.unwrap().success());
    top
}

#[test]
fn everything_about_a_tree_is_kept_both_ways() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let top = everything(scratch.path());
    let wanted = describe(&top);
    running.copy_to(&[], &top, "/new/parents/are made");
    assert_eq!(describe(&running.inside("new/parents/are made")), wanted);
    assert_eq!(running.inside("new").metadata().unwrap().mode() & 0o7777, 0o755);
    let back = scratch.path().join("back/again");
    running.copy_from(&[], "/new/parents/are made", &back);
    assert_eq!(describe(&back), wanted);
    let names: Vec<_> = ["another name", "private/one name"]
        .iter()
        .map(|name| back.join(name).metadata().unwrap().ino())
        .collect();
    assert_eq!(names[0], names[1]);
    running.end();
}

#[test]
fn lists_of_the_directory_that_a_copy_goes_into_are_not_the_copys() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    scratch.file("tree/file", "x");
    let wanted = describe(&scratch.path().join("tree"));
    let shared = scratch.path().join("shared");
    fs::create_dir(&shared).unwrap();
    set(&shared, "system.posix_acl_default", &access_list());
    running.copy_to(&[], &scratch.path().join("tree"), "/srv/tree");
    running.copy_from(&[], "/srv/tree", &shared.join("tree"));
    assert_eq!(describe(&shared.join("tree")), wanted);
    running.end();
}

#[test]
fn owners_are_whom_one_says() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    running.tree.file("etc/passwd", "root::0:0:root:/root:/bin/sh\nweb:x:77:78::/:/bin/sh\n");
    running.tree.file("etc/group", "root:x:0:\nwebbers:x:79:\n");
    let top = everything(scratch.path());
    running.copy_to(&["--uid=web", "--gid=webbers"], &top, "/web");
    for name in below(&running.inside("web"), Path::new("")) {
        let stat = running.inside("web").join(&name).symlink_metadata().unwrap();
        assert_eq!((stat.uid(), stat.gid()), (77, 79), "{name:?}");
    }
    // Another owner's program is no set-ID program of the new one, nor has it capabilities.
    assert_eq!(running.inside("web/set-ids").metadata().unwrap().mode() & 0o7777, 0o755);
    let capability =
        rustix::fs::lgetxattr(running.inside("web/capable"), "security.capability", &mut [0_u8; 64][..]);
    assert_eq!(capability, Err(rustix::io::Errno::NODATA));

    let file = scratch.path().join("file");
    running.copy_from(&["--uid=daemon", "--gid", "5"], "/web/listed", &file);
    let stat = file.metadata().unwrap();
    assert_eq!((stat.uid(), stat.gid()), (1, 5), "daemon is the host's");
    let said = running.refused_to(&["--uid=daemon"], &top, "/other");
    assert!(said.contains(&format!("no user 'daemon' in machine '{}'\nhint: ", running.name())), "{said}");
    let said = running.refused_from(&["--gid=webbers"], "/web", &scratch.path().join("other"));
    assert!(said.starts_with("osier: no group 'webbers' on this host\n"), "{said}");
    assert!(!running.inside("other").exists() && !scratch.path().join("other").exists());
    running.end();
}

#[test]
fn a_sparse_file_stays_sparse() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let sparse = scratch.file("sparse", "start");
    let file = fs::OpenOptions::new().write(true).open(&sparse).unwrap();
    file.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 500 << 20).unwrap();
    // /run of the machine is a file system of another kind.
    for target in ["/root/sparse", "/run/sparse"] {
        running.copy_to(&[], &sparse, target);
        let back = scratch.path().join("back");
        running.copy_from(&["--force"], target, &back);
        let stat = back.metadata().unwrap();
        assert_eq!(stat.len(), 1 << 30);
        assert!(stat.blocks() < 100, "{} blocks", stat.blocks());
        let same = std::process::Command::new("cmp").args([&sparse, &back]).status().unwrap();
        assert!(same.success());
        running.machine.sh(&format!("test $(stat -c %b {target}) -lt 100"));
    }
    running.end();
}

#[test]
fn the_end_of_the_target_says_where_the_copy_goes() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", "1");
    scratch.file("tree/a/b", "2");
    let tree = scratch.path().join("tree");
    running.copy_to(&[], &file, "/etc/");
    running.copy_to(&[], &file, "/var/new/");
    running.copy_to(&[], &tree, "/var/new/");
    running.copy_to(&[], &tree.join("."), "/var/named/");
    running.copy_to(&["--force"], &tree, "/.");
    for path in ["etc/file", "var/new/file", "var/new/tree/a/b", "var/named/a/b", "a/b"] {
        assert!(running.inside(path).is_file(), "{path}");
    }
    // Without a target it is the source's path, as with machinectl.
    succeed(osier(["copy-to", running.name(), "file"]).current_dir(scratch.path()));
    running.machine.sh(&format!("test -f {}", file.display()));
    succeed(osier(["copy-from", running.name(), "/var/named", "."]).current_dir(scratch.path()).arg("-f"));
    assert!(scratch.path().join("a/b").is_file());
    let relative = output(&mut osier(["copy-from", running.name(), "etc/file", "/nowhere"]));
    assert_eq!(code(relative.status), 2, "{relative:?}");
    running.end();
}

#[test]
fn nothing_is_overwritten_unless_it_is_forced() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", "new");
    scratch.file("tree/etc/passwd", "new");
    scratch.file("tree/etc/new/deep", "new");
    let tree = scratch.path().join("tree/etc");
    let before = fs::read(running.inside("etc/passwd")).unwrap();
    let mode = running.inside("etc").metadata().unwrap().mode();

    let said = running.refused_to(&[], &file, "/etc/passwd");
    let wanted = format!(
        "osier: cannot copy '{}' to '{}': '/etc/passwd' exists already\nhint: --force",
        file.display(),
        running.name()
    );
    assert!(said.starts_with(&wanted), "{said}");
    let said = running.refused_to(&[], &tree, "/etc");
    assert!(said.contains("'/etc' exists already\nhint: --force"), "{said}");
    for options in [&[][..], &["--force"]] {
        let said = running.refused_to(options, &file, "/etc");
        assert!(said.ends_with("'/etc' is a directory\nhint: to copy into it, write '/etc/'\n"), "{said}");
        let said = running.refused_to(options, &file, "/etc/passwd/below");
        assert!(said.ends_with("cannot open '/etc/passwd/': not a directory\n"), "{said}");
    }
    assert_eq!(fs::read(running.inside("etc/passwd")).unwrap(), before);

    let old = running.inside("etc/passwd").metadata().unwrap().ino();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o700)).unwrap();
    running.copy_to(&["--force"], &tree, "/etc");
    let replaced = running.inside("etc/passwd");
    assert_eq!(fs::read(&replaced).unwrap(), b"new");
    assert_ne!(replaced.metadata().unwrap().ino(), old, "written over, not replaced");
    assert!(running.inside("etc/new/deep").is_file() && running.inside("etc/group").is_file());
    assert_eq!(
        running.inside("etc").metadata().unwrap().mode(),
        mode,
        "a directory that is there stays as it is"
    );

    // What is a directory on one side alone is refused, whichever it is.
    scratch.file("clash/etc", "a file");
    let said = running.refused_to(&["--force"], &scratch.path().join("clash"), "/.");
    assert!(said.contains("/clash/etc'") && said.contains("'/./etc' is a directory"), "{said}");
    let said = running.refused_to(&["--force"], &tree, "/etc/passwd");
    assert!(said.ends_with("'/etc/passwd' is not a directory\n"), "{said}");
    // A link is replaced itself, one that leads to a directory is not.
    symlink("group", running.inside("etc/link")).unwrap();
    symlink("usr", running.inside("lib")).unwrap();
    running.copy_to(&["--force"], &file, "/etc/link");
    assert_eq!(fs::read(running.inside("etc/link")).unwrap(), b"new");
    assert!(fs::read(running.inside("etc/group")).unwrap().starts_with(b"root:"));
    let said = running.refused_to(&["--force"], &file, "/lib");
    assert!(said.contains("'/lib' is a directory"), "{said}");
    running.end();
}

#[test]
fn hard_links_are_kept_in_a_merge() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let first = scratch.file("tree/etc/first", "1");
    for name in ["tree/etc/second", "tree/new/third"] {
        fs::create_dir_all(scratch.path().join(name).parent().unwrap()).unwrap();
        fs::hard_link(&first, scratch.path().join(name)).unwrap();
    }
    running.copy_to(&["--force"], &scratch.path().join("tree"), "/.");
    let inode = |path: &str| running.inside(path).metadata().unwrap().ino();
    assert_eq!((inode("etc/second"), inode("new/third")), (inode("etc/first"), inode("etc/first")));
    running.end();
}

#[test]
fn device_nodes_are_copied_when_it_is_said() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let said = running.refused_from(&[], "/dev/null", &scratch.path().join("null"));
    assert!(
        said.contains("'/dev/null' from '") && said.contains(": it is a device node\nhint: --devices"),
        "{said}"
    );
    let made = scratch.path().join("made");
    running.copy_from(&["--devices"], "/dev/null", &made);
    let stat = made.metadata().unwrap();
    assert!(stat.file_type().is_char_device());
    assert_eq!(stat.rdev(), Path::new("/dev/null").metadata().unwrap().rdev());
    fs::create_dir(scratch.path().join("tree")).unwrap();
    fs::rename(&made, scratch.path().join("tree/node")).unwrap();
    let said = running.refused_to(&[], &scratch.path().join("tree"), "/srv");
    assert!(said.contains("/tree/node' to '"), "the node is named: {said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

#[test]
fn what_is_mounted_in_the_machine_is_copied_to_and_from() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", "on a tmpfs");
    running.copy_to(&[], &file, "/run/a/file");
    assert_eq!(running.machine.sh("cat /run/a/file"), "on a tmpfs");
    assert!(!running.inside("run/a").exists());
    running.machine.sh("mkdir /mnt/x; mount -t tmpfs tmpfs /mnt/x; echo inside >/mnt/x/y");
    running.copy_from(&[], "/mnt", &scratch.path().join("mnt"));
    assert_eq!(fs::read(scratch.path().join("mnt/x/y")).unwrap(), b"inside\n");
    // Files whose size is known when they have been read.
    running.copy_from(&[], "/proc/1/status", &scratch.path().join("status"));
    assert!(fs::read_to_string(scratch.path().join("status")).unwrap().contains("NSpid:\t"));
    running.end();
}

#[test]
fn links_that_the_machine_planted_lead_to_places_inside() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let secret = scratch.file("secret", "secret");
    let file = scratch.file("file", "payload");
    symlink(&outside, running.inside("absolute")).unwrap();
    symlink("../".repeat(30) + outside.to_str().unwrap(), running.inside("relative")).unwrap();
    symlink(&secret, running.inside("bait")).unwrap();
    symlink(scratch.path(), running.inside("baits")).unwrap();
    for link in ["absolute", "relative"] {
        running.refused_to(&[], &file, &format!("/{link}/"));
        running.refused_to(&["--force"], &scratch.path().join("outside"), &format!("/{link}"));
    }
    // Where the same path is there inside, it is that one.
    running.machine.sh(&format!("mkdir -p {}", outside.display()));
    running.copy_to(&[], &file, "/relative/");
    running.copy_to(&[], &file, "/absolute/two");
    assert_eq!(below(&outside, Path::new("")), Vec::<PathBuf>::new());
    running.machine.sh(&format!("test -f {0}/file && test -f {0}/two", outside.display()));

    running.refused_from(&[], "/baits/secret", &scratch.path().join("out"));
    running.copy_from(&[], "/bait", &scratch.path().join("out"));
    assert_eq!(fs::read_link(scratch.path().join("out")).unwrap(), secret, "a link stays one");
    // Magic links of processes whose root is elsewhere: the machine cannot see any, so osier's own is the one to try.
    for magic in ["/proc/self/root", "/proc/1/root", "/proc/self/cwd"] {
        running.refused_from(&[], &format!("{magic}/etc/"), &scratch.path().join("out"));
        running.refused_to(&[], &file, &format!("{magic}/planted"));
    }
    assert!(!Path::new("/planted").exists());
    running.end();
}

/// Whoever swaps directories for links while they are copied gets nothing out and nothing in.
#[test]
fn links_swapped_in_during_the_copy_lead_nowhere() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let outside = scratch.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/file"), "secret").unwrap();
    let outside_now = describe(&outside);
    for name in ["race/sub", "merge/sub"] {
        fs::create_dir_all(running.inside(name)).unwrap();
        fs::write(running.inside(name).join("file"), "harmless").unwrap();
    }
    let path = outside.join("sub");
    let hammer = format!(
        "cd /; while :; do for d in race merge; do mv $d/sub $d/kept; ln -s {0} $d/sub; rm $d/sub; mv $d/kept $d/sub; \
         for t in .osier-copy-*/sub; do mv $t /stolen.$$; ln -s {0} $t; rm -f $t; done 2>/dev/null; done; done",
        path.display()
    );
    let leader = running.machine.leader().to_string();
    let mut attacker = std::process::Command::new("nsenter")
        .args(["--target", &leader, "--all", "--", "/bin/sh", "-c", &hammer])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    scratch.file("tree/sub/file", "payload");
    let tree = scratch.path().join("tree");
    let quietly = |arguments: &[&std::ffi::OsStr]| output(&mut osier(arguments)).status.success();
    let mut counts = [0; 3];
    for round in 0..150 {
        let out = scratch.path().join(format!("out-{round}"));
        let name = running.name().as_ref();
        let from = quietly(&["copy-from".as_ref(), name, "/race".as_ref(), out.as_ref()]);
        // A link that was there at that moment is copied as one.
        if !out.join("sub").is_symlink() {
            let read = fs::read_to_string(out.join("sub/file")).unwrap_or_default();
            assert!(!read.contains("secret"), "round {round}");
        }
        let merged = quietly(&["copy-to".as_ref(), "-f".as_ref(), name, tree.as_ref(), "/merge".as_ref()]);
        let target = format!("/to-{round}");
        let to = quietly(&["copy-to".as_ref(), name, tree.as_ref(), target.as_ref()]);
        for (count, done) in counts.iter_mut().zip([from, merged, to]) {
            *count += u32::from(done);
        }
    }
    attacker.kill().unwrap();
    attacker.wait().unwrap();
    assert_eq!(
        describe(&outside),
        outside_now,
        "something was written outside: {counts:?} of 150 copies done"
    );
    assert!(counts.iter().all(|count| *count > 0), "the attacker left no copy a chance: {counts:?}");
    running.machine.signal(Signal::SIGTERM);
    assert_eq!(running.machine.end().0, 0);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let (running, scratch) =
        (Running::new(&["--tmpfs=/small:size=1M", "--tmpfs=/tmp:size=100M"]), Scratch::new());
    scratch.file("tree/a", vec![1; 300 << 10]);
    scratch.file("tree/sub/b", vec![2; 2 << 20]);
    let tree = scratch.path().join("tree");
    let listing = "find /small | sort";
    for (options, target) in [(&[][..], "/small/x/y"), (&["--force"], "/small")] {
        let said = running.refused_to(options, &tree, target);
        let wanted = format!(
            "osier: cannot copy '{}/sub/b' to '{}': no space left on device\n",
            tree.display(),
            running.name()
        );
        assert_eq!(said, wanted);
        if options.is_empty() {
            assert_eq!(running.machine.sh(listing), "/small");
        } else {
            assert!(!running.machine.sh(listing).contains("/small/sub"), "of a merge what is whole stays");
            assert!(!running.machine.sh("ls -a /small").contains("osier"));
        }
    }

    // The host's side, in a mount namespace of its own.
    running.copy_to(&[], &tree, "/tmp/tree");
    let script = "mount -t tmpfs -o size=1M tmpfs \"$2\"; \"$1\" copy-from \"$3\" /tmp/tree \"$2/x/y\"; echo $?; ls -A \"$2\"";
    let small = scratch.path().join("small");
    fs::create_dir(&small).unwrap();
    let mut unshare = std::process::Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(support::program())
        .arg(&small)
        .arg(running.name());
    let output = output(&mut unshare);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
    let wanted =
        format!("osier: cannot copy '/tmp/tree/sub/b' from '{}': no space left on device\n", running.name());
    assert_eq!(String::from_utf8_lossy(&output.stderr), wanted);
    running.end();
}

#[test]
fn a_machine_that_cannot_be_written_to_says_so() {
    let (running, scratch) = (Running::new(&["--read-only"]), Scratch::new());
    let file = scratch.file("file", "x");
    let said = running.refused_to(&[], &file, "/etc/file");
    assert!(said.ends_with(&format!("to '{}': read-only file system\n", running.name())), "{said}");
    running.copy_from(&[], "/etc/passwd", &scratch.path().join("passwd"));
    running.machine.signal(Signal::SIGTERM);
    assert_eq!(running.machine.end().0, 0);
}

#[test]
fn what_is_not_there() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let slip = running.name().to_owned() + "x";
    let said = fail(&mut osier(["copy-to", slip.as_str(), "/etc/passwd", "/x"]));
    assert!(said.ends_with(&format!("hint: did you mean '{}'?\n", running.name())), "{said}");
    let said = running.refused_to(&[], Path::new("/no/such"), "/x");
    assert_eq!(
        said,
        format!("osier: cannot copy '/no/such' to '{}': no such file or directory\n", running.name())
    );
    let said = running.refused_from(&[], "/no/\x1b[2Jsuch", &scratch.path().join("x"));
    assert!(said.starts_with("osier: cannot copy '/no/\u{fffd}[2Jsuch' from"), "{said:?}");
    // A directory that the copy would be in.
    let said = running.refused_to(&[], running.tree.outside(), "/srv/copy");
    assert!(said.ends_with(": it would be copied into itself\n"), "{said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

/// A copy of many files, stopped when some of them are there.
struct Halfway {
    child: Child,
    pid: Pid,
}

impl Halfway {
    fn new(running: &Running, tree: &Path, target: &str) -> Self {
        let mut osier = osier(["copy-to", running.name()]);
        osier.arg(tree).arg(target).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = osier.spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let above = running.inside(target).parent().unwrap().to_owned();
        let begun = |top: &PathBuf| fs::read_dir(top).is_ok_and(|entries| entries.count() > 3);
        let began = std::time::Instant::now();
        while !hidden(&above).iter().any(begun) {
            assert!(began.elapsed() < support::PATIENCE, "the copy does not begin");
        }
        kill(pid, Signal::SIGSTOP).unwrap();
        Self { child, pid }
    }

    fn go_on(mut self) -> String {
        kill(self.pid, Signal::SIGCONT).unwrap();
        let status = wait(&mut self.child, &|| "a copy".to_owned());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        assert_eq!(code(status), 1, "{said}");
        said
    }
}

fn many(scratch: &Scratch) -> PathBuf {
    for number in 0..3000 {
        scratch.file(&format!("many/{number}"), vec![7; 20_000]);
    }
    scratch.path().join("many")
}

#[test]
fn a_copy_that_is_cut_short_leaves_nothing() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let tree = many(&scratch);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let halfway = Halfway::new(&running, &tree, "/srv/new/many");
        kill(halfway.pid, signal).unwrap();
        let said = halfway.go_on();
        assert!(said.ends_with(&format!(" to '{}': interrupted\n", running.name())), "{said}");
        assert!(!running.inside("srv").exists(), "{signal}");
    }
    let halfway = Halfway::new(&running, &tree, "/srv/new/many");
    fs::remove_dir_all(&tree).unwrap();
    let said = halfway.go_on();
    assert!(said.contains("/many/") && said.ends_with(": no such file or directory\n"), "{said}");
    assert!(!running.inside("srv").exists());
    running.end();
}

#[test]
fn a_machine_that_ends_ends_the_copy() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let halfway = Halfway::new(&running, &many(&scratch), "/srv/new/many");
    succeed(&mut osier(["terminate", running.name()]));
    let said = halfway.go_on();
    assert!(said.ends_with(&format!("machine '{}' has ended\n", running.name())), "{said}");
    assert!(!running.inside("srv").exists());
    assert_eq!(running.machine.end().0, 137);
}

#[test]
fn trees_deeper_than_any_path_are_refused_and_deep_ones_are_copied() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let script = "i=0; while [ $i -lt $1 ]; do mkdir d && cd d || exit; i=$((i+1)); done; touch bottom";
    for depth in ["900", "1100"] {
        fs::create_dir(running.inside(depth)).unwrap();
        running.machine.sh(&format!("cd /{depth}; set -- {depth}; {script}"));
    }
    let out = scratch.path().join("out");
    running.copy_from(&[], "/900", &out);
    let found = std::process::Command::new("find")
        .args([&out])
        .args(["-name".as_ref(), Path::new("bottom")])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&found.stdout).ends_with("/d/d/d/bottom\n"));
    let said = running.refused_from(&[], "/1100", &scratch.path().join("other"));
    assert!(said.ends_with("directories are nested too deeply\n"), "{said}");
    assert!(!scratch.path().join("other").exists() && hidden(scratch.path()).is_empty());
    running.end();
}

#[test]
fn a_terminal_is_shown_how_far_it_is() {
    let (running, scratch) = (Running::new(&[]), Scratch::new());
    let file = scratch.file("file", vec![1; 40 << 20]);
    let terminal = Terminal::new();
    let copy = |options: &[&str], target: &str| {
        let mut osier = osier(["copy-to"]);
        osier.args(options).arg(running.name()).arg(&file).arg(target);
        let mut child = terminal.spawn(&osier);
        assert!(wait(&mut child, &|| terminal.screen()).success(), "{}", terminal.screen());
    };
    copy(&["--quiet"], "/root/one");
    assert_eq!(terminal.screen(), "");
    copy(&[], "/root/two");
    terminal.await_text(" of 40.00 MiB");
    running.end();
}
