//! Reading along while `pg_dump -Fc -Z0` writes: rows of each table, and whether the archive is whole.
//!
//! What stands in the dump is of the dump's own snapshot, so counting it there is as true as asking the server
//! again, and costs it nothing. The format (`pg_backup_archiver.c`): a header, a table of contents, then one block
//! for each table with data, in chunks that say how long they are. Invariants: memory does not depend on the dump
//! but for the names of its tables; a version or a shape that is not known is no error, only not counted. Not here:
//! what is done with what was not counted.

use std::collections::BTreeMap;

/// The first and the last version of the format that is known, as (major, minor): PostgreSQL 12 to 18.
const KNOWN: (u8, u8, u8) = (1, 12, 16);
/// How every archive begins.
const START: &[u8] = b"PGDMP";
/// The archive's own number for its custom format.
const CUSTOM: u8 = 1;
/// Blocks: rows of a table, large objects.
const DATA: u8 = 1;
const OBJECTS: u8 = 3;
/// What ends the rows of a table.
const END: &[u8] = b"\\.\n";
/// A text that is longer than this is no text: the shape is another one.
const LONGEST: i64 = 1 << 30;
/// So many bytes are looked at first when a piece of the table of contents began in an earlier read.
const STEP: usize = 512;

/// A table: its schema and its name, as the server knows them.
pub(super) type Name = (String, String);

/// What an archive holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// It is whole; rows of the tables that were counted.
    Whole(BTreeMap<Name, u64>),
    /// It ends too early.
    Cut,
    /// Its format is not known.
    Unknown,
    /// It is no archive.
    Nothing,
}

/// An archive of which some was read.
#[derive(Debug)]
pub(super) struct Archive {
    state: State,
    /// What was read of a piece that is not complete.
    pending: Vec<u8>,
    version: u8,
    sizes: Sizes,
    /// Tables whose block did not come yet, by their number in the archive.
    awaited: BTreeMap<i64, Name>,
    rows: BTreeMap<Name, u64>,
}

/// How many bytes a number and a place in the file have.
#[derive(Debug, Clone, Copy, Default)]
struct Sizes {
    number: usize,
    place: usize,
}

#[derive(Debug)]
enum State {
    Header,
    /// So many entries of the table of contents are to come.
    Contents(i64),
    /// Before a block, or the end.
    Block,
    /// Before a chunk of a block.
    Chunk(Block),
    /// In a chunk, of which so much is to come.
    Inside(Block, usize),
    /// Before the next large object of a block.
    Object,
    /// Not known.
    Strange,
    /// No archive.
    Nothing,
}

