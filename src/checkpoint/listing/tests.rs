use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, setxattr};

use super::*;
use crate::checkpoint::Unwatched;
use crate::testdir::TestDir;

fn quick(root: &Path) -> Listing {
    Listing::read(root, Depth::Quick, &mut Unwatched).unwrap()
}

fn full(root: &Path) -> Listing {
    Listing::read(root, Depth::Content, &mut Unwatched).unwrap()
}

fn text(listing: &Listing) -> String {
    let mut text = Vec::new();
    let sum = listing.write(&mut text).unwrap();
    assert_eq!((sum, listing.sum()), (Sum::of(&text), sum));
    String::from_utf8(text).unwrap()
}

/// A tree with every kind of object.
fn tree(dir: &TestDir) -> PathBuf {
    let root = dir.join("tree");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::write(root.join("usr/bin/true"), "true").unwrap();
    fs::hard_link(root.join("usr/bin/true"), root.join("usr/bin/also")).unwrap();
    fs::write(root.join("usr-x"), "").unwrap();
    symlink("usr/bin", root.join("bin")).unwrap();
    symlink(OsStr::from_bytes(b"\xff here"), root.join("link")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"a #\\\n\xe9=")), "odd").unwrap();
    fs::set_permissions(root.join("usr-x"), Permissions::from_mode(0o4750)).unwrap();
    setxattr(root.join("usr-x"), "user.note", b"one", XattrFlags::empty()).unwrap();
    nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let node = nix::sys::stat::makedev(5, 1);
    let mode = nix::sys::stat::Mode::S_IRUSR;
    nix::sys::stat::mknod(&root.join("node"), nix::sys::stat::SFlag::S_IFCHR, mode, node).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    root
}

#[test]
fn a_listing_is_text_that_is_read_again() {
    let dir = TestDir::new("listing-text");
    let listing = full(&tree(&dir));
    let text = text(&listing);
    assert_eq!(Listing::parse(text.as_bytes()).unwrap(), listing);
    let mut compressed = Vec::new();
    assert_eq!(listing.write_compressed(&mut compressed).unwrap(), listing.sum());
    assert_eq!(Listing::parse_compressed(compressed.as_slice()).unwrap(), listing);
    let paths: Vec<_> = text.lines().skip(2).map(|line| line.split(' ').next().unwrap()).collect();
    let wanted = [
        ".",
        "./a\\040\\043\\134\\012\\351=",
        "./bin",
        "./fifo",
        "./link",
        "./node",
        "./usr",
        "./usr/bin",
        "./usr/bin/also",
        "./usr/bin/true",
        "./usr-x",
    ];
    assert_eq!(paths, wanted);
    for word in [
        "type=char mode=0400 uid=0 gid=0",
        "device=linux,5,1\n",
        "link=\\377\\040here\n",
        "size=4 sha256digest=",
        "first=./usr/bin/also\n",
        "mode=4750",
        "xattrs=",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(
        listing.entry(Path::new("usr/bin/true")).is_some() && listing.entry(Path::new("usr/b")).is_none()
    );
}

#[test]
fn no_altered_line_is_taken_for_another_listing_that_crashes() {
    let dir = TestDir::new("listing-hostile");
    let good = text(&full(&tree(&dir)));
    let mut state = 5_u64;
    let mut refused = 0;
    for _ in 0..3000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut altered = good.clone().into_bytes();
        let at = usize::try_from(state >> 33).unwrap() % altered.len();
        altered[at] ^= 1 << (state >> 61);
        refused += usize::from(Listing::parse(altered.as_slice()).is_err());
        let _ = Listing::parse(&good.as_bytes()[..at]);
    }
    assert!(refused > 500, "{refused}");
    let line = |text: &str| Listing::parse(format!("#mtree\n# osier listing 1\n{text}\n").as_bytes());
    let rest = "type=dir mode=0755 uid=0 gid=0 time=0.000000000";
    assert!(line(&format!("./a {rest}")).is_ok());
    for path in
        ["/a", "a", "./", "./..", "./a/../b", "./a//b", "./a\\000", "./a\\400", "./a\\4", "./a/", "../a"]
    {
        assert!(matches!(line(&format!("{path} {rest}")), Err(ListingError::Line(3))), "{path}");
    }
    for unsorted in [format!("./b {rest}\n./a {rest}"), format!("./a {rest}\n./a {rest}")] {
        assert!(matches!(line(&unsorted), Err(ListingError::Line(4))));
    }
    for empty in ["", "#mtree\n", "text\n"] {
        assert!(Listing::parse(empty.as_bytes()).is_err(), "{empty:?}");
    }
    assert!(Listing::parse_compressed(&b"text"[..]).is_err());
}

