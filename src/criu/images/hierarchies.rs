//! The cgroup hierarchies in the images. CRIU saves where a task is in each that the host has mounted, those of cgroup v1 among
//! them, and wants them all again: but a machine has cgroup v2 alone, and the next host perhaps as well.

use std::io;
use std::path::Path;

use prost::Message;

use super::file::{Image, Kind};

/// `cgroup_entry` (images/cgroup.proto).
#[derive(Clone, PartialEq, Message)]
struct Cgroups {
    #[prost(message, repeated, tag = "1")]
    sets: Vec<Set>,
    #[prost(message, repeated, tag = "2")]
    controllers: Vec<Controller>,
}

/// `cg_set_entry`: where a task is.
#[derive(Clone, PartialEq, Message)]
struct Set {
    #[prost(uint32, required, tag = "1")]
    id: u32,
    #[prost(message, repeated, tag = "2")]
    places: Vec<Place>,
}

/// `cg_member_entry`: in one hierarchy.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(string, required, tag = "1")]
    hierarchy: String,
    #[prost(string, required, tag = "2")]
    path: String,
    #[prost(uint32, optional, tag = "3")]
    prefix: Option<u32>,
}

/// `cg_controller_entry`: the directories of a hierarchy, as they are.
#[derive(Clone, PartialEq, Message)]
struct Controller {
    #[prost(string, repeated, tag = "1")]
    names: Vec<String>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    directories: Vec<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    threaded: Option<bool>,
}

/// Leaves cgroup v2 alone, which CRIU knows by no name.
///
/// # Errors
/// `InvalidData` for what is no such image; that there is none is no error.
pub(in crate::criu) fn keep_unified(images: &Path) -> io::Result<()> {
    let path = images.join("cgroup.img");
    if !path.exists() {
        return Ok(());
    }
    let mut image = Image::read(&path, Kind::Cgroup)?;
    let mut cgroups = Cgroups::decode(image.record()?)?;
    cgroups.sets.iter_mut().for_each(|set| set.places.retain(|place| place.hierarchy.is_empty()));
    cgroups.controllers.retain(|controller| controller.names.iter().all(String::is_empty));
    image.set_record(0, &cgroups.encode_to_vec())?;
    image.write()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn place(hierarchy: &str) -> Place {
        Place { hierarchy: hierarchy.to_owned(), path: "/machine".to_owned(), prefix: Some(3) }
    }

    fn controller(names: &[&str]) -> Controller {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Controller { names, directories: vec![vec![0x0a, 1, b'/']], threaded: None }
    }

    #[test]
    fn what_is_cgroup_v2_stays_as_it_is() {
        let dir = TestDir::new("hierarchies");
        keep_unified(dir.path()).unwrap();
        let saved = Cgroups {
            sets: vec![Set { id: 1, places: vec![place("memory"), place(""), place("name=systemd")] }],
            controllers: vec![controller(&["cpu", "cpuacct"]), controller(&[""])],
        };
        let message = saved.encode_to_vec();
        let head = [0x5456_4319_u32, 0x5938_3330, u32::try_from(message.len()).unwrap()];
        let bytes = [head.map(u32::to_le_bytes).concat(), message].concat();
        std::fs::write(dir.join("cgroup.img"), bytes).unwrap();
        keep_unified(dir.path()).unwrap();
        let image = Image::read(&dir.join("cgroup.img"), Kind::Cgroup).unwrap();
        let kept = Cgroups::decode(image.record().unwrap()).unwrap();
        let wanted = Cgroups {
            sets: vec![Set { id: 1, places: vec![place("")] }],
            controllers: vec![controller(&[""])],
        };
        assert_eq!(kept, wanted);
    }
}
