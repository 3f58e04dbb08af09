//! Checkpoints written, read back, and spoilt in every way that a disk, a link or somebody hostile spoils them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::{Builder, EntryType, Header};

use super::manifest::tests::example;
use super::*;
use crate::error::Error;
use crate::testdir::TestDir;

/// Numbers that are the same in every run (Knuth's MMIX constants).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

const COMPRESSED: Form = Form::File(Compression::Zstd);
const PLAIN: Form = Form::File(Compression::None);

/// Members with sizes around a tar block's.
fn members() -> Vec<(String, Vec<u8>)> {
    let mut numbers = Numbers(1);
    let sizes = [0, 1, 511, 512, 513, 1700];
    let images = sizes.map(|size| (format!("images/pages-{size}.img"), numbers.bytes(size)));
    images.into_iter().chain([(LISTING.to_owned(), numbers.bytes(77))]).collect()
}

fn fill(draft: &Draft, members: &[(String, Vec<u8>)]) {
    for (name, content) in members {
        fs::write(draft.directory().join(name), content).unwrap();
    }
}

fn written(dir: &TestDir, name: &str, form: Form) -> (PathBuf, Manifest) {
    let target = dir.join(name);
    let draft = Draft::begin(&target, form).unwrap();
    fill(&draft, &members());
    let mut manifest = example();
    let size = draft.complete(&mut manifest, &mut Unwatched).unwrap();
    // Not its listing.
    assert_eq!(manifest.memory, 1 + 511 + 512 + 513 + 1700);
    if form != Form::Directory {
        assert_eq!(size, fs::metadata(&target).unwrap().len());
    }
    (target, manifest)
}

/// Whether a checkpoint is believed.
fn believed(path: &Path) -> Result<(), Cause> {
    Checkpoint::open(path).and_then(|found| found.verify(&mut Unwatched)).map_err(|error| error.cause)
}

