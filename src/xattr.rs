//! Extended attributes with user and group IDs in them: access control lists, and the capabilities of programs (man 7 xattr, man 5 acl,
//! man 7 capabilities).

/// The access control list of a file, and the one that a directory hands on.
pub const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
/// The capabilities of a program.
pub const CAPABILITY: &str = "security.capability";

/// linux/posix_acl_xattr.h: the version, and the two sorts of entries that have an ID.
const LIST_VERSION: [u8; 4] = 2_u32.to_le_bytes();
const LIST_USER: u16 = 0x02;
const LIST_GROUP: u16 = 0x08;
/// linux/capability.h: the revision in the first word of the value; the second has no ID of root, the third one has it at its end.
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const LENGTH_2: usize = 20;

/// Puts `change` of each ID in an access control list in its place; what is none stays as it is.
///
/// # Errors
/// What `change` gives.
pub fn change_list<E>(value: &mut [u8], change: impl Fn(u32) -> Result<u32, E>) -> Result<(), E> {
    let Some((version, entries)) = value.split_first_chunk_mut::<4>() else { return Ok(()) };
    if *version != LIST_VERSION {
        return Ok(());
    }
    for entry in entries.chunks_exact_mut(8) {
        let sort = u16::from_le_bytes([entry[0], entry[1]]);
        if let (LIST_USER | LIST_GROUP, Some(id)) = (sort, entry.last_chunk_mut::<4>()) {
            *id = change(u32::from_le_bytes(*id))?.to_le_bytes();
        }
    }
    Ok(())
}

/// As [`change_list`] for a program's capabilities, which are those of a user namespace's root: the host's where nothing else is said.
///
/// # Errors
/// What `change` gives.
pub fn change_capabilities<E>(value: &mut Vec<u8>, change: impl Fn(u32) -> Result<u32, E>) -> Result<(), E> {
    let Some(first) = value.first_chunk::<4>().map(|word| u32::from_le_bytes(*word)) else { return Ok(()) };
    let root = match (first & REVISION, value.len()) {
        (REVISION_2, LENGTH_2) => 0,
        (REVISION_3, length) if length == LENGTH_2 + 4 => {
            value.last_chunk::<4>().map_or(0, |root| u32::from_le_bytes(*root))
        }
        _ => return Ok(()),
    };
    let root = change(root)?;
    value.truncate(LENGTH_2);
    let revision = if root == 0 { REVISION_2 } else { REVISION_3 };
    value[..4].copy_from_slice(&(first & !REVISION | revision).to_le_bytes());
    if root != 0 {
        value.extend(root.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a machine's range has it.
    fn into(id: u32) -> Result<u32, u32> {
        if id < 65_536 { Ok(700_000 + id) } else { Err(id) }
    }

    fn out(id: u32) -> Result<u32, u32> {
        Ok(id - 700_000)
    }

    #[test]
    fn lists_have_ids_of_users_and_groups_alone() {
        let entry = |sort: u16, id: u32| [&sort.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let list = |user: u32, group: u32| {
            [
                LIST_VERSION.to_vec(),
                entry(1, u32::MAX),
                entry(LIST_USER, user),
                entry(LIST_GROUP, group),
                entry(0x20, u32::MAX),
            ]
            .concat()
        };
        let mut value = list(1000, 5);
        change_list(&mut value, into).unwrap();
        assert_eq!(value, list(701_000, 700_005));
        change_list(&mut value, out).unwrap();
        assert_eq!(value, list(1000, 5));
        assert_eq!(change_list(&mut list(1, 70_000), into), Err(70_000));
        let mut other = vec![3, 0, 0, 0, 2, 0, 6, 0, 1, 2, 3, 4];
        change_list(&mut other, into).unwrap();
        change_list(&mut [], into).unwrap();
        assert_eq!(other, [3, 0, 0, 0, 2, 0, 6, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn capabilities_are_for_a_root() {
        // Effective; CAP_NET_RAW.
        let plain = [&0x0200_0001_u32.to_le_bytes()[..], &0x2000_u32.to_le_bytes(), &[0; 12]].concat();
        let rooted = [&0x0300_0001_u32.to_le_bytes()[..], &plain[4..], &700_000_u32.to_le_bytes()].concat();
        let mut value = plain.clone();
        change_capabilities(&mut value, into).unwrap();
        assert_eq!(value, rooted);
        change_capabilities(&mut value, out).unwrap();
        assert_eq!(value, plain);
        for mut odd in [vec![], vec![1, 2, 3], vec![0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 0, 0], plain[..16].to_vec()]
        {
            let before = odd.clone();
            change_capabilities(&mut odd, into).unwrap();
            assert_eq!(odd, before);
        }
    }
}
