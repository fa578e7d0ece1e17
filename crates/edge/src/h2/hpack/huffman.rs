//! The Huffman code of HPACK (RFC 7541 § 5.2 and appendix B).
//!
//! The code is canonical: the lengths of its words say all of it, and the tables are made of them when this is
//! compiled. A symbol of up to eight bits is found by one look into a table, the rare long ones by their
//! length. Invariant: padding is shorter than a byte and all ones, and the end of the string is never coded.

use super::Broken;

/// How long the code of each byte is, and at last that of the end of the string.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
/// The longest code.
const LONGEST: usize = 30;
const END: u16 = 256;

/// All that is to be known of the code.
struct Code {
    /// Of each symbol, right-aligned.
    words: [u32; 257],
    /// Symbol and length by the next eight bits; length 0 for what is longer.
    short: [(u8, u8); 256],
    /// Symbols in the order of their codes.
    order: [u16; 257],
    /// Behind the last code of each length, left-aligned in 32 bits (33 bits hold the last of them).
    limits: [u64; LONGEST + 1],
    /// The place in `order` of each length's first code.
    places: [usize; LONGEST + 1],
}

static CODE: Code = Code::build();

impl Code {
    const fn build() -> Self {
        let mut code = Self {
            words: [0; 257],
            short: [(0, 0); 256],
            order: [0; 257],
            limits: [0; LONGEST + 1],
            places: [0; LONGEST + 1],
        };
        let (mut word, mut place, mut length) = (0_u64, 0, 1);
        while length <= LONGEST {
            word <<= 1;
            code.places[length] = place;
            let mut symbol = 0;
            while symbol < 257 {
                if LENGTHS[symbol] as usize == length {
                    code.words[symbol] = word as u32;
                    code.order[place] = symbol as u16;
                    code.note_short(symbol as u8, word as usize, length);
                    word += 1;
                    place += 1;
                }
                symbol += 1;
            }
            code.limits[length] = word << (32 - length);
            length += 1;
        }
        code
    }

    const fn note_short(&mut self, symbol: u8, word: usize, length: usize) {
        if length > 8 {
            return;
        }
        let mut next = word << (8 - length);
        while next < (word + 1) << (8 - length) {
            self.short[next] = (symbol, length as u8);
            next += 1;
        }
    }

    /// The symbol that these bits begin with (left-aligned), and its length.
    fn find(&self, bits: u32) -> (u16, u32) {
        let (symbol, length) = self.short[(bits >> 24) as usize];
        if length > 0 {
            return (symbol.into(), length.into());
        }
        let mut length = 9;
        while u64::from(bits) >= self.limits[length] && length < LONGEST {
            length += 1;
        }
        // The codes of a length are in a row that ends at its limit.
        let behind = (self.limits[length].saturating_sub(u64::from(bits) + 1)) >> (32 - length);
        let last = self.places.get(length + 1).copied().unwrap_or(257) - 1;
        (self.order[last - (behind as usize).min(last)], length as u32)
    }
}

/// Appends what a coded string says.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    // The bits that are left are the lowest `count`.
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in coded {
        bits = (bits << 8) | u64::from(*byte);
        count += 8;
        while count >= 5 {
            let (symbol, length) = CODE.find(aligned(bits, count));
            if length > count {
                break;
            }
            if symbol == END {
                return Err(Broken("the end of a string is coded"));
            }
            out.push(symbol as u8);
            count -= length;
        }
    }
    let rest = bits & ((1 << count) - 1);
    if count >= 8 || rest != (1 << count) - 1 {
        return Err(Broken("a string is padded wrongly"));
    }
    Ok(())
}

/// The lowest so many bits at the top of a word, with ones behind them.
fn aligned(bits: u64, count: u32) -> u32 {
    let ones = if count < 32 { u32::MAX >> count } else { 0 };
    let top = if count < 32 { bits << (32 - count) } else { bits >> (count - 32) };
    top as u32 | ones
}

/// How many bytes a string has when it is coded.
pub(super) fn length(plain: &[u8]) -> usize {
    plain.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Appends a string, coded.
pub(super) fn encode(plain: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0_u64, 0_u32);
    for byte in plain {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        bits = (bits << length) | u64::from(CODE.words[usize::from(*byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | (0xff >> count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_code_is_that_of_the_standard() {
        let of = |symbol: usize| (CODE.words[symbol], LENGTHS[symbol]);
        assert_eq!(of(b'0'.into()), (0x0, 5));
        assert_eq!(of(b'&'.into()), (0xf8, 8));
        assert_eq!(of(b'X'.into()), (0xfc, 8));
        assert_eq!(of(b'\\'.into()), (0x7fff0, 19));
        assert_eq!(of(0), (0x1ff8, 13));
        assert_eq!(of(255), (0x3ff_ffee, 26));
        assert_eq!(of(22), (0x3fff_fffe, 30));
        assert_eq!(of(256), (0x3fff_ffff, 30));
    }

    #[test]
    fn wrong_padding_and_a_coded_end_are_refused() {
        let decoded = |coded: &[u8]| {
            let mut out = Vec::new();
            decode(coded, &mut out).map(|()| out).map_err(|broken| broken.0)
        };
        assert_eq!(decoded(&[0b0001_1111]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[0b0001_1110]), Err("a string is padded wrongly"));
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err("a string is padded wrongly"));
        assert_eq!(decoded(&[0xff; 4]), Err("the end of a string is coded"));
    }

    proptest! {
        #[test]
        fn what_is_coded_is_decoded(plain in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut coded, mut out) = (Vec::new(), Vec::new());
            encode(&plain, &mut coded);
            prop_assert_eq!(coded.len(), length(&plain));
            prop_assert!(decode(&coded, &mut out).is_ok());
            prop_assert_eq!(out, plain);
        }
    }
}
