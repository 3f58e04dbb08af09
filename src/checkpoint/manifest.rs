//! `checkpoint.json`: what a checkpoint is of, and which files belong to it.
//!
//! It is written last and read first. It says what it is (`format`, `version`), so that another program's file and another
//! version's are told apart before anything else of them is believed, and it holds its own sum, so that no part of a
//! checkpoint is without one. Within a version keys are only added: a new field is `#[serde(default)]`, and unknown ones
//! are passed over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cause::Cause;
use super::mark::HostMark;
use super::member::{Member, Sum};
use crate::cgroup::tree::Directory;
use crate::ids::MachineId;
use crate::net::attire::Attire;

/// The version of checkpoints that this osier writes and reads.
pub const VERSION: u64 = 1;
/// What every manifest says of itself.
const FORMAT: &str = "osier-checkpoint";
/// A manifest is not longer, bytes: what is has not been written by osier, and is not read into memory.
pub(super) const LONGEST: u64 = 16 << 20;

/// What a checkpoint is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the osier that made it.
    pub osier: String,
    /// When, microseconds of CLOCK_REALTIME.
    pub created_usec: u64,
    /// Random: this state of this machine. Of two machines with the same one, only one may ever run on.
    pub id: MachineId,
    /// The machine.
    pub machine: Machine,
    /// What it was booted with, as the floors above know it.
    pub settings: Value,
    /// What its clocks showed at the freeze.
    pub clocks: Clocks,
    /// Its timers that are set.
    #[serde(default)]
    pub timers: Vec<Timer>,
    /// Its cgroups from `payload` down, each before those below it.
    pub cgroup: Vec<Directory>,
    /// Its link to the host, where it has one.
    #[serde(default)]
    pub network: Option<Link>,
    /// Its console, where it has one.
    #[serde(default)]
    pub console: Option<Console>,
    /// The CRIU that dumped it.
    pub criu: Criu,
    /// The host that it ran on.
    pub host: HostMark,
    /// How much memory its pages take, bytes.
    #[serde(default)]
    pub memory: u64,
    /// Its tree.
    pub tree: TreeMark,
    /// So many times memory was copied beforehand: the directories `round-1` to `round-N`, the parents of `images`.
    #[serde(default)]
    pub rounds: u32,
    /// The files of the checkpoint.
    #[serde(default)]
    pub files: Vec<Member>,
}

/// Whose state it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The machine's name.
    pub name: String,
    /// Its ID: machine-id(5).
    #[serde(default)]
    pub id: Option<MachineId>,
    /// The verb that made it: `boot` or `run`.
    pub verb: String,
    /// Its init, as `osier show` names it.
    #[serde(default)]
    pub init: Option<String>,
    /// `PRETTY_NAME` of its os-release(5).
    #[serde(default)]
    pub os: Option<String>,
}

/// The machine's clocks at the freeze, as seen inside; nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_MONOTONIC.
    pub monotonic_ns: u64,
    /// CLOCK_BOOTTIME.
    pub boottime_ns: u64,
    /// CLOCK_REALTIME, which is the host's.
    pub realtime_ns: u64,
}

/// A timer (timerfd_create(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Who has it open, by its process ID inside.
    pub pid: u32,
    /// Its descriptor there.
    pub fd: i32,
    /// The number of its clock (clock_gettime(2)).
    pub clock: i32,
    /// What the clock shows inside when it expires, in nanoseconds.
    pub expires_ns: i64,
}

/// A virtual link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The host's end.
    pub host: String,
    /// The machine's end.
    pub inside: String,
    /// The addresses inside, for people: CRIU's images have them, too.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What the host had made of its end.
    #[serde(default)]
    pub attire: Attire,
}

/// A pty of the host's that is the machine's console: CRIU's key for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The number of the terminal, `st_rdev`.
    pub rdev: u64,
    /// That of the devpts that it is in, `st_dev`.
    pub dev: u64,
}

/// The program that dumped it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Criu {
    /// Its version.
    pub version: String,
}

/// Which tree it ran from, and what that was like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeMark {
    /// Where it was on the host.
    pub path: PathBuf,
    /// `ID` and `VERSION_ID` of its os-release(5).
    #[serde(default)]
    pub os: Option<String>,
    /// The sum of its listing, where one was made.
    #[serde(default)]
    pub listing: Option<Sum>,
}

/// What stands in the file: the manifest between what it is and its sum.
#[derive(Debug, Serialize, Deserialize)]
struct Written<M> {
    format: String,
    version: u64,
    #[serde(flatten)]
    manifest: M,
    /// Of the file's text with zeros for this sum.
    sum: Sum,
}

