//! What a copy keeps.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};

use super::support::tree::Scratch;
use super::{Running, below, describe, set};

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
