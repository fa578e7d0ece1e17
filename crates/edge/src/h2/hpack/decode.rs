//! Field blocks of clients (RFC 7541 § 6).

use std::borrow::Cow;

use super::table::{Dynamic, Entry};
use super::{Broken, huffman};

/// Most strings are shorter, in bytes.
const USUAL: usize = 256;
const CUT: Broken = Broken("a block ends within a field");

/// What decodes the blocks of one connection, in their order.
#[derive(Debug)]
pub(in crate::h2) struct Decoder {
    table: Dynamic,
    /// Room for strings that are coded.
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub(in crate::h2) fn new() -> Self {
        Self { table: Dynamic::new(), name: Vec::new(), value: Vec::new() }
    }

    /// Gives the fields of a whole block.
    pub(in crate::h2) fn decode(
        &mut self,
        block: &[u8],
        mut give: impl FnMut(Cow<'_, Entry>),
    ) -> Result<(), Broken> {
        let mut rest = block;
        let mut begun = false;
        while let Some(first) = rest.first().copied() {
            match first {
                0x80.. => give(Cow::Borrowed(self.table.get(integer(&mut rest, 7)?)?)),
                0x40.. => {
                    let entry = self.literal(&mut rest, 6)?;
                    give(Cow::Borrowed(&entry));
                    self.table.add(entry);
                }
                0x20.. if begun => return Err(Broken("a table is resized within a block")),
                0x20.. => {
                    self.table.resize(integer(&mut rest, 5)?)?;
                    continue;
                }
                0x10.. => {
                    let mut entry = self.literal(&mut rest, 4)?;
                    entry.set_sensitive();
                    give(Cow::Owned(entry));
                }
                _ => give(Cow::Owned(self.literal(&mut rest, 4)?)),
            }
            begun = true;
        }
        Ok(())
    }

    /// Room for long strings goes back.
    pub(in crate::h2) fn give_back(&mut self) {
        self.name.clear();
        self.name.shrink_to(USUAL);
        self.value.clear();
        self.value.shrink_to(USUAL);
    }

    fn literal(&mut self, rest: &mut &[u8], prefix: u32) -> Result<Entry, Broken> {
        let index = integer(rest, prefix)?;
        if index > 0 {
            let value = string(rest, &mut self.value)?;
            return Ok(self.table.get(index)?.with_value(value));
        }
        let name = string(rest, &mut self.name)?;
        Ok(Entry::new(name, string(rest, &mut self.value)?))
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.table.size()
    }
}

/// § 5.1, up to what any length or index can be.
fn integer(rest: &mut &[u8], prefix: u32) -> Result<usize, Broken> {
    let (first, mut left) = rest.split_first().ok_or(CUT)?;
    let most = (1_usize << prefix) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (byte, behind) = left.split_first().ok_or(CUT)?;
            left = behind;
            if shift > 21 {
                return Err(Broken("a number is too large"));
            }
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = left;
    Ok(number)
}

/// § 5.2: as it lies there, or decoded into `room`.
fn string<'r, 's: 'r>(rest: &mut &'s [u8], room: &'r mut Vec<u8>) -> Result<&'r [u8], Broken> {
    let is_coded = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(rest, 7)?;
    let (text, behind) = rest.split_at_checked(length).ok_or(CUT)?;
    *rest = behind;
    if !is_coded {
        return Ok(text);
    }
    room.clear();
    huffman::decode(text, room)?;
    Ok(room)
}
