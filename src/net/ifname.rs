//! The name of the host's end of a machine's link.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::name::MachineName;

/// The longest name of a link: `IFNAMSIZ` without the final zero byte.
const MAX_LEN: usize = 15;

/// systemd's `SHORTEN_IFNAME_HASH_KEY`.
const KEY: [u8; 16] = 0xe190_a404_a8ef_4b51_8ccc_c33a_9f11_fca2_u128.to_be_bytes();

/// The 64 digits of base64url (RFC 4648, section 5).
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// `ve-NAME`, and nothing more where that fits. Where it does not: the first 11 bytes with the low 24 bits of a hash of all
/// of it as four digits, which is systemd's naming scheme from v245 on, and the full name as the alternative one.
pub fn for_machine(machine: &MachineName) -> (String, Option<String>) {
    let full = format!("ve-{machine}");
    if full.len() <= MAX_LEN {
        return (full, None);
    }
    let mut hasher = SipHasher24::new_with_key(&KEY);
    hasher.write(full.as_bytes());
    let [low, middle, high, ..] = hasher.finish().to_le_bytes();
    let hash = u32::from_le_bytes([low, middle, high, 0]);
    let digit = |shift: u32| char::from(DIGITS[(hash >> shift & 0x3f) as usize]);
    // A machine name is ASCII, so that a byte is a character.
    let short = full.chars().take(MAX_LEN - 4).chain([18, 12, 6, 0].map(digit)).collect();
    (short, Some(full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shortened_when_it_has_to_be() {
        let name = |text: &str| for_machine(&text.parse().unwrap());
        assert_eq!(name("web"), ("ve-web".to_owned(), None));
        assert_eq!(name("abcdefghijkl"), ("ve-abcdefghijkl".to_owned(), None));
        let (a, alt) = name("abcdefghijklm");
        assert_eq!((a.len(), &a[..11], alt.as_deref()), (15, "ve-abcdefgh", Some("ve-abcdefghijklm")));
        assert_ne!(a, name("abcdefghijkln").0);
    }
}
