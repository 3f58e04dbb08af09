//! Archives that lie, and what comes of them: nothing outside the directory, and a sentence.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use tar::{EntryType, Header};

use super::*;
use crate::testdir::TestDir;

/// A member with this content.
fn member(kind: EntryType, name: &str, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &str) -> Vec<u8> {
    member(EntryType::Regular, name, "", content.as_bytes())
}

fn link(name: &str, to: &str) -> Vec<u8> {
    member(EntryType::Symlink, name, to, b"")
}

fn extended(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    records.iter().for_each(|(key, value)| pax::write(&mut text, key, value));
    member(EntryType::XHeader, "x", "", &text)
}

fn unpack_all(members: &[Vec<u8>], into: &Path) -> Result<Unpacked, ArchiveError> {
    let archive = [members.concat(), vec![0; 1024]].concat();
    unpack(archive.as_slice(), into, &mut |_| Ok(()))
}

/// Unpacks into `DIR/tree`; whatever comes of it, `DIR` holds nothing else after it but what it held.
fn refused(dir: &TestDir, members: &[Vec<u8>]) -> String {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir(&tree).unwrap();
    fs::write(dir.join("outside"), "mine").unwrap();
    let error = unpack_all(members, &tree).unwrap_err().to_string();
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["outside", "tree"]);
    assert_eq!(fs::read_to_string(dir.join("outside")).unwrap(), "mine");
    error
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let dir = TestDir::new("archive-out");
    let above = dir.path().to_str().unwrap();
    for (members, words) in [
        (vec![file("../new", "")], "leads out of the tree"),
        (vec![file("a/../../new", "")], "leads out of the tree"),
        (vec![file(&format!("{above}/new"), "")], "absolute name"),
        (vec![extended(&[("path", b"../new")]), file("fine", "")], "leads out of the tree"),
        (vec![member(EntryType::GNULongName, "l", "", b"/new\0"), file("fine", "")], "absolute name"),
        (vec![link("out", above), file("out/new", "")], "below what is a link"),
        (vec![link("out", ".."), file("out/deep/new", "")], "below what is a link"),
        (vec![link("out", ".."), member(EntryType::Directory, "out/new", "", b"")], "below what is a link"),
        (
            vec![link("out", ".."), member(EntryType::Link, "name", "out/outside", b"")],
            "below what is a link",
        ),
        (vec![member(EntryType::Link, "name", "../outside", b"")], "leads out of the tree"),
        (vec![member(EntryType::Link, "name", &format!("{above}/outside"), b"")], "absolute name"),
        (vec![member(EntryType::Link, "name", "nothing", b"")], "what is not there"),
        (vec![member(EntryType::Link, "name", "./", b"")], "of a directory"),
        (vec![file("a\u{1b}[31m/../b", "")], "\u{fffd}[31m"),
        (vec![file("", "")], "a name that no file can have"),
        (vec![file("./x/..", "")], "leads out"),
        (vec![extended(&[("path", b"a\0b")]), file("fine", "")], "a name that no file can have"),
    ] {
        let said = refused(&dir, &members);
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let dir = TestDir::new("archive-replace");
    fs::write(dir.join("outside"), "mine").unwrap();
    fs::create_dir(dir.join("tree")).unwrap();
    let members = [
        link("a", "../outside"),
        file("a", "new"),
        link("b", "../outside"),
        member(EntryType::Directory, "b", "", b""),
        member(EntryType::Directory, "c", "", b""),
        file("c/d", "old"),
        link("c", "a"),
        member(EntryType::Link, "e", "c", b""),
    ];
    unpack_all(&members, &dir.join("tree")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("outside")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(dir.join("tree/a")).unwrap(), "new");
    assert!(dir.join("tree/b").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read_link(dir.join("tree/c")).unwrap(), Path::new("a"));
    assert_eq!(fs::read_link(dir.join("tree/e")).unwrap(), Path::new("a"));
    assert_eq!(dir.join("tree/e").symlink_metadata().unwrap().nlink(), 2);
}