#[test]
fn what_was_done_to_a_tree_is_found() {
    let dir = TestDir::new("listing-difference");
    let root = tree(&dir);
    let before = quick(&root);
    assert!(
        before.difference(&quick(&root)).is_empty() && before.difference(&quick(&root)).named().is_none()
    );
    fs::write(root.join("usr/bin/true"), "fals").unwrap();
    fs::write(root.join("new"), "").unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    fs::write(root.join("directory/below"), "").unwrap();
    fs::remove_file(root.join("fifo")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    fs::create_dir(root.join("link")).unwrap();
    setxattr(root.join("usr-x"), "user.note", b"two", XattrFlags::empty()).unwrap();
    let after = quick(&root);
    let found = before.difference(&after);
    let changed: Vec<_> = found.changed.iter().map(|(path, what)| (path.to_str().unwrap(), *what)).collect();
    let wanted = [
        ("", Change::Time),
        ("link", Change::Kind),
        // Both names of it.
        ("usr/bin/also", Change::Content),
        ("usr/bin/true", Change::Content),
        ("usr-x", Change::Attributes),
    ];
    assert_eq!(changed, wanted);
    assert_eq!(found.added, ["directory", "directory/below", "new"].map(PathBuf::from));
    assert_eq!(found.removed, [PathBuf::from("fifo")]);
    assert_eq!(found.named().unwrap(), "'/', '/directory', '/directory/below' and 6 more");
    let wanted = found.wanted(&after);
    let names = [
        "",
        "directory",
        "directory/below",
        "link",
        "new",
        "usr/bin",
        "usr/bin/also",
        "usr/bin/true",
        "usr-x",
    ];
    assert_eq!(wanted, names.map(PathBuf::from));
    let back = after.difference(&before);
    assert_eq!((back.added, back.removed), (found.removed, found.added));
}

#[test]
fn another_name_counts() {
    let dir = TestDir::new("listing-names");
    let root = tree(&dir);
    let before = quick(&root);
    let apart = root.join("usr/bin/true");
    let modified = fs::metadata(&apart).unwrap().modified().unwrap();
    fs::remove_file(&apart).unwrap();
    fs::write(&apart, "true").unwrap();
    File::options().write(true).open(&apart).unwrap().set_modified(modified).unwrap();
    let found = before.difference(&quick(&root));
    assert!(found.changed.contains(&(PathBuf::from("usr/bin/true"), Change::Names)), "{found:?}");
    // One name more of what was there: the archive needs the other one for it.
    let before = quick(&root);
    fs::hard_link(&apart, root.join("usr/bin/true-too")).unwrap();
    let after = quick(&root);
    let wanted = before.difference(&after).wanted(&after);
    assert_eq!(wanted, ["usr", "usr/bin", "usr/bin/true", "usr/bin/true-too"].map(PathBuf::from));
}

/// Who sets the time back is seen by who reads the contents, and a time alone is no other content then.
#[test]
fn contents_tell_what_times_do_not() {
    let dir = TestDir::new("listing-content");
    let root = tree(&dir);
    let (before, before_full) = (quick(&root), full(&root));
    let file = root.join("usr/bin/true");
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let touch =
        |time: SystemTime| File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    fs::write(&file, "fals").unwrap();
    touch(modified);
    assert!(before.difference(&quick(&root)).is_empty());
    let found = before_full.difference(&full(&root));
    assert_eq!(found.changed.len(), 2);
    assert!(found.changed.iter().all(|(_, what)| *what == Change::Content));
    fs::write(&file, "true").unwrap();
    touch(modified + Duration::from_nanos(1));
    let found = before_full.difference(&full(&root));
    assert!(
        found.changed.iter().all(|(_, what)| *what == Change::Time) && found.changed.len() == 2,
        "{found:?}"
    );
    assert!(before.difference(&quick(&root)).changed.iter().all(|(_, what)| *what == Change::Content));
}

#[test]
fn a_copy_is_the_same_and_nothing_mounted_is_in_it() {
    let dir = TestDir::new("listing-copy");
    let root = tree(&dir);
    let copied = dir.join("copy");
    let status = std::process::Command::new("cp").arg("-a").arg(&root).arg(&copied).status().unwrap();
    assert!(status.success());
    let found = quick(&root).difference(&quick(&copied));
    assert!(found.is_empty(), "{found:?}");
    assert!(Listing::read(&dir.join("none"), Depth::Quick, &mut Unwatched).is_err());
    let listing = quick(Path::new("/sys/fs"));
    assert!(listing.entry(Path::new("cgroup")).is_some());
    let below = listing.entries().iter().any(|entry| entry.path.starts_with(b"cgroup/"));
    assert!(!below, "a mount was entered");
}

/// Zeros take a thousandth of their room, and a listing without end a few bytes.
#[test]
fn what_unpacks_to_more_than_a_listing_is_refused() {
    let dir = TestDir::new("listing-bomb");
    let listing = quick(&tree(&dir));
    let mut text = Vec::new();
    listing.write(&mut text).unwrap();
    let length = text.len() as u64;
    let mut compressed = Vec::new();
    listing.write_within(length, &mut compressed).unwrap();
    assert_eq!(Listing::parse_within(length, compressed.as_slice()).unwrap(), listing);
    let refused = Listing::parse_within(length - 1, compressed.as_slice());
    assert!(matches!(refused, Err(ListingError::TooLong(most)) if most == length - 1), "{refused:?}");
    let refused = listing.write_within(length - 1, Vec::new()).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::FileTooLarge);
}
