//! Routes by nexthop objects (ip-nexthop(8)), as systemd-networkd makes them of router advertisements. CRIU saves what the kernel
//! shows of such a route, which is the object's number and what it stands for, and the kernel takes back one of the two; the
//! objects CRIU does not save.

use std::fs;
use std::io;
use std::path::Path;

/// What begins the output of `ip route save` (iproute2's ip/iproute.c), which is the image.
const MAGIC: u32 = 0x4531_1224;
/// `struct nlmsghdr` and `struct rtmsg` (man 7 netlink, man 7 rtnetlink).
const HEADERS: usize = 16 + 12;
/// `RTA_NH_ID` (linux/rtnetlink.h).
const NEXTHOP: u16 = 30;

/// Takes the objects' numbers out of the images of routes.
///
/// # Errors
/// What reading and writing them gives; `InvalidData` for what is no such image.
pub(super) fn mend(images: &Path) -> io::Result<()> {
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !(name.starts_with("route-") || name.starts_with("route6-")) {
            continue;
        }
        let saved = fs::read(entry.path())?;
        let mended = without_numbers(&saved).ok_or(io::ErrorKind::InvalidData)?;
        if mended != saved {
            fs::write(entry.path(), mended)?;
        }
    }
    Ok(())
}

fn without_numbers(saved: &[u8]) -> Option<Vec<u8>> {
    // What there was nothing to write into.
    if saved.is_empty() {
        return Some(Vec::new());
    }
    let (magic, mut rest) = saved.split_first_chunk::<4>()?;
    (u32::from_ne_bytes(*magic) == MAGIC).then_some(())?;
    let mut mended = magic.to_vec();
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        let (message, after) = rest.split_at_checked(length.next_multiple_of(4))?;
        let (headers, attributes) = message.split_at_checked(HEADERS)?;
        let start = mended.len();
        mended.extend_from_slice(headers);
        copy_others(attributes, &mut mended)?;
        let length = u32::try_from(mended.len() - start).ok()?;
        mended[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        rest = after;
    }
    Some(mended)
}

/// Each of `struct rtattr`: two bytes of length, two of type, and what that says, filled up to four bytes.
fn copy_others(mut attributes: &[u8], to: &mut Vec<u8>) -> Option<()> {
    while !attributes.is_empty() {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let kind = u16::from_ne_bytes(*rest.first_chunk()?);
        let length = usize::from(u16::from_ne_bytes(*length));
        let (attribute, after) = attributes.split_at_checked(length.max(4).next_multiple_of(4))?;
        if kind != NEXTHOP {
            to.extend_from_slice(attribute);
        }
        attributes = after;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
    }

    fn message(attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.concat();
        let length = u32::try_from(HEADERS + attributes.len()).unwrap();
        [&length.to_ne_bytes()[..], &[7; HEADERS - 4], &attributes].concat()
    }

    #[test]
    fn a_route_by_an_object_is_one_by_what_that_stands_for() {
        let dir = TestDir::new("nexthop");
        let (to, by, link) =
            (attribute(1, [10, 78, 0, 0]), attribute(NEXTHOP, [7, 0, 0, 0]), attribute(4, [2, 0, 0, 0]));
        let plain = message(&[to.clone(), link.clone()]);
        let image = |messages: &[&[u8]]| [&MAGIC.to_ne_bytes()[..], &messages.concat()].concat();
        let saved = image(&[&plain, &message(&[to, by, link]), &plain]);
        fs::write(dir.join("route-10.img"), &saved).unwrap();
        fs::write(dir.join("route6-10.img"), b"").unwrap();
        fs::write(dir.join("rule-10.img"), &saved).unwrap();
        mend(dir.path()).unwrap();
        assert_eq!(fs::read(dir.join("route-10.img")).unwrap(), image(&[&plain, &plain, &plain]));
        assert_eq!(fs::read(dir.join("route6-10.img")).unwrap(), b"");
        assert_eq!(fs::read(dir.join("rule-10.img")).unwrap(), saved);
        for cut in [3, 6, 20, saved.len() - 3] {
            fs::write(dir.join("route-10.img"), &saved[..cut]).unwrap();
            assert_eq!(mend(dir.path()).unwrap_err().kind(), io::ErrorKind::InvalidData, "{cut}");
        }
    }
}
