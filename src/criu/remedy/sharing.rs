//! Slaves of one peer group (man 7 mount_namespaces) that have different roots, as systemd gives one to each service that has a mount
//! namespace of its own, /run/systemd/incoming. CRIU has one of them take over from the other, which the kernel refuses where what is
//! mounted is not below it: no machine with two such services came back.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::criu::images::file::{Image, Kind};

/// `mnt_entry` (images/mnt.proto).
const ROOT: u64 = 6;
const SHARED: u64 = 10;
const MASTER: u64 = 11;

/// A mount: the image that has it, and which of its records it is.
struct Mount {
    image: usize,
    record: usize,
    root: PathBuf,
}

/// Makes each of such slaves the only member of a peer group of its own, which is the group's slave like it was itself: it gets what it
/// got, and CRIU makes it from the group.
///
/// # Errors
/// What reading and writing the images gives; `Unsupported` for peers without a root in common, which CRIU cannot restore.
pub(super) fn mend(images: &Path) -> io::Result<()> {
    let (mut images, groups) = read(images)?;
    let mut unused = groups.keys().flat_map(|(shared, master)| [*shared, *master]).max().unwrap_or(0);
    let mut changed = vec![false; images.len()];
    // Where the master is outside, CRIU makes each of it.
    let is_within = |master| master == 0 || groups.keys().any(|(shared, _)| *shared == master);
    let known = |((shared, master), _): &(&(u64, u64), _)| shared + master > 0 && is_within(*master);
    for ((shared, _), members) in groups.iter().filter(known) {
        // CRIU begins with the shortest root.
        let Some(first) = members.iter().min_by_key(|mount| mount.root.as_os_str().len()) else { continue };
        for mount in members.iter().filter(|mount| !mount.root.starts_with(&first.root)) {
            if *shared != 0 {
                let (one, other) = (first.root.display(), mount.root.display());
                let text =
                    format!("it shares mounts of '{one}' and of '{other}', which have no root in common");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            unused += 1;
            images[mount.image].put_number(mount.record, SHARED, unused)?;
            changed[mount.image] = true;
        }
    }
    let changed = images.iter().zip(changed).filter(|(_, changed)| *changed);
    changed.map(|(image, _)| image).try_for_each(Image::write)
}

/// The images of mounts, and the mounts in them by their peer group and the one that they are slaves of.
#[expect(clippy::type_complexity, reason = "read once, and taken apart at once")]
fn read(directory: &Path) -> io::Result<(Vec<Image>, BTreeMap<(u64, u64), Vec<Mount>>)> {
    let (mut images, mut groups) = (Vec::new(), BTreeMap::<_, Vec<Mount>>::new());
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("mountpoints-") {
            continue;
        }
        let image = Image::read(&entry.path(), Kind::Mounts)?;
        for (record, message) in image.records().iter().enumerate() {
            let fields = image.fields(message)?;
            let number = |field| image.number(&fields, field).unwrap_or(0);
            let group = (number(SHARED), number(MASTER));
            let root = image.text(&fields, ROOT).unwrap_or_default().into();
            groups.entry(group).or_default().push(Mount { image: images.len(), record, root });
        }
        images.push(image);
    }
    Ok((images, groups))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    const PROPAGATE: &str = "/systemd/propagate/";

    /// A record: root, peer group and master.
    fn mount(root: &str, shared: u8, master: u8) -> Vec<u8> {
        let root = [&[0x32, u8::try_from(root.len()).unwrap()], root.as_bytes()].concat();
        let message = [&root[..], &[0x50, shared, 0x58, master], b"\xf2\x07\x02hi"].concat();
        [&u32::try_from(message.len()).unwrap().to_le_bytes()[..], &message].concat()
    }

    fn write(dir: &TestDir, name: &str, mounts: &[Vec<u8>]) {
        let head = [0x5456_4319_u32, Kind::Mounts as u32].map(u32::to_le_bytes).concat();
        fs::write(dir.join(name), [head, mounts.concat()].concat()).unwrap();
    }

    fn groups(dir: &TestDir) -> BTreeMap<(u64, u64), Vec<PathBuf>> {
        let (_, groups) = read(dir.path()).unwrap();
        groups
            .into_iter()
            .map(|(group, of)| (group, of.into_iter().map(|mount| mount.root).collect()))
            .collect()
    }

    #[test]
    fn slaves_without_a_root_in_common_are_groups_of_their_own() {
        let dir = TestDir::new("sharing");
        let at = |service: &str| format!("{PROPAGATE}{service}");
        write(&dir, "mountpoints-1.img", &[mount("/", 127, 0), mount("/", 0, 0), mount("/a", 0, 0)]);
        write(&dir, "mountpoints-2.img", &[mount("/", 5, 127), mount(&at("networkd"), 0, 127)]);
        write(
            &dir,
            "mountpoints-3.img",
            &[mount("/x", 0, 5), mount(&at("hostnamed"), 0, 127), mount("/x/y", 0, 5)],
        );
        let alone = fs::read(dir.join("mountpoints-1.img")).unwrap();
        mend(dir.path()).unwrap();
        let one = |path: String| vec![PathBuf::from(path)];
        let found = groups(&dir);
        assert_eq!((&found[&(0, 127)], &found[&(128, 127)]), (&one(at("networkd")), &one(at("hostnamed"))));
        assert_eq!(found[&(0, 5)].len(), 2);
        assert_eq!(fs::read(dir.join("mountpoints-1.img")).unwrap(), alone);
        // What is not known of a record stays, and so do the records after it.
        let third = fs::read(dir.join("mountpoints-3.img")).unwrap();
        assert_eq!(third.windows(5).filter(|text| text == b"\xf2\x07\x02hi").count(), 3);

        write(&dir, "mountpoints-4.img", &[mount("/one", 9, 0), mount("/other", 9, 0)]);
        let error = mend(dir.path()).unwrap_err();
        assert!(error.to_string().contains("'/one' and of '/other'"), "{error}");
    }
}