/// What can be read of any version.
#[derive(Debug, Deserialize)]
struct Preamble {
    format: String,
    version: u64,
    #[serde(default)]
    osier: Option<String>,
}

impl Manifest {
    /// Its text, with its sum.
    ///
    /// # Errors
    /// `InvalidData` for a path that is not UTF-8.
    pub fn encode(&self) -> std::io::Result<String> {
        let written = Written { format: FORMAT.to_owned(), version: VERSION, manifest: self, sum: Sum::ZERO };
        let mut text = serde_json::to_string_pretty(&written)?;
        text.push('\n');
        let sum = Sum::of(text.as_bytes());
        replace_last(&mut text, &Sum::ZERO.to_string(), &sum.to_string());
        Ok(text)
    }

    /// What `text` says.
    ///
    /// # Errors
    /// [`Cause::Foreign`], [`Cause::Version`], [`Cause::Manifest`], [`Cause::ManifestAltered`].
    pub fn decode(text: &[u8]) -> Result<Self, Cause> {
        let foreign = || Cause::Foreign("its checkpoint.json is not osier's".to_owned());
        let text = std::str::from_utf8(text).map_err(|_| foreign())?;
        let preamble: Preamble = serde_json::from_str(text).map_err(|_| foreign())?;
        if preamble.format != FORMAT {
            return Err(foreign());
        }
        if preamble.version != VERSION {
            let osier = preamble.osier.unwrap_or_else(|| "of a later version".to_owned());
            return Err(Cause::Version { found: preamble.version, osier });
        }
        let written: Result<Written<Self>, _> = serde_json::from_str(text);
        let written = written.map_err(|error| Cause::Manifest(error.to_string()))?;
        let mut zeroed = text.to_owned();
        replace_last(&mut zeroed, &written.sum.to_string(), &Sum::ZERO.to_string());
        if Sum::of(zeroed.as_bytes()) != written.sum {
            return Err(Cause::ManifestAltered);
        }
        written.manifest.check()?;
        Ok(written.manifest)
    }

    /// Refuses members that are named twice.
    fn check(&self) -> Result<(), Cause> {
        let mut names: Vec<_> = self.files.iter().map(|file| &file.name).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Cause::Twice(pair[0].to_string())),
            None => Ok(()),
        }
    }

    /// The bytes of all members.
    pub fn size(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The bytes of memory's pages among the members.
    pub(super) fn pages(&self) -> u64 {
        let is_pages = |name: &str| {
            let file = name.rsplit('/').next().unwrap_or_default();
            file.starts_with("pages-") && file.ends_with(".img")
        };
        let pages = self.files.iter().filter(|file| is_pages(file.name.as_str()));
        pages.fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.files.iter().find(|file| file.name.as_str() == name)
    }
}