/// A block under way.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// The table's number; none for large objects.
    table: Option<i64>,
    lines: u64,
    /// The last bytes of the block's content.
    last: [u8; 8],
}

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header,
            pending: Vec::new(),
            version: 0,
            sizes: Sizes::default(),
            awaited: BTreeMap::new(),
            rows: BTreeMap::new(),
        }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.pending.is_empty() {
                let used = self.walk(bytes);
                self.pending.extend_from_slice(bytes.get(used..).unwrap_or_default());
                return;
            }
            // The piece that began earlier, and as little as possible of what follows it.
            let mut pending = std::mem::take(&mut self.pending);
            let (had, more) = (pending.len(), bytes.len().min(pending.len().max(STEP)));
            pending.extend_from_slice(bytes.get(..more).unwrap_or_default());
            let used = self.walk(&pending);
            if let Some(beyond) = used.checked_sub(had) {
                bytes = bytes.get(beyond..).unwrap_or_default();
            } else {
                pending.drain(..used);
                self.pending = pending;
                bytes = bytes.get(more..).unwrap_or_default();
            }
        }
    }

    /// What it came to, once the writer has ended.
    pub(super) fn finish(self) -> Content {
        match self.state {
            State::Strange => Content::Unknown,
            State::Nothing => Content::Nothing,
            State::Block if self.pending.is_empty() && self.awaited.is_empty() => {
                Content::Whole(self.rows)
            }
            _ => Content::Cut,
        }
    }

    /// Goes through what is complete; how many bytes that was.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while let Some(step) = self.step(bytes.get(used..).unwrap_or_default()) {
            used += step;
        }
        used
    }

    /// One piece; none when it is not complete.
    fn step(&mut self, bytes: &[u8]) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        let mut cursor = Cursor { bytes, at: 0, sizes: self.sizes, strange: false };
        match self.state {
            State::Header => self.header(&mut cursor)?,
            State::Contents(left) => {
                self.entry(&mut cursor)?;
                if !matches!(self.state, State::Strange) {
                    self.state = contents(left - 1);
                }
            }
            State::Block => {
                let (kind, number) = (cursor.byte()?, cursor.number()?);
                self.state = match kind {
                    DATA => State::Chunk(Block { table: Some(number), lines: 0, last: [0; 8] }),
                    OBJECTS => State::Object,
                    _ => State::Strange,
                };
            }
            State::Object => match cursor.number()? {
                0 => self.state = State::Block,
                _ => self.state = State::Chunk(Block { table: None, lines: 0, last: [0; 8] }),
            },
            State::Chunk(block) => self.chunks(block, &mut cursor)?,
            State::Inside(mut block, left) => {
                let here = bytes.get(..left.min(bytes.len())).unwrap_or_default();
                block.take(here);
                self.state = match left - here.len() {
                    0 => State::Chunk(block),
                    left => State::Inside(block, left),
                };
                return Some(here.len());
            }
            State::Strange | State::Nothing => return Some(bytes.len()),
        }
        Some(cursor.at)
    }

    /// Chunks that are there whole: there is one for each row, so this is where the time goes.
    fn chunks(&mut self, mut block: Block, cursor: &mut Cursor<'_>) -> Option<()> {
        let mut complete = 0;
        while let Some(length) = cursor.number() {
            match usize::try_from(length) {
                Ok(0) => {
                    self.end(block);
                    return Some(());
                }
                Ok(length) => {
                    let Some(chunk) = cursor.take(length) else {
                        self.state = State::Inside(block, length);
                        return Some(());
                    };
                    block.take(chunk);
                }
                Err(_) => {
                    self.state = State::Strange;
                    return Some(());
                }
            }
            complete = cursor.at;
        }
        cursor.at = complete;
        self.state = State::Chunk(block);
        (complete > 0).then_some(())
    }

    fn header(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        if cursor.take(START.len())? != START {
            self.state = State::Nothing;
            return Some(());
        }
        let (major, minor, _) = (cursor.byte()?, cursor.byte()?, cursor.byte()?);
        cursor.sizes = Sizes { number: cursor.byte()?.into(), place: cursor.byte()?.into() };
        let format = cursor.byte()?;
        let known = major == KNOWN.0 && (KNOWN.1..=KNOWN.2).contains(&minor);
        if !known || format != CUSTOM || cursor.sizes.number > 8 {
            self.state = State::Strange;
            return Some(());
        }
        // How it is compressed: an algorithm, before that a level.
        if minor >= 15 { cursor.byte().map(i64::from) } else { cursor.number() }?;
        // The moment in seven numbers; the names of the database and of both versions.
        for _ in 0..7 {
            cursor.number()?;
        }
        for _ in 0..3 {
            cursor.text()?;
        }
        (self.version, self.sizes) = (minor, cursor.sizes);
        self.state = contents(cursor.number()?);
        Some(())
    }

    fn entry(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        let (number, has_data) = (cursor.number()?, cursor.number()? != 0);
        cursor.text()?;
        cursor.text()?;
        let (tag, kind) = (cursor.text()?, cursor.text()?);
        cursor.number()?;
        // How it is made, dropped and filled.
        for _ in 0..3 {
            cursor.text()?;
        }
        let schema = cursor.text()?;
        cursor.text()?;
        if self.version >= 14 {
            cursor.text()?;
        }
        if self.version >= 16 {
            cursor.number()?;
        }
        // Its owner, and whether it has numbers of rows.
        cursor.text()?;
        cursor.text()?;
        // What it depends on, to the first that is none.
        while cursor.text()?.is_some() {}
        cursor.take(1 + self.sizes.place)?;
        if cursor.strange {
            self.state = State::Strange;
        } else if has_data && kind == Some(b"TABLE DATA") {
            let text = |bytes: Option<&[u8]>| {
                String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
            };
            self.awaited.insert(number, (text(schema), text(tag)));
        }
        Some(())
    }

    fn end(&mut self, block: Block) {
        self.state = if block.table.is_some() { State::Block } else { State::Object };
        let Some(name) = block.table.and_then(|number| self.awaited.remove(&number)) else {
            return;
        };
        // One that does not end as rows do is left to be counted by the server.
        let end = block.last.windows(END.len()).rposition(|part| part == END);
        let beyond =
            end.map(|at| block.last.iter().skip(at).filter(|byte| **byte == b'\n').count() as u64);
        if let Some(rows) = beyond.and_then(|beyond| block.lines.checked_sub(beyond)) {
            self.rows.insert(name, rows);
        }
    }
}

/// So many entries are to come; behind the last one are the blocks.
fn contents(left: i64) -> State {
    if left > 0 { State::Contents(left) } else { State::Block }
}

impl Block {
    fn take(&mut self, bytes: &[u8]) {
        if self.table.is_none() {
            return;
        }
        self.lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
        let keep = self.last.len();
        if let Some(last) = bytes.last_chunk() {
            self.last = *last;
        } else {
            self.last.copy_within(bytes.len().., 0);
            if let Some(end) = self.last.get_mut(keep - bytes.len()..) {
                end.copy_from_slice(bytes);
            }
        }
    }
}

/// Reads the archive's own forms; none when bytes are missing.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    sizes: Sizes,
    strange: bool,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// A sign, then the number from its lowest byte on.
    fn number(&mut self) -> Option<i64> {
        let before = self.at;
        let negative = self.byte()? != 0;
        let Some(bytes) = self.take(self.sizes.number) else {
            self.at = before;
            return None;
        };
        let value = bytes.iter().rev().fold(0i64, |value, byte| value << 8 | i64::from(*byte));
        Some(if negative { -value } else { value })
    }

    /// A length, then so many bytes; a negative length is no text at all.
    #[expect(clippy::option_option, reason = "not there yet, and there but no text")]
    fn text(&mut self) -> Option<Option<&'a [u8]>> {
        let length = self.number()?;
        if length > LONGEST {
            self.strange = true;
            return Some(None);
        }
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) => Some(None),
        }
    }
}

#[cfg(test)]
mod tests;
