//! Just enough HPACK (RFC 7541) to find the `:authority` fields of a header block and to make their
//! values legal without changing a single length.
//!
//! **Why lengths stay.** Both ends of a connection keep a dynamic table and evict by the *decoded* size
//! of its entries (section 4.1). A value of the same decoded length in the same representation keeps
//! the two tables in step, and the server's entry holds the legal value for every later reference.
//! A value of the same *encoded* length leaves string, block and frame lengths as they are, so nothing
//! is moved. Both hold at once if every illegal octet gives way to a legal one whose Huffman code is as
//! long: `%` (010101) and `/` (011000) to `-` (010110), and so on; see [`substitute`].
//!
//! **What must be tracked.** A literal may take its name from the dynamic table, so it must be known
//! which entries are named `:authority`. Index 62 + i is the i-th last insertion as long as it is still
//! there; evictions only take the oldest, and an entry too large for the table empties it (section 4.4)
//! so that everything before it is gone as well. One bit per insertion, newest first, is therefore
//! exact for every index that is valid at all; 128 of them cover the 4096 octets of the default table,
//! since an entry counts at least 32.

/// The block is not HPACK; the server's own decoder will say so to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

const NAME: &[u8] = b":authority";
/// Index of `:authority` in the static table.
const STATIC_AUTHORITY: usize = 1;
/// First index of the dynamic table.
const DYNAMIC: usize = 62;

/// What is known of one direction of a connection between header blocks.
#[derive(Debug, Default, Clone)]
pub(super) struct Walker {
    /// Bit i: the i-th last insertion is named `:authority`.
    named: u128,
}

impl Walker {
    /// Makes every `:authority` value in a whole header block legal, in place. Returns whether anything
    /// was changed.
    ///
    /// # Errors
    /// If the block is malformed; what came before the fault may have been changed.
    pub(super) fn legalise(&mut self, block: &mut [u8]) -> Result<bool, Malformed> {
        let mut at = 0;
        let mut changed = false;
        while let Some(&first) = block.get(at) {
            let (prefix, inserts) = match first {
                0x80.. => (7, false),
                0x40.. => (6, true),
                0x20.. => (5, false),
                _ => (4, false),
            };
            let index = integer(block, &mut at, prefix)?;
            if prefix == 7 || prefix == 5 {
                continue;
            }
            let authority = match index {
                0 => string(block, &mut at)?.is_authority(block),
                STATIC_AUTHORITY => true,
                _ => {
                    let back = index.checked_sub(DYNAMIC).and_then(|back| u32::try_from(back).ok());
                    back.and_then(|back| self.named.checked_shr(back)).is_some_and(|bits| bits & 1 == 1)
                }
            };
            let value = string(block, &mut at)?;
            if authority {
                changed |= value.legalise(block)?;
            }
            if inserts {
                self.named = self.named << 1 | u128::from(authority);
            }
        }
        Ok(changed)
    }
}

/// Where a string literal lies in its block.
struct Literal {
    start: usize,
    end: usize,
    huffman: bool,
}

impl Literal {
    fn is_authority(&self, block: &[u8]) -> bool {
        let octets = &block[self.start..self.end];
        if !self.huffman {
            return octets == NAME;
        }
        // Every code has at least 5 bits: a longer literal cannot be the name, and need not be decoded.
        octets.len() <= NAME.len() && huffman::decode(octets).is_ok_and(|name| name == NAME)
    }

    fn legalise(&self, block: &mut [u8]) -> Result<bool, Malformed> {
        let octets = &mut block[self.start..self.end];
        if !self.huffman {
            if is_legal(octets) {
                return Ok(false);
            }
            for octet in octets.iter_mut() {
                *octet = substitute(*octet).unwrap_or(b'-');
            }
            return Ok(true);
        }
        let value = huffman::decode(octets)?;
        if is_legal(&value) {
            return Ok(false);
        }
        let Some(legal) = value.iter().map(|&octet| substitute(octet)).collect::<Option<Vec<u8>>>() else {
            // No legal octet has as long a code: left for the server to refuse.
            return Ok(false);
        };
        huffman::overwrite(octets, &legal);
        Ok(true)
    }
}

/// Whether the server's stack takes the value. An empty one is beyond repair: nothing as short is legal.
fn is_legal(value: &[u8]) -> bool {
    value.is_empty() || http::uri::Authority::try_from(value).is_ok()
}

/// A legal octet with a Huffman code of the same length: the octet itself if it may stand in any host
/// name. `None` for octets of 12, 14 and more bits, among which there is no legal one.
fn substitute(octet: u8) -> Option<u8> {
    if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
        return Some(octet);
    }
    match huffman::LENGTHS[usize::from(octet)] {
        6 => Some(b'-'),
        7 => Some(b'B'),
        8 => Some(b'*'),
        10 => Some(b'!'),
        11 => Some(b'+'),
        13 => Some(b'~'),
        _ => None,
    }
}

