use super::*;
use crate::api::hpack::testing::{Field, Form, Sender, blocks};
use fluke_hpack::Decoder;
use proptest::prelude::*;

/// Decodes the original and the rewritten blocks of a connection by an independent implementation, each
/// with its own dynamic table, and compares them field by field.
fn compare(original: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut walker = Walker::default();
    let (mut before, mut after) = (Decoder::new(), Decoder::new());
    for block in original {
        let mut rewritten = block.clone();
        let changed = walker.legalise(&mut rewritten).map_err(|_| TestCaseError::fail("well-formed"))?;
        prop_assert_eq!(changed, &rewritten != block);
        let sent = before.decode(block).map_err(|error| TestCaseError::fail(format!("sent: {error:?}")))?;
        let seen =
            after.decode(&rewritten).map_err(|error| TestCaseError::fail(format!("seen: {error:?}")))?;
        prop_assert_eq!(sent.len(), seen.len());
        for ((name, sent), (same, seen)) in sent.iter().zip(&seen) {
            prop_assert_eq!(name, same);
            if name != NAME || is_legal(sent) {
                prop_assert_eq!(sent, seen);
            } else {
                prop_assert_eq!(sent.len(), seen.len());
                // Octets without a legal one as long are the only excuse, and only in Huffman's code.
                let hopeless = sent.iter().any(|&octet| substitute(octet).is_none());
                prop_assert!(is_legal(seen) || hopeless, "{:?}", String::from_utf8_lossy(seen));
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn both_ends_keep_the_same_table(blocks in blocks()) {
        compare(&blocks)?;
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(mut block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = block.len();
        let _ = Walker::default().legalise(&mut block);
        prop_assert_eq!(block.len(), length);
    }

    #[test]
    fn huffman_codes_are_those_of_the_standard(value in proptest::collection::vec(any::<u8>(), 0..60)) {
        let mut block = vec![0x00, 1, b'n'];
        testing::huffman_string(&value, &mut block);
        let decoded = Decoder::new().decode(&block).unwrap();
        prop_assert_eq!(&decoded[0].1, &value);
        let mut at = 3;
        let literal = string(&block, &mut at).unwrap();
        prop_assert_eq!(huffman::decode(&block[literal.start..literal.end]).unwrap(), value);
    }
}

fn one(field: &Field) -> Vec<u8> {
    let mut sender = Sender::default();
    let mut block = sender.block(std::slice::from_ref(field));
    assert_eq!(Walker::default().legalise(&mut block), Ok(true));
    Decoder::new().decode(&block).unwrap()[0].1.clone()
}

fn authority(value: &str, huffman_name: bool, huffman_value: bool, form: Form) -> Field {
    Field { name: NAME.to_vec(), value: value.into(), huffman_name, huffman_value, form, literal_name: false }
}

#[test]
fn the_authorities_that_real_clients_send_become_host_names() {
    for huffman in [false, true] {
        for form in [Form::Inserted, Form::Plain, Form::Never] {
            let field = authority("tmp%2Fx.sock", false, huffman, form);
            assert_eq!(one(&field), b"tmp-2Fx.sock");
            let field = authority("/run/wattd/wattd.sock", false, huffman, form);
            assert_eq!(one(&field), b"-run-wattd-wattd.sock");
            let literal_name = Field { literal_name: true, huffman_name: huffman, ..field };
            assert_eq!(one(&literal_name), b"-run-wattd-wattd.sock");
        }
    }
}

#[test]
fn every_substitute_is_legal_and_as_long_in_huffmans_code() {
    for octet in 0..=u8::MAX {
        if let Some(legal) = substitute(octet) {
            assert_eq!(huffman::LENGTHS[usize::from(octet)], huffman::LENGTHS[usize::from(legal)]);
            assert!(is_legal(&[b'a', legal, b'a']), "{legal}");
        }
    }
}

#[test]
fn a_name_from_the_dynamic_table_is_recognised_after_any_number_of_insertions() {
    let mut sender = Sender::default();
    let mut walker = Walker::default();
    let mut decoder = Decoder::new();
    let first = authority("localhost", false, false, Form::Inserted);
    let mut block = sender.block(&[first]);
    assert_eq!(walker.legalise(&mut block), Ok(false));
    decoder.decode(&block).unwrap();
    for other in 0..70 {
        let name = format!("x-{other}").into_bytes();
        let field = Field { name, value: b"y".to_vec(), ..authority("", false, false, Form::Inserted) };
        let mut block = sender.block(&[field]);
        assert_eq!(walker.legalise(&mut block), Ok(false));
        decoder.decode(&block).unwrap();
    }
    // Literal without indexing, name from entry 62 + 70 = 132: 15 in the prefix, 117 after it.
    let mut block = vec![0x0f, 117, 3, b'a', b'%', b'b'];
    assert_eq!(walker.legalise(&mut block), Ok(true));
    assert_eq!(decoder.decode(&block).unwrap()[0], (NAME.to_vec(), b"a-b".to_vec()));
}