/// That it cannot be used, and that nothing is left of the trial.
fn refused(dir: &TestDir, path: &Path) -> Cause {
    let before = fs::read_dir(dir.path()).unwrap().count();
    let opened = Checkpoint::open(path);
    let error = opened.and_then(|found| found.unpack(dir.path(), &mut Unwatched)).unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "something is left: {error:?}");
    error.cause
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_read_again_in_every_form() {
    let dir = TestDir::new("checkpoint-forms");
    for (name, form) in [("web", Form::Directory), ("web.osier", PLAIN), ("small.osier", COMPRESSED)] {
        let (path, manifest) = written(&dir, name, form);
        assert_eq!((manifest.files.len(), manifest.size()), (7, 3314));
        assert_eq!(mode(&path), if form == Form::Directory { 0o700 } else { 0o600 });
        let found = Checkpoint::open(&path).unwrap();
        assert_eq!((found.manifest(), found.path()), (&manifest, path.as_path()));
        found.verify(&mut Unwatched).unwrap();
        let place = dir.join("place");
        fs::create_dir(&place).unwrap();
        let unpacked = found.unpack(&place, &mut Unwatched).unwrap();
        for (name, content) in members() {
            let file = unpacked.directory().join(&name);
            assert_eq!(fs::read(&file).unwrap(), content, "{name}");
            assert_eq!(mode(&file), 0o600, "{name}");
        }
        assert!(unpacked.images().join("pages-0.img").exists());
        drop(unpacked);
        // Gone with its last user; the checkpoint itself is there.
        fs::remove_dir(&place).unwrap();
        assert!(path.exists());
        if form == Form::Directory {
            assert_eq!(mode(&path.join("images")), 0o700);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn tar_makes_the_directory_of_a_file() {
    let dir = TestDir::new("checkpoint-tar");
    let (plain, manifest) = written(&dir, "web.osier", PLAIN);
    let (small, _) = written(&dir, "small.osier", COMPRESSED);
    let inside = dir.join("small.tar");
    fs::write(&inside, zstd::decode_all(File::open(small).unwrap()).unwrap()).unwrap();
    for (name, file) in [("one", plain), ("other", inside)] {
        let directory = dir.join(name);
        fs::create_dir(&directory).unwrap();
        let status = Command::new("tar").arg("-xf").arg(file).arg("-C").arg(&directory).status().unwrap();
        assert!(status.success());
        believed(&directory).unwrap();
        assert_eq!(Checkpoint::open(&directory).unwrap().manifest(), &manifest);
    }
}

#[test]
fn the_tree_and_its_listing_come_along() {
    let dir = TestDir::new("checkpoint-tree");
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    let listed = listing::Listing::read(&tree, listing::Depth::Quick, &mut Unwatched).unwrap();
    let draft = Draft::begin(&dir.join("web.osier"), PLAIN).unwrap();
    let mut manifest = example();
    manifest.tree.listing = Some(draft.listing(&listed).unwrap());
    fs::write(draft.directory().join(TREE_COMPRESSED), "tar").unwrap();
    draft.complete(&mut manifest, &mut Unwatched).unwrap();
    let found = Checkpoint::open(&dir.join("web.osier")).unwrap();
    let unpacked = found.unpack(dir.path(), &mut Unwatched).unwrap();
    let read = unpacked.listing().unwrap().unwrap();
    assert_eq!((Some(read.sum()), &read), (found.manifest().tree.listing, &listed));
    assert_eq!(fs::read(unpacked.tree().unwrap()).unwrap(), b"tar");
    fs::write(tree.join("etc/new"), "").unwrap();
    let now = listing::Listing::read(&tree, listing::Depth::Quick, &mut Unwatched).unwrap();
    assert_eq!(read.difference(&now).named().unwrap(), "'/etc', '/etc/new'");
    let (path, _) = written(&dir, "bare", Form::Directory);
    let bare = Checkpoint::open(&path).unwrap().unpack(dir.path(), &mut Unwatched).unwrap();
    // Its listing is no listing; its sum is right all the same.
    assert!(bare.tree().is_none() && bare.listing().is_err());
}

#[test]
fn the_parents_of_images_come_along() {
    let dir = TestDir::new("checkpoint-rounds");
    for (name, form) in [("web", Form::Directory), ("web.osier", PLAIN)] {
        let target = dir.join(name);
        let draft = Draft::begin(&target, form).unwrap();
        for number in [1, 2] {
            let round = draft.round(number).unwrap();
            fs::write(round.join("pages-1.img"), "x").unwrap();
        }
        symlink("../round-1", draft.directory().join("round-2/parent")).unwrap();
        symlink("../round-2", draft.images().join("parent")).unwrap();
        let mut manifest = example();
        draft.complete(&mut manifest, &mut Unwatched).unwrap();
        assert_eq!((manifest.rounds, manifest.files.len()), (2, 2));
        let unpacked = Checkpoint::open(&target).unwrap().unpack(dir.path(), &mut Unwatched).unwrap();
        let parent = unpacked.images().join("parent/parent");
        assert_eq!(fs::read_link(&parent).unwrap(), Path::new("../round-1"));
        assert!(parent.join("pages-1.img").exists());
    }
    let link = dir.join("web/images/parent");
    fs::remove_file(&link).unwrap();
    symlink("../round-1", &link).unwrap();
    assert!(matches!(believed(&dir.join("web")), Err(Cause::Unknown(name)) if name == "images/parent"));
}

#[test]
fn a_taken_name_is_refused_first_and_last() {
    let dir = TestDir::new("checkpoint-taken");
    let target = dir.join("web");
    let draft = Draft::begin(&target, Form::Directory).unwrap();
    fs::create_dir(&target).unwrap();
    let error = draft.complete(&mut example(), &mut Unwatched).unwrap_err();
    assert!(matches!(error.cause, Cause::Exists));
    let error = Error::from(Draft::begin(&target, PLAIN).unwrap_err());
    let wanted = format!("cannot write the checkpoint '{}': it exists already", target.display());
    assert_eq!(error.to_string(), wanted);
    assert!(error.hint_text().is_some());
    let error = Draft::begin(&dir.join("none/web"), PLAIN).unwrap_err();
    assert!(matches!(error.cause, Cause::Io(..)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_not_completed_leaves_nothing_and_what_was_killed_goes_with_the_next() {
    let dir = TestDir::new("checkpoint-killed");
    let draft = Draft::begin(&dir.join("web"), PLAIN).unwrap();
    fill(&draft, &members());
    let hidden = draft.directory().parent().unwrap().to_owned();
    // SIGKILL runs no destructor, and closes the descriptor that holds the lock.
    let killed = dir.join(".osier-checkpoint-killed");
    let status = Command::new("cp").arg("-a").arg(&hidden).arg(&killed).status().unwrap();
    assert!(status.success() && killed.join("checkpoint/images").exists());
    drop(draft);
    assert!(!hidden.exists() && killed.exists());
    let _next = Draft::begin(&dir.join("mail"), PLAIN).unwrap();
    assert!(!killed.exists());
}

struct Stop(usize);

impl Watch for Stop {
    fn bytes(&mut self, _count: u64) {}

    fn check(&mut self) -> Result<(), String> {
        self.0 = self.0.checked_sub(1).ok_or("it was interrupted")?;
        Ok(())
    }
}

#[test]
fn whoever_stops_it_at_any_time_leaves_nothing() {
    let dir = TestDir::new("checkpoint-stopped");
    let (file, _) = written(&dir, "there.osier", COMPRESSED);
    for form in [Form::Directory, PLAIN, COMPRESSED] {
        let mut stopped = 0;
        for at in 0.. {
            let draft = Draft::begin(&dir.join("web"), form).unwrap();
            fill(&draft, &members());
            match draft.complete(&mut example(), &mut Stop(at)) {
                Ok(_) => break,
                Err(error) => assert!(matches!(error.cause, Cause::Stopped(_)), "{error:?}"),
            }
            stopped += 1;
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{form:?} {at}");
        }
        assert!(stopped > 7, "{form:?}");
        let _ = fs::remove_file(dir.join("web"));
        let _ = fs::remove_dir_all(dir.join("web"));
    }
    let found = Checkpoint::open(&file).unwrap();
    assert!(found.unpack(dir.path(), &mut Stop(3)).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_belong_to_one_is_not_written() {
    let dir = TestDir::new("checkpoint-strange");
    let attempt = |make: &dyn Fn(&Draft)| {
        let draft = Draft::begin(&dir.join("web"), PLAIN).unwrap();
        make(&draft);
        draft.complete(&mut example(), &mut Unwatched).unwrap_err().cause
    };
    let link = |draft: &Draft| symlink("/etc/passwd", draft.images().join("x.img")).unwrap();
    assert!(matches!(attempt(&link), Cause::NotFile(_)));
    let below = |draft: &Draft| fs::create_dir(draft.images().join("below")).unwrap();
    assert!(matches!(attempt(&below), Cause::NotFile(_)));
    let other = |draft: &Draft| fs::create_dir(draft.directory().join("other")).unwrap();
    assert!(matches!(attempt(&other), Cause::NotFile(_)));
    let name = |draft: &Draft| fs::write(draft.images().join(".hidden"), "").unwrap();
    assert!(matches!(attempt(&name), Cause::Name(_)));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The bytes of an archive that nothing depends on: what fills a member's last block.
fn padding(manifest: &Manifest, text: usize) -> Vec<std::ops::Range<usize>> {
    let mut at = 0;
    let sizes = manifest.files.iter().map(|file| usize::try_from(file.size).unwrap());
    let mut found = Vec::new();
    for size in std::iter::once(text).chain(sizes) {
        let end = at + 512 + size;
        at = end.next_multiple_of(512);
        found.push(end..at);
    }
    found
}

#[test]
fn no_flipped_bit_in_a_file_goes_unseen() {
    let dir = TestDir::new("checkpoint-flips");
    let (path, manifest) = written(&dir, "web.osier", PLAIN);
    let whole = fs::read(&path).unwrap();
    let padding = padding(&manifest, manifest.encode().unwrap().len());
    assert_eq!(padding.last().unwrap().end + 1024, whole.len());
    let mut numbers = Numbers(2);
    let headers = padding.iter().map(|range| range.end).chain([0]);
    let boundaries = headers.flat_map(|at| [at, at + 124, at + 156, at + 511, at + 512, at.wrapping_sub(1)]);
    let random: Vec<_> = (0..600).map(|_| numbers.below(whole.len())).collect();
    for at in boundaries.filter(|at| *at < whole.len()).chain(random) {
        let mut altered = whole.clone();
        altered[at] ^= 1 << numbers.below(8);
        fs::write(&path, &altered).unwrap();
        let harmless = padding.iter().any(|range| range.contains(&at));
        assert!(believed(&path).is_err() || harmless, "byte {at} of {}", whole.len());
    }
    fs::write(&path, &whole).unwrap();
    believed(&path).unwrap();
}

#[test]
fn a_file_that_is_cut_anywhere_says_so() {
    let dir = TestDir::new("checkpoint-cut");
    for form in [PLAIN, COMPRESSED] {
        let (path, _) = written(&dir, "web.osier", form);
        let whole = fs::read(&path).unwrap();
        let mut numbers = Numbers(3);
        let blocks = (0..whole.len()).step_by(512).flat_map(|at| [at.saturating_sub(1), at, at + 1]);
        let random: Vec<_> = (0..100).map(|_| numbers.below(whole.len())).collect();
        for at in blocks.chain(random).chain([whole.len() - 1]).filter(|at| *at < whole.len()) {
            fs::write(&path, &whole[..at]).unwrap();
            let cause = believed(&path).unwrap_err();
            assert!(matches!(cause, Cause::Cut(found) if found == at as u64), "{form:?} {at}: {cause:?}");
        }
        fs::write(&path, &whole[..2000]).unwrap();
        let error = Error::from(Checkpoint::open(&path).unwrap_err());
        assert!(error.to_string().ends_with("it is cut short: it ends after 2000 bytes"), "{error}");
        assert!(error.hint_text().unwrap().contains("copy it anew"));
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_compressed_file_with_a_flipped_bit_is_whole_or_refused() {
    let dir = TestDir::new("checkpoint-zstd");
    let (path, _) = written(&dir, "web.osier", COMPRESSED);
    let whole = fs::read(&path).unwrap();
    let inside = zstd::decode_all(whole.as_slice()).unwrap();
    let mut numbers = Numbers(4);
    for at in (0..12).chain((0..300).map(|_| numbers.below(whole.len())).collect::<Vec<_>>()) {
        let mut altered = whole.clone();
        altered[at] ^= 1 << (at % 8);
        fs::write(&path, &altered).unwrap();
        if believed(&path).is_ok() {
            // A larger window, say.
            assert_eq!(zstd::decode_all(altered.as_slice()).unwrap(), inside, "byte {at}");
        }
    }
    let trailing = [whole, b"more".to_vec()].concat();
    fs::write(&path, trailing).unwrap();
    assert!(believed(&path).is_err());
}

#[test]
fn a_directory_is_believed_only_as_it_was_written() {
    let dir = TestDir::new("checkpoint-directory");
    let attempt = |spoil: &dyn Fn(&Path)| {
        let (path, _) = written(&dir, "web", Form::Directory);
        spoil(&path);
        let cause = refused(&dir, &path);
        fs::remove_dir_all(path).unwrap();
        cause
    };
    for (name, content) in members() {
        let change = |to: Vec<u8>| attempt(&|path| fs::write(path.join(&name), &to).unwrap());
        let longer = change([content.clone(), vec![0]].concat());
        assert!(matches!(longer, Cause::Size { .. }), "{name}: {longer:?}");
        assert!(matches!(attempt(&|path| fs::remove_file(path.join(&name)).unwrap()), Cause::Missing(_)));
        if let Some(last) = content.len().checked_sub(1) {
            let mut flipped = content.clone();
            flipped[last] ^= 1;
            assert!(matches!(change(flipped), Cause::Altered(found) if found == name));
            assert!(matches!(change(content[..last].to_vec()), Cause::Size { .. }));
        }
        let linked = attempt(&|path| {
            let file = path.join(&name);
            fs::write(dir.join("beside"), &content).unwrap();
            fs::remove_file(&file).unwrap();
            symlink(dir.join("beside"), file).unwrap();
        });
        assert!(matches!(linked, Cause::NotFile(_)), "{name}: {linked:?}");
    }
    let more = attempt(&|path| fs::write(path.join("images/core-7.img"), "").unwrap());
    assert!(matches!(more, Cause::Unknown(name) if name == "images/core-7.img"));
    let more =
        attempt(&|path| fs::create_dir(path.join("round-1")).and(fs::write(path.join("note"), "")).unwrap());
    assert!(matches!(more, Cause::Unknown(name) if name == "note"));
    let gone = attempt(&|path| fs::remove_file(path.join(MANIFEST)).unwrap());
    assert!(matches!(gone, Cause::Foreign(_)));
    let linked = attempt(&|path| {
        fs::remove_file(path.join(MANIFEST)).unwrap();
        symlink("/etc/hostname", path.join(MANIFEST)).unwrap();
    });
    assert!(matches!(linked, Cause::NotFile(_)));
    let swapped = attempt(&|path| {
        fs::rename(path.join("images"), dir.join("elsewhere")).unwrap();
        symlink(dir.join("elsewhere"), path.join("images")).unwrap();
    });
    assert!(matches!(swapped, Cause::Unknown(name) if name == "images"));
}

#[test]
fn another_manifest_after_opening_is_seen() {
    let dir = TestDir::new("checkpoint-swapped");
    for (name, form) in [("web", Form::Directory), ("web.osier", PLAIN)] {
        let (path, mut manifest) = written(&dir, name, form);
        let found = Checkpoint::open(&path).unwrap();
        manifest.machine.name = "mail".to_owned();
        match form {
            Form::Directory => fs::write(path.join(MANIFEST), manifest.encode().unwrap()).unwrap(),
            Form::File(_) => hostile(&path, &manifest, |_| {}),
        }
        let cause = found.verify(&mut Unwatched).unwrap_err().cause;
        assert!(matches!(cause, Cause::ManifestAltered), "{cause:?}");
    }
}

fn add(builder: &mut Builder<File>, (kind, name): (EntryType, &str), content: &[u8], link: &str) {
    let mut header = Header::new_gnu();
    // Written past the crate's own checks, as somebody hostile would.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

/// A file with this manifest and what somebody else put after it.
fn hostile(path: &Path, manifest: &Manifest, more: impl Fn(&mut Builder<File>)) {
    let mut builder = Builder::new(File::create(path).unwrap());
    let text = manifest.encode().unwrap();
    add(&mut builder, (EntryType::Regular, MANIFEST), text.as_bytes(), "");
    more(&mut builder);
    builder.finish().unwrap();
}

#[test]
fn an_archive_that_somebody_made_is_refused_and_nothing_is_made_elsewhere() {
    let dir = TestDir::new("checkpoint-hostile");
    let path = dir.join("web.osier");
    let member = |name: &str, content: &[u8]| Member {
        name: name.parse().unwrap(),
        size: content.len() as u64,
        sha256: Sum::of(content),
    };
    let mut manifest = example();
    manifest.files = vec![member("images/a.img", b"aa"), member("images/b.img", b"b")];
    let good = |builder: &mut Builder<File>| {
        add(builder, (EntryType::Regular, "images/a.img"), b"aa", "");
        add(builder, (EntryType::Regular, "images/b.img"), b"b", "");
    };
    hostile(&path, &manifest, good);
    believed(&path).unwrap();
    let attempt = |more: &dyn Fn(&mut Builder<File>)| {
        hostile(&path, &manifest, more);
        refused(&dir, &path)
    };
    let then = |kind: EntryType, name: &str, content: &[u8], link: &str| {
        attempt(&|builder| {
            good(builder);
            add(builder, (kind, name), content, link);
        })
    };
    let regular = EntryType::Regular;
    for name in ["../../x", "/tmp/osier-x", "images/../../x", "images/c.img", "checkpoint.json", "images/"] {
        assert!(matches!(then(regular, name, b"x", ""), Cause::Unknown(found) if found == name), "{name}");
    }
    assert!(matches!(then(regular, "images/a.img", b"aa", ""), Cause::Twice(_)));
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Fifo, EntryType::Char]
    {
        assert!(matches!(then(kind, "images/c.img", b"", "/etc/passwd"), Cause::NotFile(_)), "{kind:?}");
    }
    // The headers that say something of the next member.
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink]
    {
        assert!(matches!(then(kind, "x", b"18 path=../../xyz\n", ""), Cause::NotFile(_)), "{kind:?}");
    }
    assert!(matches!(then(EntryType::GNUSparse, "images/c.img", b"", ""), Cause::NotFile(_)));
    let link = attempt(&|builder| {
        add(builder, (EntryType::Symlink, "images/a.img"), b"", "/etc");
        add(builder, (regular, "images/b.img"), b"b", "");
    });
    assert!(matches!(link, Cause::NotFile(_)));
    let lacking = attempt(&|builder| add(builder, (regular, "images/a.img"), b"aa", ""));
    assert!(matches!(lacking, Cause::Missing(name) if name == "images/b.img"));
    let longer = attempt(&|builder| add(builder, (regular, "images/a.img"), b"aaa", ""));
    assert!(matches!(longer, Cause::Size { found: 3, wanted: 2, .. }));
    let other = attempt(&|builder| add(builder, (regular, "images/a.img"), b"ab", ""));
    assert!(matches!(other, Cause::Altered(name) if name == "images/a.img"));
    // tar(1) fills up its last record with zeros; anything else is somebody's.
    hostile(&path, &manifest, good);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [whole.clone(), vec![0; 7680]].concat()).unwrap();
    believed(&path).unwrap();
    fs::write(&path, [whole, b"more".to_vec()].concat()).unwrap();
    assert!(matches!(refused(&dir, &path), Cause::Trailing));
    assert!(!dir.path().parent().unwrap().join("x").exists() && !Path::new("/tmp/osier-x").exists());
}

#[test]
fn other_files_are_told_from_checkpoints() {
    let dir = TestDir::new("checkpoint-foreign");
    let path = dir.join("x.osier");
    let said = |path: &Path| Error::from(Checkpoint::open(path).unwrap_err()).to_string();
    assert!(said(&path).ends_with("it does not exist"));
    fs::write(&path, "").unwrap();
    assert!(said(&path).ends_with("it ends after 0 bytes"));
    fs::write(&path, "text\n".repeat(1000)).unwrap();
    assert!(said(&path).contains("it is neither a tar archive nor one that zstd compressed"));
    fs::write(&path, zstd::encode_all(&b"text\n".repeat(1000)[..], 1).unwrap()).unwrap();
    assert!(said(&path).contains("cannot use the checkpoint"), "{}", said(&path));
    let status = Command::new("tar").args(["-C", "/etc", "-cf"]).arg(&path).arg("hostname").status().unwrap();
    assert!(status.success());
    assert!(said(&path).ends_with("it is no checkpoint: it does not begin with checkpoint.json"));
    let mut builder = Builder::new(File::create(&path).unwrap());
    let newer = br#"{"format":"osier-checkpoint","version":9,"osier":"4.0.0"}"#;
    add(&mut builder, (EntryType::Regular, MANIFEST), newer, "");
    builder.finish().unwrap();
    assert!(said(&path).ends_with("it has version 9, and this osier knows version 1"), "{}", said(&path));
    let hint = Error::from(Checkpoint::open(&path).unwrap_err());
    assert_eq!(hint.hint_text(), Some("use osier 4.0.0, which made it, or a later one"));
    assert!(said(dir.path()).ends_with("it is no checkpoint: there is no checkpoint.json in it"));
    assert!(said(Path::new("/dev/null")).ends_with("it is neither a file nor a directory"));
    fs::create_dir(dir.join("huge")).unwrap();
    let huge = File::create(dir.join("huge/checkpoint.json")).unwrap();
    huge.set_len(1 << 40).unwrap();
    assert!(said(&dir.join("huge")).ends_with("its checkpoint.json is too long"));
    // A manifest that claims to be longer than memory.
    let mut header = Header::new_gnu();
    header.set_path(MANIFEST).unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(1 << 40);
    header.set_cksum();
    File::create(&path).unwrap().write_all(header.as_bytes()).unwrap();
    assert!(said(&path).ends_with("its checkpoint.json is too long"), "{}", said(&path));
}

#[test]
fn a_place_without_room_is_told_before_anything_is_unpacked() {
    let dir = TestDir::new("checkpoint-full");
    let path = dir.join("web.osier");
    let mut manifest = example();
    let member = Member { name: "images/a.img".parse().unwrap(), size: 1 << 60, sha256: Sum::of(b"") };
    manifest.files = vec![member];
    hostile(&path, &manifest, |_| {});
    assert!(matches!(refused(&dir, &path), Cause::NoRoom { needed: 0x1000_0000_0000_0000, .. }));
}
