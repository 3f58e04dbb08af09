//! Trees as archives: everything that a file system can hold, a real Debian tree, and what GNU tar makes of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene has failed")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use osier::image::archive::{Compression, Decoder, Encoder, Packed, Packing, pack, unpack};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, lgetxattr, llistxattr, lsetxattr, makedev, mknodat};
use support::tree::{Scratch, debian};

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

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// One of everything that a tree can hold.
fn everything(top: &Path) {
    fs::create_dir_all(top.join("private/empty")).unwrap();
    let file = |name: &str, mode: u32| {
        let path = top.join(name);
        fs::write(&path, format!("this is {name}\0\n")).unwrap();
        std::os::unix::fs::chown(&path, Some(1234), Some(4_000_000_000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    file("set-ids", 0o6755);
    file("unreadable", 0);
    file("with\na line feed and \u{1b}[31m", 0o600);
    fs::hard_link(file("private/one name", 0o640), top.join("another name")).unwrap();
    let long = "long/".repeat(60) + &"n".repeat(255);
    fs::create_dir_all(top.join(&long).parent().unwrap()).unwrap();
    fs::hard_link(file(&long, 0o640), top.join("short")).unwrap();
    symlink("t".repeat(3000), top.join("long link")).unwrap();
    let bytes: PathBuf =
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"latin \xe4\xff").into();
    fs::write(top.join(bytes), "no UTF-8").unwrap();
    let listed = file("listed", 0o660);
    set(&listed, "system.posix_acl_access", &access_list());
    set(&listed, "user.note", b"a\0b\n12 path=/etc/passwd\n");
    set(&listed, "trusted.note", b"for root alone");
    // Version 2 of VFS capabilities, effective: CAP_NET_RAW and CAP_SYS_CHROOT's neighbours, with a line feed's byte.
    let capability = [0x0200_0001_u32, 0x0a0a, 0, 0, 0].map(u32::to_le_bytes).concat();
    set(&file("capable", 0o755), "security.capability", &capability);
    symlink("/nowhere/../at all", top.join("link")).unwrap();
    set(&top.join("link"), "trusted.note", b"on a link");
    let node = |name: &str, kind, device| {
        mknodat(CWD, top.join(name), kind, Mode::from_raw_mode(0o622), device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, makedev(1, 3));
    node("disk", FileType::BlockDevice, makedev(4095, 1_048_575));
    set(&top.join("private"), "system.posix_acl_default", &access_list());
    fs::set_permissions(top.join("private"), fs::Permissions::from_mode(0o3750)).unwrap();
    sparse(&top.join("holes"));
    File::create(top.join("one hole")).unwrap().set_len(1 << 40).unwrap();
    let times = [
        ("1999-12-31 23:59:59.123456789Z", "."),
        ("1901-12-14 01:02:03.5Z", "listed"),
        ("2242-01-01Z", "capable"),
    ];
    for (time, what) in times {
        let find = Command::new("find")
            .arg(top.join(what))
            .args(["-exec", "touch", "-h", "-d", time, "{}", "+"])
            .status();
        assert!(find.unwrap().success());
    }
}

fn sparse(path: &Path) {
    let file = File::create(path).unwrap();
    for at in 0..50_u64 {
        file.write_all_at(&[7; 5000], at << 30).unwrap();
    }
    file.set_len(60 << 30).unwrap();
}

/// All that is to be the same, by path.
fn describe(top: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut inodes, mut left) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = left.pop() {
        let full = top.join(&path);
        let stat = full.symlink_metadata().unwrap();
        let mut text = format!(
            "{:o} {}:{} {}.{:09} {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.rdev()
        );
        if stat.is_dir() {
            left.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else {
            // The same number for the same file, whatever its inode is called here.
            inodes.entry(stat.ino()).or_insert_with(Vec::new).push(path.clone());
        }
        if stat.is_symlink() {
            text += &format!(" -> {}", fs::read_link(&full).unwrap().display());
        } else if stat.is_file() {
            text += &format!(" {} {:x}", stat.size(), content(&full));
        }
        found.insert(path, text + &attributes(&full));
    }
    for names in inodes.into_values().filter(|names| names.len() > 1) {
        let mut names = names;
        names.sort();
        names.iter().for_each(|name| *found.get_mut(name).unwrap() += &format!(" = {names:?}"));
    }
    found
}

/// Of what holds data, which the holes are read as zeros from.
fn content(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let (mut hasher, mut end) = (DefaultHasher::new(), 0);
    while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(end)) {
        end = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        (start, bytes).hash(&mut hasher);
    }
    hasher.finish()
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 65536];
    let count = llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<String> = names[..count]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let count = lgetxattr(path, name, &mut value[..]).unwrap();
            format!(" {}={:?}", String::from_utf8_lossy(name), &value[..count])
        })
        .collect();
    found.sort();
    found.concat()
}

fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    for path in one.keys().chain(other.keys()) {
        assert_eq!(one.get(path), other.get(path), "{path:?}");
    }
}

fn packed(tree: &Path, to: &Path, compression: Compression) -> Packed {
    let mut out = Encoder::open(compression, File::create(to).unwrap()).unwrap();
    let packed = pack(tree, &mut out, Packing { only: None, notes: &[], watch: &mut |_| Ok(()) }).unwrap();
    out.close().unwrap();
    packed
}

fn unpacked(from: &Path, into: &Path) {
    fs::create_dir(into).unwrap();
    let mut from = Decoder::open(File::open(from).unwrap()).unwrap();
    unpack(&mut from, into, &mut |_| Ok(())).unwrap();
    from.close().unwrap();
}

#[test]
fn everything_comes_back_as_it_was() {
    let scratch = Scratch::below(Path::new("/var/tmp"));
    let at = |name: &str| scratch.path().join(name);
    everything(&at("from"));
    let before = describe(&at("from"));
    let socket = std::os::unix::net::UnixListener::bind(at("from/socket")).unwrap();
    fs::File::open(at("from")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    for (compression, name) in [(Compression::None, "a.tar"), (Compression::Zstd, "a.tar.zst")] {
        let packed = packed(&at("from"), &at(name), compression);
        assert_eq!(packed.sockets, [Path::new("socket")]);
        unpacked(&at(name), &at(&format!("{name}.d")));
    }
    drop(socket);
    fs::remove_file(at("from/socket")).unwrap();
    fs::File::open(at("from")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(before.len() > 70, "{}", before.len());
    assert_same(&at("from"), &at("a.tar.d"));
    assert_same(&at("from"), &at("a.tar.zst.d"));
    let holes = at("a.tar.d/holes").metadata().unwrap();
    assert!(holes.blocks() * 512 < 1 << 20, "the holes are holes again: {}", holes.blocks());
    // The same tree is the same archive.
    packed(&at("from"), &at("b.tar"), Compression::None);
    packed(&at("a.tar.d"), &at("c.tar"), Compression::None);
    assert!(fs::read(at("b.tar")).unwrap() == fs::read(at("c.tar")).unwrap());
}

#[test]
fn a_debian_tree_comes_back_as_it_was() {
    let scratch = Scratch::below(Path::new("/var/tmp"));
    let at = |name: &str| scratch.path().join(name);
    packed(&debian(), &at("debian.tar.zst"), Compression::Zstd);
    unpacked(&at("debian.tar.zst"), &at("debian"));
    assert_same(&debian(), &at("debian"));
}

#[test]
fn it_is_read_by_gnu_tar_and_reads_what_that_writes() {
    let scratch = Scratch::below(Path::new("/var/tmp"));
    let at = |name: &str| scratch.path().join(name);
    everything(&at("from"));
    // What GNU tar keeps as text of its own, or not at all.
    fs::remove_file(at("from/listed")).unwrap();
    fs::remove_file(at("from/link")).unwrap();
    rustix::fs::removexattr(at("from/private"), "system.posix_acl_default").unwrap();
    // It knows no numbers of devices as large as Linux does, in the older of its formats.
    fs::remove_file(at("from/disk")).unwrap();
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let path = |name: &str| at(name).to_str().unwrap().to_owned();
    packed(&at("from"), &at("ours.tar.gz"), Compression::Gzip);
    fs::create_dir(at("theirs")).unwrap();
    tar(&[
        "--xattrs",
        "--xattrs-include=*",
        "-xpzf",
        &path("ours.tar.gz"),
        "-C",
        &path("theirs"),
        "--numeric-owner",
    ]);
    assert_same(&at("from"), &at("theirs"));
    for (format, options) in [("posix", ["--xattrs", "--xattrs-include=*"].as_slice()), ("gnu", &[])] {
        let archive = path(&format!("{format}.tar"));
        tar(&[options, &[&format!("--format={format}"), "-S", "-cf", &archive, "-C", &path("from"), "."]]
            .concat());
        unpacked(Path::new(&archive), &at(format));
        if format == "gnu" {
            // A format without fractions of a second, nor attributes.
            fs::remove_file(at("from/capable")).unwrap();
            fs::remove_file(at("gnu/capable")).unwrap();
            for tree in ["from", "gnu"] {
                let touch = ["-exec", "touch", "-h", "-d", "2000-01-01", "{}", "+"];
                assert!(Command::new("find").arg(at(tree)).args(touch).status().unwrap().success());
            }
        }
        assert_same(&at("from"), &at(format));
    }
}