fn replace_last(text: &mut String, old: &str, new: &str) {
    if let Some(at) = text.rfind(old) {
        text.replace_range(at..at + old.len(), new);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A manifest with something in every field but the files.
    pub(crate) fn example() -> Manifest {
        Manifest {
            osier: "0.1.0".to_owned(),
            created_usec: 1_764_038_400_000_000,
            id: MachineId::from_bytes([7; 16]),
            machine: Machine {
                name: "web".to_owned(),
                id: Some(MachineId::from_bytes([9; 16])),
                verb: "boot".to_owned(),
                init: Some("systemd".to_owned()),
                os: Some("Debian GNU/Linux 13 (trixie)".to_owned()),
            },
            settings: json!({ "network": "veth", "memory": u64::MAX, "share": 0.1, "none": null }),
            clocks: Clocks {
                monotonic_ns: 51_673_680_000_000,
                boottime_ns: u64::MAX,
                realtime_ns: 1_764_038_400_000_000_000,
            },
            timers: vec![Timer { pid: 1, fd: 4, clock: 7, expires_ns: 51_674_000_000_000 }],
            cgroup: Vec::new(),
            network: Some(Link {
                host: "ve-web".to_owned(),
                inside: "host0".to_owned(),
                addresses: vec!["10.0.0.2/24".to_owned()],
                attire: Attire::default(),
            }),
            console: Some(Console { rdev: 34817, dev: 25 }),
            criu: Criu { version: "4.1.1".to_owned() },
            host: HostMark::default(),
            memory: 13 << 20,
            tree: TreeMark { path: "/var/lib/machines/web".into(), os: None, listing: Some(Sum::of(b"x")) },
            rounds: 0,
            files: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_says_what_it_is() {
        let manifest = example();
        let text = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(text.as_bytes()).unwrap(), manifest);
        assert!(text.starts_with("{\n  \"format\": \"osier-checkpoint\",\n  \"version\": 1,\n"), "{text}");
        // As the man page has it.
        let (before, rest) = text.split_at(text.rfind("\"sum\": \"").unwrap() + 8);
        let zeroed = format!("{before}{}{}", "0".repeat(64), &rest[64..]);
        assert_eq!(Sum::of(zeroed.as_bytes()).to_string(), rest[..64]);
    }

    #[test]
    fn no_altered_byte_goes_unseen() {
        let text = example().encode().unwrap().into_bytes();
        for at in 0..text.len() {
            for flip in [1, 4, 32, 128] {
                let mut altered = text.clone();
                altered[at] ^= flip;
                assert!(Manifest::decode(&altered).is_err(), "byte {at} with {flip}");
            }
        }
    }

    #[test]
    fn other_things_are_told_apart() {
        let decode = |text: &str| Manifest::decode(text.as_bytes()).unwrap_err();
        for foreign in ["", "[]", "{}", "\u{7f}ELF", r#"{"format":"other","version":1}"#] {
            assert!(matches!(decode(foreign), Cause::Foreign(_)), "{foreign}");
        }
        assert!(matches!(Manifest::decode(&[0xff]).unwrap_err(), Cause::Foreign(_)));
        let newer = r#"{"format":"osier-checkpoint","version":2,"osier":"3.0.0","files":7}"#;
        assert!(matches!(decode(newer), Cause::Version { found: 2, osier } if osier == "3.0.0"));
        let broken = r#"{"format":"osier-checkpoint","version":1,"osier":"0.1.0"}"#;
        assert!(matches!(decode(broken), Cause::Manifest(_)));
    }

    #[test]
    fn a_key_that_a_later_osier_added_is_passed_over() {
        let text = example().encode().unwrap();
        let added = text.replacen("\"criu\"", "\"later\": {\"a\": [1]},\n  \"criu\"", 1);
        // The sum is of what was written, whatever is in it.
        let sum = added[added.rfind("\"sum\": \"").unwrap() + 8..][..64].to_owned();
        let zeroed = added.replace(&sum, &Sum::ZERO.to_string());
        let whole = added.replace(&sum, &Sum::of(zeroed.as_bytes()).to_string());
        assert_eq!(Manifest::decode(whole.as_bytes()).unwrap(), example());
    }

    /// Every key, with those of what is below, as the page names them.
    fn keys(value: &Value, above: &str, found: &mut Vec<String>) {
        let Value::Object(object) = value else { return };
        for (key, value) in object {
            let key = format!("{above}{key}");
            match value {
                // Whose keys are not the format's.
                _ if ["settings", "cgroup[].delegated", "cgroup[].files", "cgroup[].attributes"]
                    .contains(&key.as_str()) =>
                {
                    found.push(key);
                }
                Value::Object(_) => keys(value, &format!("{key}."), found),
                Value::Array(items) if items.first().is_some_and(Value::is_object) => {
                    keys(&items[0], &format!("{key}[]."), found);
                }
                _ => found.push(key),
            }
        }
    }

    #[test]
    fn the_page_has_every_key() {
        let mut manifest = example();
        manifest.cgroup = vec![Directory::default()];
        manifest.files =
            vec![Member { name: "images/core-1.img".parse().unwrap(), size: 1, sha256: Sum::of(b"x") }];
        let mut wanted = Vec::new();
        keys(&serde_json::from_str(&manifest.encode().unwrap()).unwrap(), "", &mut wanted);
        let page = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/osier-checkpoint.5");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, section) = page.split_once(".SS Keys\n").unwrap();
        let (section, _) = section.split_once(".SH LISTING").unwrap();
        let mut named = Vec::new();
        for (line, next) in section.lines().zip(section.lines().skip(1)) {
            let words = next.strip_prefix(".BR ").or_else(|| next.strip_prefix(".B "));
            if let Some(words) = words.filter(|_| line == ".TP") {
                let words = words.split([' ', ',', '"']).filter(|word| !word.is_empty());
                named.extend(words.map(str::to_owned));
            }
        }
        wanted.sort();
        named.sort();
        assert_eq!(named, wanted);
    }

    #[test]
    fn a_member_is_there_once() {
        let mut manifest = example();
        let member = Member { name: "images/core-1.img".parse().unwrap(), size: 1, sha256: Sum::of(b"x") };
        manifest.files = vec![member.clone(), member];
        let text = manifest.encode().unwrap();
        assert!(matches!(Manifest::decode(text.as_bytes()).unwrap_err(), Cause::Twice(_)));
        let other = text.replacen("images/core-1.img", "images/../../../x", 1);
        assert!(matches!(Manifest::decode(other.as_bytes()).unwrap_err(), Cause::Manifest(_)));
    }
}
