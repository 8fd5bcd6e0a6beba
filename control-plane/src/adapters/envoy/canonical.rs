//! The same bytes for the same message. Maps are encoded in an order left to chance, and then the version of a resource
//! would change with every start. A map is encoded as one field for each entry, so sorting these fields is enough.

/// Length-delimited, in the encoding of Protobuf.
const DELIMITED: u64 = 2;

/// The message with the entries of one map in order. `path` holds the numbers of the fields that lead to the map, its own
/// last. What is no valid encoding comes back as it is.
pub fn sorted(message: &[u8], path: &[u64]) -> Vec<u8> {
    rewritten(message, path).unwrap_or_else(|| message.to_vec())
}

fn rewritten(mut message: &[u8], path: &[u64]) -> Option<Vec<u8>> {
    let (field, deeper) = path.split_first()?;
    let (mut out, mut entries) = (Vec::with_capacity(message.len()), Vec::new());
    while !message.is_empty() {
        let start = message;
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => {
                varint(&mut message)?;
                None
            }
            1 => {
                message = message.get(8..)?;
                None
            }
            5 => {
                message = message.get(4..)?;
                None
            }
            DELIMITED => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let value = message.get(..length)?;
                message = &message[length..];
                Some(value)
            }
            _ => return None,
        };
        let whole = &start[..start.len() - message.len()];
        match value {
            Some(_) if tag >> 3 == *field && deeper.is_empty() => entries.push(whole),
            Some(value) if tag >> 3 == *field => {
                let value = rewritten(value, deeper)?;
                put_varint(&mut out, tag);
                put_varint(&mut out, u64::try_from(value.len()).ok()?);
                out.extend(value);
            }
            _ => out.extend(whole),
        }
    }
    entries.sort_unstable();
    out.extend(entries.concat());
    Some(out)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        // Seven bits fit into a byte.
        out.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::{Struct, Value, value};
    use prost::Message as _;

    use super::*;

    fn text(text: &str) -> Value {
        Value {
            kind: Some(value::Kind::StringValue(text.to_owned())),
        }
    }

    #[test]
    fn entries_come_in_order_and_nothing_is_lost() {
        let keys = ["d", "a", "c", "b", "e"];
        let message = || Struct {
            fields: keys.map(|key| (key.to_owned(), text(key))).into(),
        };
        let first = sorted(&message().encode_to_vec(), &[1]);
        for _ in 0..20 {
            assert_eq!(sorted(&message().encode_to_vec(), &[1]), first);
        }
        assert_eq!(Struct::decode(first.as_slice()).unwrap(), message());
    }

    #[test]
    fn what_is_no_message_comes_back_as_it_is() {
        for bytes in [&[0x0a, 0x05, 1][..], &[0xff; 12], &[0x0b], &[0x09, 1]] {
            assert_eq!(sorted(bytes, &[1, 2]), bytes);
        }
        assert_eq!(sorted(&[], &[1]), Vec::<u8>::new());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            sorted(&bytes, &[2, 3, 13]);
        }
    }
}
