//! A message taken apart into its fields, of which some are changed, and put together again: of others, and of those that osier knows
//! nothing of, all stays. Lengths of what is around a change come out right whatever becomes of its own.

use super::file::{fields, varint};

/// The wire types of numbers and of what has a length (protobuf.dev, "Encoding").
const NUMBER: u64 = 0;
const LONG: u64 = 2;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::criu) struct Parts(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Its number in the .proto file.
    number: u64,
    wire: u64,
    value: Vec<u8>,
}

impl Parts {
    /// `None` for what is no message.
    pub(in crate::criu) fn parse(message: &[u8]) -> Option<Self> {
        let part = |field: super::file::Field| {
            let value = message[field.value].to_vec();
            Part { number: field.number, wire: field.wire, value }
        };
        Some(Self(fields(message)?.into_iter().map(part).collect()))
    }

    /// The number that is the field `number`, if it has that.
    pub(in crate::criu) fn number(&self, number: u64) -> Option<u64> {
        let part = self.0.iter().find(|part| part.number == number && part.wire == NUMBER)?;
        varint(&part.value).map(|(value, _)| value)
    }

    /// Puts another one in its place; says whether it has it.
    pub(in crate::criu) fn set_number(&mut self, number: u64, value: u64) -> bool {
        let part = self.0.iter_mut().find(|part| part.number == number && part.wire == NUMBER);
        part.map(|part| part.value = encode(value)).is_some()
    }

    /// Puts every message that is a field `number` to `change`, and what that makes of it in its place. `None` when that says so, or for
    /// what is no message.
    pub(in crate::criu) fn change(
        &mut self,
        number: u64,
        change: &mut dyn FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        for part in self.0.iter_mut().filter(|part| part.number == number) {
            let mut message = Self::parse(&part.value)?;
            change(&mut message)?;
            part.value = message.encode();
        }
        Some(())
    }

    /// The message.
    pub(in crate::criu) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for part in &self.0 {
            message.extend(encode(part.number << 3 | part.wire));
            if part.wire == LONG {
                message.extend(encode(part.value.len() as u64));
            }
            message.extend(&part.value);
        }
        message
    }
}

fn encode(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value > 0x7f {
        encoded.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_may_grow_and_the_rest_stays() {
        // outer { 1: 7, 2: inner { 3: 1, 4: fixed32, 3: … } , 31: "hi" }, and 2 once more.
        let inner = [0x18, 1, 0x25, 1, 2, 3, 4];
        let outer = [&[8, 7, 0x12, 7][..], &inner, &[0xfa, 1, 2, b'h', b'i'], &[0x12, 2, 0x18, 5]].concat();
        let mut parts = Parts::parse(&outer).unwrap();
        assert_eq!(parts.encode(), outer);
        let mut seen = Vec::new();
        let changed = parts.change(2, &mut |inner| {
            seen.push(inner.number(3)?);
            inner.set_number(3, 1 << 63).then_some(())
        });
        assert_eq!((changed, seen), (Some(()), vec![1, 5]));
        let large = [0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1];
        let wanted =
            [&[8, 7, 0x12, 16][..], &large, &inner[2..], &[0xfa, 1, 2, b'h', b'i', 0x12, 11], &large];
        assert_eq!(parts.encode(), wanted.concat());
        assert!(!parts.set_number(9, 1));
        assert_eq!(parts.change(2, &mut |_| None), None);
        assert_eq!(Parts::parse(&outer[..outer.len() - 1]), None);
    }
}