#[test]
fn what_is_broken_is_said_to_be() {
    let dir = TestDir::new("archive-broken");
    let sparse = |map: &[u8]| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", b"100"),
        ];
        vec![extended(&records), member(EntryType::Regular, "s", "", map)]
    };
    let mut damaged = file("a", "text");
    damaged[0] = b'b';
    for (members, words) in [
        (vec![b"this is no archive at all".repeat(100)], "not a tar archive"),
        (vec![damaged], "damaged"),
        (vec![member(EntryType::XHeader, "x", "", b"99 path=a\n"), file("a", "")], "extended header"),
        (vec![extended(&[("size", b"99999999999999999999")]), file("a", "")], "header"),
        (vec![extended(&[("size", b"18446744073709551615")]), file("a", "")], "header"),
        (vec![extended(&[("size", b"4000000000000")]), file("a", "")], "ends too early"),
        (vec![extended(&[("uid", b"4294967295")]), file("a", "")], "owner"),
        (vec![extended(&[("mtime", b"soon")]), file("a", "")], "header"),
        (vec![extended(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"9")]), file("a", "x")], "format"),
        (sparse(b"1\n0\n101\n"), "sparse file"),
        (sparse(b"nonsense"), "sparse file"),
        (vec![member(EntryType::new(b'M'), "a", "", b"")], "a type that osier does not know"),
    ] {
        let said = refused(&dir, &members);
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn an_archive_that_stops_early_is_refused_wherever_it_stops() {
    let dir = TestDir::new("archive-early");
    fs::create_dir(dir.join("tree")).unwrap();
    let whole = [file("a", "text"), extended(&[("path", b"b")]), file("x", "more"), vec![0; 1024]].concat();
    for end in (0..whole.len()).step_by(128) {
        let error = unpack(&whole[..end], &dir.join("tree"), &mut |_| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "the archive ends too early", "{end}");
    }
    let mut more = whole.as_slice();
    unpack(&mut more, &dir.join("tree"), &mut |_| Ok(())).unwrap();
    assert!(more.is_empty());
    let behind = [whole, b"what follows".to_vec()].concat();
    let mut behind = behind.as_slice();
    unpack(&mut behind, &dir.join("tree"), &mut |_| Ok(())).unwrap();
    assert_eq!(behind, b"what follows");
}

#[test]
fn it_stops_when_it_is_told_to() {
    let dir = TestDir::new("archive-stop");
    fs::create_dir_all(dir.join("from/a/b")).unwrap();
    fs::write(dir.join("from/a/large"), vec![1; 1 << 20]).unwrap();
    fs::create_dir(dir.join("to")).unwrap();
    let mut archive = Vec::new();
    let notes: [(&str, &[u8]); 1] = [("OSIER.test", b"one\ntwo")];
    pack(&dir.join("from"), &mut archive, Packing { only: None, notes: &notes, watch: &mut |_| Ok(()) })
        .unwrap();
    for bytes in [0, 300_000] {
        let mut seen = 0;
        let mut watch = |count| {
            seen += count;
            if seen >= bytes { Err(Interrupted) } else { Ok(()) }
        };
        let stopped = unpack(archive.as_slice(), &dir.join("to"), &mut watch);
        assert!(matches!(stopped, Err(ArchiveError::Interrupted)));
        seen = 0;
        let mut watch = |count| {
            seen += count;
            if seen >= bytes { Err(Interrupted) } else { Ok(()) }
        };
        let mut half = Vec::new();
        let stopped =
            pack(&dir.join("from"), &mut half, Packing { only: None, notes: &[], watch: &mut watch });
        assert!(matches!(stopped, Err(ArchiveError::Interrupted)));
        assert!(
            unpack(half.as_slice(), &dir.join("to"), &mut |_| Ok(())).is_err(),
            "half an archive is none"
        );
    }
    let unpacked = unpack(archive.as_slice(), &dir.join("to"), &mut |_| Ok(())).unwrap();
    assert_eq!(unpacked.notes, [("OSIER.test".to_owned(), b"one\ntwo".to_vec())]);
    assert_eq!(unpacked.bytes, 1 << 20);
}

#[test]
fn only_what_is_asked_for_is_packed() {
    let dir = TestDir::new("archive-only");
    fs::create_dir_all(dir.join("from/a/b")).unwrap();
    for name in ["a/one", "a/b/two", "three"] {
        fs::write(dir.join("from").join(name), name).unwrap();
    }
    symlink("a", dir.join("from/l")).unwrap();
    fs::create_dir(dir.join("to")).unwrap();
    let mut archive = Vec::new();
    let mut only = |path: &Path| path == Path::new("a/b/two") || path == Path::new("l");
    let packing = Packing { only: Some(&mut only), notes: &[], watch: &mut |_| Ok(()) };
    assert_eq!(pack(&dir.join("from"), &mut archive, packing).unwrap().objects, 2);
    unpack(archive.as_slice(), &dir.join("to"), &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read_to_string(dir.join("to/a/b/two")).unwrap(), "a/b/two");
    assert!(
        dir.join("to/l").is_symlink() && !dir.join("to/a/one").exists() && !dir.join("to/three").exists()
    );
}
