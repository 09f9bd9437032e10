//! Protocol Buffers, written by hand into one buffer: just what OTLP needs of them.
//!
//! The exporter turns every sampled request into some sixty attributes. Generated message structs
//! would copy each key and value into strings of their own first, which costs more than the request
//! itself; here they go from the trace straight into the bytes that are sent.

use bytes::Bytes;

/// A message under construction.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

impl Writer {
    /// One with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }

    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.raw_varint(u64::from(field << 3 | wire));
    }

    pub(crate) fn varint(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.raw_varint(value);
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        self.tag(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.tag(field, DELIMITED);
        self.raw_varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    pub(crate) fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// A packed list of eight-byte numbers.
    pub(crate) fn packed(&mut self, field: u32, values: impl ExactSizeIterator<Item = u64>) {
        self.tag(field, DELIMITED);
        self.raw_varint(8 * values.len() as u64);
        values.for_each(|value| self.0.extend_from_slice(&value.to_le_bytes()));
    }

    /// A message inside of this one. Its length is known only afterwards: one byte is kept for it,
    /// and a message of 128 bytes or more is moved up to make room.
    pub(crate) fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) {
        self.tag(field, DELIMITED);
        let at = self.0.len();
        self.0.push(0);
        fill(self);
        let len = self.0.len() - at - 1;
        match u8::try_from(len) {
            Ok(short @ ..0x80) => self.0[at] = short,
            _ => self.widen(at, len),
        }
    }

    /// Writes the length of a long message, for which there is one byte at `at` so far.
    #[cold]
    fn widen(&mut self, at: usize, len: usize) {
        let more = (len.ilog2() / 7) as usize;
        self.0.resize(self.0.len() + more, 0);
        self.0.copy_within(at + 1..at + 1 + len, at + 1 + more);
        let mut rest = len;
        for (i, byte) in self.0[at..=at + more].iter_mut().enumerate() {
            let low = rest.to_le_bytes()[0] & 0x7f;
            *byte = if i < more { low | 0x80 } else { low };
            rest >>= 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Node {
        #[prost(string, tag = "1")]
        text: String,
        #[prost(uint64, tag = "2")]
        number: u64,
        #[prost(message, repeated, tag = "3")]
        children: Vec<Node>,
        #[prost(double, repeated, tag = "20")]
        values: Vec<f64>,
        #[prost(fixed32, tag = "21")]
        flags: u32,
    }

    fn write(node: &Node, writer: &mut Writer) {
        writer.string(1, &node.text);
        writer.varint(2, node.number);
        for child in &node.children {
            writer.message(3, |inner| write(child, inner));
        }
        writer.packed(20, node.values.iter().map(|value| value.to_bits()));
        writer.fixed32(21, node.flags);
    }

    fn node() -> impl Strategy<Value = Node> {
        let values = || prop::collection::vec(-1e9..1e9, 0..3);
        let leaf = (".{0,200}", any::<u64>(), values(), any::<u32>()).prop_map(
            |(text, number, values, flags)| Node { text, number, children: vec![], values, flags },
        );
        leaf.prop_recursive(4, 64, 6, |inner| {
            (".{0,20}", prop::collection::vec(inner, 0..6)).prop_map(|(text, children)| Node {
                text,
                children,
                ..Node::default()
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(node in node()) {
            let mut writer = Writer::default();
            write(&node, &mut writer);
            prop_assert_eq!(Node::decode(writer.finish()).unwrap(), node);
        }
    }

    #[test]
    fn a_message_of_any_length_has_the_shortest_prefix() {
        for len in [0, 1, 127, 128, 16_383, 16_384, 3_000_000] {
            let mut writer = Writer::default();
            writer.message(3, |inner| inner.0.resize(inner.0.len() + len, b'x'));
            let prefix = prost::length_delimiter_len(len);
            assert_eq!(writer.finish().len(), 1 + prefix + len);
        }
    }
}
