//! A sender of header blocks for tests that uses every form HPACK has.

use super::{NAME, huffman};
use proptest::prelude::*;
use std::collections::VecDeque;

/// How a field is represented if it is not in a table as it is.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) enum Form {
    Inserted,
    Plain,
    Never,
}

/// A header field and how to send it.
#[derive(Debug, Clone)]
pub(in crate::api) struct Field {
    pub(in crate::api) name: Vec<u8>,
    pub(in crate::api) value: Vec<u8>,
    pub(in crate::api) huffman_name: bool,
    pub(in crate::api) huffman_value: bool,
    pub(in crate::api) form: Form,
    /// Spell the name out even if a table has it.
    pub(in crate::api) literal_name: bool,
}

/// The sending end of a connection.
#[derive(Debug, Default)]
pub(in crate::api) struct Sender {
    /// Newest first.
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Sender {
    pub(in crate::api) fn block(&mut self, fields: &[Field]) -> Vec<u8> {
        let mut block = Vec::new();
        fields.iter().for_each(|field| self.put(field, &mut block));
        block
    }

    fn put(&mut self, field: &Field, block: &mut Vec<u8>) {
        let known = self.table.iter().position(|(name, value)| *name == field.name && *value == field.value);
        if let (Some(known), false) = (known, field.literal_name) {
            return integer(62 + known, 7, 0x80, block);
        }
        let (prefix, bits) = match field.form {
            Form::Inserted => (6, 0x40),
            Form::Plain => (4, 0x00),
            Form::Never => (4, 0x10),
        };
        let named = self.table.iter().position(|(name, _)| *name == field.name).map(|at| at + 62);
        let static_name = (field.name == NAME).then_some(1);
        match named.or(static_name).filter(|_| !field.literal_name) {
            Some(index) => integer(index, prefix, bits, block),
            None => {
                block.push(bits);
                text(&field.name, field.huffman_name, block);
            }
        }
        text(&field.value, field.huffman_value, block);
        if matches!(field.form, Form::Inserted) {
            self.table.push_front((field.name.clone(), field.value.clone()));
            let size = |table: &VecDeque<(Vec<u8>, Vec<u8>)>| -> usize {
                table.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
            };
            while size(&self.table) > 4096 {
                self.table.pop_back();
            }
        }
    }
}

fn integer(value: usize, prefix: u32, bits: u8, block: &mut Vec<u8>) {
    let mask = (1_usize << prefix) - 1;
    let octet = |value: usize| u8::try_from(value).unwrap();
    if value < mask {
        return block.push(bits | octet(value));
    }
    block.push(bits | octet(mask));
    let mut rest = value - mask;
    while rest >= 0x80 {
        block.push(0x80 | octet(rest & 0x7f));
        rest >>= 7;
    }
    block.push(octet(rest));
}

fn text(value: &[u8], huffman: bool, block: &mut Vec<u8>) {
    if huffman {
        return huffman_string(value, block);
    }
    integer(value.len(), 7, 0, block);
    block.extend_from_slice(value);
}

/// A string literal in Huffman's code, padded with ones.
pub(in crate::api) fn huffman_string(value: &[u8], block: &mut Vec<u8>) {
    let bits: usize = value.iter().map(|&octet| usize::from(huffman::LENGTHS[usize::from(octet)])).sum();
    let mut literal = vec![0xff; bits.div_ceil(8)];
    huffman::overwrite(&mut literal, value);
    integer(literal.len(), 7, 0x80, block);
    block.extend_from_slice(&literal);
}

fn field() -> impl Strategy<Value = Field> {
    let name = prop_oneof![
        3 => Just(NAME.to_vec()),
        1 => "[a-z]{1,3}".prop_map(String::into_bytes),
    ];
    let value = prop_oneof![
        2 => "[a-z0-9.]{1,12}(:[0-9]{1,4})?".prop_map(String::into_bytes),
        3 => "[a-z%/:@ +\\[\\]]{0,24}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..24),
        1 => proptest::collection::vec(Just(b'a'), 1000..4500),
    ];
    let form = prop_oneof![3 => Just(Form::Inserted), 1 => Just(Form::Plain), 1 => Just(Form::Never)];
    (name, value, any::<bool>(), any::<bool>(), form, proptest::bool::weighted(0.2)).prop_map(
        |(name, value, huffman_name, huffman_value, form, literal_name)| Field {
            name,
            value,
            huffman_name,
            huffman_value,
            form,
            literal_name,
        },
    )
}

/// The header blocks of a connection.
pub(in crate::api) fn blocks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(field(), 0..6), 1..20).prop_map(|blocks| {
        let mut sender = Sender::default();
        blocks.iter().map(|fields| sender.block(fields)).collect()
    })
}