/// An integer with an N-bit prefix (section 5.1). No sender needs more than four further octets.
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Result<usize, Malformed> {
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at).ok_or(Malformed)?) & mask;
    *at += 1;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let octet = *block.get(*at).ok_or(Malformed)?;
        *at += 1;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// A string literal (section 5.2).
fn string(block: &[u8], at: &mut usize) -> Result<Literal, Malformed> {
    let huffman = block.get(*at).ok_or(Malformed)? & 0x80 != 0;
    let len = integer(block, at, 7)?;
    let start = *at;
    let end = start.checked_add(len).filter(|&end| end <= block.len()).ok_or(Malformed)?;
    *at = end;
    Ok(Literal { start, end, huffman })
}

/// The canonical Huffman code of RFC 7541, appendix B, derived from its code lengths.
mod huffman {
    use super::Malformed;

    /// Bits of the code of each octet; the code of end-of-string has 30.
    #[rustfmt::skip]
    pub(super) const LENGTHS: [u8; 256] = [
        13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
        28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
         6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
         5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
        13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
         7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
        15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
         6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
        20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
        24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
        22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
        21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
        26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
        19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
        20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
        26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    ];

    const LONGEST: usize = 30;

    /// The codes of one length are consecutive numbers.
    #[derive(Clone, Copy)]
    struct Rank {
        /// The first code of this length.
        first: u32,
        /// How many octets have this length.
        count: u32,
        /// Where they begin in [`BY_CODE`].
        offset: u32,
    }

    /// Octets in the order of their codes, and the codes of each length.
    const BY_CODE: ([u8; 256], [Rank; LONGEST + 1]) = by_code();

    #[allow(clippy::cast_possible_truncation, reason = "octet counts up to 255")]
    const fn by_code() -> ([u8; 256], [Rank; LONGEST + 1]) {
        let mut octets = [0; 256];
        let mut ranks = [Rank { first: 0, count: 0, offset: 0 }; LONGEST + 1];
        let (mut next, mut code, mut length) = (0, 0, 1);
        while length <= LONGEST {
            code <<= 1;
            ranks[length].first = code;
            ranks[length].offset = next as u32;
            let mut octet = 0;
            while octet < 256 {
                if LENGTHS[octet] as usize == length {
                    octets[next] = octet as u8;
                    next += 1;
                    code += 1;
                }
                octet += 1;
            }
            ranks[length].count = code - ranks[length].first;
            length += 1;
        }
        (octets, ranks)
    }

    /// The octets that a literal stands for.
    pub(super) fn decode(literal: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut octets = Vec::with_capacity(literal.len() * 8 / 5);
        let (mut code, mut length) = (0_u32, 0_usize);
        for bit in literal.iter().flat_map(|octet| (0..8).rev().map(move |shift| octet >> shift & 1)) {
            code = code << 1 | u32::from(bit);
            length += 1;
            let rank = BY_CODE.1.get(length).ok_or(Malformed)?;
            if code.wrapping_sub(rank.first) < rank.count {
                octets.push(BY_CODE.0[(rank.offset + code - rank.first) as usize]);
                (code, length) = (0, 0);
            }
        }
        // What is left is padding: fewer than 8 bits, all ones.
        if length < 8 && code == (1 << length) - 1 { Ok(octets) } else { Err(Malformed) }
    }

    /// The code of an octet.
    fn code_of(octet: u8) -> u32 {
        let rank = BY_CODE.1[usize::from(LENGTHS[usize::from(octet)])];
        let range = rank.offset as usize..(rank.offset + rank.count) as usize;
        // The octets of one length are few, and in order.
        let place = BY_CODE.0[range].binary_search(&octet).unwrap_or_default();
        rank.first + u32::try_from(place).unwrap_or_default()
    }

    /// Writes the codes of `octets` over a literal. Bits beyond its end are dropped: the caller has seen
    /// to it that the codes take exactly the bits that were there.
    pub(super) fn overwrite(literal: &mut [u8], octets: &[u8]) {
        let mut at = 0;
        for &octet in octets {
            let code = code_of(octet);
            for shift in (0..LENGTHS[usize::from(octet)]).rev() {
                let mask = 0x80_u8 >> (at % 8);
                if let Some(place) = literal.get_mut(at / 8) {
                    if code >> shift & 1 == 1 { *place |= mask } else { *place &= !mask }
                }
                at += 1;
            }
        }
    }
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hpack_testing.rs"]
pub(super) mod testing;
