//! NumPy's `.npy` files, as `numpy.save` writes them: little-endian plain numbers in C order.
//!
//! Read here rather than by a crate, because the files may be hostile: the one kept crate allocates what the
//! header claims (up to 4 GiB) and multiplies dimensions unchecked.
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use crate::exec::{DataType, Tensor};
use std::io::Read;

/// Longest header, bytes. `numpy.save` writes 128.
const MAX_HEADER_BYTES: usize = 4_096;
/// Most dimensions.
const MAX_RANK: usize = 8;

/// Why a file could not be read as an array.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The system's error.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It does not begin as such a file does.
    #[error("is no .npy file: it must begin with \"\\x93NUMPY\" and a version from 1 to 3")]
    Magic,
    /// The header is not what `numpy.save` writes.
    #[error(
        "has the header `{0}`: must be {{'descr': '<f4', 'fortran_order': False, 'shape': (10, 3), }} or alike"
    )]
    Header(String),
    /// A type that no tensor has.
    #[error("has elements of type `{0}`: must be a bool, or a little-endian number of 8 to 64 bits")]
    Type(String),
    /// More than the limit.
    #[error("holds {bytes} bytes: at most {limit} are taken")]
    TooLarge {
        /// Bytes of the array.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The data end early.
    #[error("ends after {found} of {expected} bytes of data")]
    Truncated {
        /// Bytes there are.
        found: usize,
        /// Bytes there must be.
        expected: usize,
    },
}

/// Reads an array of at most `limit` bytes.
///
/// # Errors
/// If it is no such file, too large, or cut short.
pub fn read(mut reader: impl Read, limit: u64) -> Result<Tensor, NpyError> {
    let header = read_header(&mut reader)?;
    let (descr, shape) = parse_header(&header).ok_or_else(|| NpyError::Header(header.trim().to_owned()))?;
    let dtype = data_type(descr).ok_or_else(|| NpyError::Type(descr.to_owned()))?;
    let bytes = shape.iter().try_fold(dtype.size(), |bytes, d| bytes.checked_mul(*d));
    let expected = bytes.filter(|bytes| *bytes as u64 <= limit);
    let Some(expected) = expected else {
        return Err(NpyError::TooLarge { bytes: bytes.map_or(u64::MAX, |bytes| bytes as u64), limit });
    };
    let mut data = Vec::new();
    let found = reader.take(expected as u64).read_to_end(&mut data)?;
    if found < expected {
        return Err(NpyError::Truncated { found, expected });
    }
    Ok(Tensor { dtype, shape, data: data.into() })
}

fn read_header(reader: &mut impl Read) -> Result<String, NpyError> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| NpyError::Magic)?;
    let length = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, 0] => {
            let mut raw = [0; 2];
            reader.read_exact(&mut raw)?;
            usize::from(u16::from_le_bytes(raw))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, 0] => {
            let mut raw = [0; 4];
            reader.read_exact(&mut raw)?;
            usize::try_from(u32::from_le_bytes(raw)).unwrap_or(usize::MAX)
        }
        _ => return Err(NpyError::Magic),
    };
    if length > MAX_HEADER_BYTES {
        return Err(NpyError::Header(format!("of {length} bytes")));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|e| NpyError::Header(e.to_string()))
}

/// Type and shape out of a header as `numpy.save` writes it, keys in this order.
fn parse_header(header: &str) -> Option<(&str, Vec<usize>)> {
    let rest = header.trim().strip_prefix("{'descr': '")?;
    let (descr, rest) = rest.split_once('\'')?;
    let rest = rest.strip_prefix(", 'fortran_order': False, 'shape': (")?;
    let (shape, rest) = rest.split_once(')')?;
    if !matches!(rest.trim(), ", }" | "}" | ",}") {
        return None;
    }
    let dimensions = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape: Vec<usize> = dimensions.map(|d| d.parse().ok()).collect::<Option<_>>()?;
    (shape.len() <= MAX_RANK).then_some((descr, shape))
}

fn data_type(descr: &str) -> Option<DataType> {
    Some(match descr {
        "|b1" => DataType::Bool,
        "|u1" => DataType::Uint8,
        "<u2" => DataType::Uint16,
        "<u4" => DataType::Uint32,
        "<u8" => DataType::Uint64,
        "|i1" => DataType::Int8,
        "<i2" => DataType::Int16,
        "<i4" => DataType::Int32,
        "<i8" => DataType::Int64,
        "<f2" => DataType::Fp16,
        "<f4" => DataType::Fp32,
        "<f8" => DataType::Fp64,
        _ => return None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `numpy.save` writes it: header padded so that the data begin at a multiple of 64.
    pub(crate) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
    }

    #[test]
    fn an_array_is_read_as_it_was_saved() {
        let tensor = read(npy("<f4", "(2, 1)", &[0, 0, 128, 63, 0, 0, 0, 64]).as_slice(), 8).unwrap();
        assert_eq!((tensor.dtype, tensor.shape.as_slice()), (DataType::Fp32, [2, 1].as_slice()));
        assert_eq!(crate::model::score::numbers(&tensor).unwrap(), [1.0, 2.0]);
        let vector = read(npy("|u1", "(3,)", &[7, 8, 9]).as_slice(), 8).unwrap();
        assert_eq!((vector.shape.as_slice(), &vector.data[..]), ([3].as_slice(), [7, 8, 9].as_slice()));
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        let message = |bytes: &[u8]| read(bytes, 100).unwrap_err().to_string();
        assert!(message(b"PK\x03\x04........").contains("no .npy file"));
        assert!(message(&npy(">f4", "(1,)", &[0; 4])).contains("type `>f4`"));
        assert!(message(&npy("|O", "(1,)", &[0; 4])).contains("type `|O`"));
        assert!(message(&npy("<f4", "(26,)", &[0; 104])).contains("holds 104 bytes: at most 100"));
        assert!(message(&npy("<f4", "(4294967296, 4294967296, 4294967296)", &[])).contains("at most 100"));
        assert!(message(&npy("<f4", "(2,)", &[0; 7])).contains("after 7 of 8 bytes"));
        assert!(message(&npy("<f4", "(-1,)", &[])).contains("has the header"));
        let fortran = String::from_utf8_lossy(&npy("|u1", "(1,)", &[])).replace("False", "True ");
        assert!(parse_header(&fortran).is_none());
        assert!(message(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").contains("of 4294967295 bytes"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), version in 0_u8..5) {
            let bytes = [b"\x93NUMPY".as_slice(), &[version, 0, 40, 0], &tail].concat();
            let _ = read(bytes.as_slice(), 1_000);
        }

        #[test]
        fn arbitrary_headers_never_panic(descr in "[<>|][a-z][0-9]{1,3}", shape in "\\(?[0-9, ]{0,60}\\)?") {
            let _ = read(npy(&descr, &shape, &[0; 64]).as_slice(), 64);
        }
    }
}
