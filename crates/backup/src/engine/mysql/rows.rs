//! Counting rows in the stream of a dump: how many tuples stand in its INSERTs, table by table.
//!
//! `mariadb-dump` writes what it writes in one form: a statement begins a line, names stand in backquotes, texts
//! in single quotes with backslashes. Invariants: memory does not depend on the dump; bodies of routines and
//! triggers, which may hold anything, are passed over by their DELIMITER lines.

use std::collections::BTreeMap;

/// The longest beginning of a statement that is looked at; names have 64 characters at most.
const HEAD: usize = 1024;

/// How a statement with rows begins.
const INSERT: &[u8] = b"INSERT INTO `";

/// Counts while bytes go by.
#[derive(Debug, Default)]
pub(super) struct RowCounter {
    state: State,
    line: Vec<u8>,
    table: String,
    rows: BTreeMap<String, u64>,
    /// Between `DELIMITER ;;` and `DELIMITER ;`.
    body: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of a line, which is collected until it is clear what it is.
    #[default]
    Line,
    /// In a line of no interest.
    Rest,
    /// Between an INSERT's table and its tuples.
    Columns { quoted: bool },
    /// Among tuples.
    Tuples { depth: u32, text: bool, escaped: bool },
}

impl RowCounter {
    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.step(*byte);
        }
    }

    /// Rows by table.
    pub(super) fn finish(self) -> BTreeMap<String, u64> {
        self.rows
    }

    fn step(&mut self, byte: u8) {
        match self.state {
            State::Rest => {
                if byte == b'\n' {
                    self.state = State::Line;
                    self.line.clear();
                }
            }
            State::Line => self.collect(byte),
            State::Columns { quoted } => match byte {
                b'`' => self.state = State::Columns { quoted: !quoted },
                // The S of VALUES ends what stands before the tuples; names of columns are quoted.
                b'S' if !quoted => {
                    self.state = State::Tuples { depth: 0, text: false, escaped: false }
                }
                _ => {}
            },
            State::Tuples { depth, text, escaped } => self.tuple(byte, depth, text, escaped),
        }
    }

    fn tuple(&mut self, byte: u8, mut depth: u32, mut text: bool, escaped: bool) {
        let mut next_escaped = false;
        match (byte, text) {
            _ if escaped => {}
            (b'\\', true) => next_escaped = true,
            (b'\'', _) => text = !text,
            (b'(', false) => {
                if depth == 0
                    && let Some(rows) = self.rows.get_mut(&self.table)
                {
                    *rows += 1;
                }
                depth += 1;
            }
            (b')', false) => depth = depth.saturating_sub(1),
            (b';', false) if depth == 0 => {
                self.state = State::Rest;
                return;
            }
            _ => {}
        }
        self.state = State::Tuples { depth, text, escaped: next_escaped };
    }

    fn collect(&mut self, byte: u8) {
        if byte == b'\n' || self.line.len() == HEAD {
            if self.line.starts_with(b"DELIMITER ") {
                self.body = self.line.starts_with(b"DELIMITER ;;");
            }
            self.line.clear();
            self.state = if byte == b'\n' { State::Line } else { State::Rest };
            return;
        }
        self.line.push(byte);
        let fits = |start: &[u8]| self.line.iter().zip(start).all(|(is, should)| is == should);
        if self.body || !fits(INSERT) {
            if !fits(b"DELIMITER ") {
                self.state = State::Rest;
            }
            return;
        }
        // The name ends at a backquote that no other follows: the byte after it decides.
        let Some(name) = self.line.get(INSERT.len()..) else { return };
        if byte == b' '
            && let Some(table) = ended_name(name)
        {
            self.rows.entry(table.clone()).or_default();
            self.table = table;
            self.line.clear();
            self.state = State::Columns { quoted: false };
        }
    }
}

/// The name in `a``b` followed by a space, when its closing backquote was seen.
fn ended_name(text: &[u8]) -> Option<String> {
    let inner = text.strip_suffix(b"` ")?;
    // An odd number of backquotes before it means that it was the second half of a pair.
    let pairs = inner.iter().rev().take_while(|byte| **byte == b'`').count();
    (pairs % 2 == 0).then(|| String::from_utf8_lossy(inner).replace("``", "`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(dump: &str, size: usize) -> BTreeMap<String, u64> {
        let mut counter = RowCounter::default();
        dump.as_bytes().chunks(size.max(1)).for_each(|chunk| counter.feed(chunk));
        counter.finish()
    }

    #[test]
    fn tuples_are_counted_and_texts_and_bodies_are_not() {
        let dump = "-- comment (1),(2)\nCREATE TABLE `a` (\n  `x` int\n);\nINSERT INTO `a` VALUES\n(1,'x),(\\'y;\\\\'),\n(2,NULL),(3,'it''s (');\nINSERT INTO `a` (`VALUES(`, `b`) VALUES (4,0xFF);\nINSERT INTO `o``dd n` VALUES (1);\nDELIMITER ;;\nINSERT INTO `a` VALUES (9),(9);\nDELIMITER ;\nINSERT INTO `b` VALUES (1),(2);\n-- Dump completed\n";
        for size in [1, 2, 7, 10_000] {
            let rows = count(dump, size);
            assert_eq!((rows["a"], rows["b"], rows["o`dd n"], rows.len()), (4, 2, 1, 3), "{size}");
        }
    }

    proptest! {
        #[test]
        fn any_text_in_a_column_leaves_the_count_right(texts in prop::collection::vec(".{0,20}", 1..20), size in 1usize..50) {
            let quoted: Vec<String> = texts.iter()
                .map(|text| format!("(1,'{}')", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n")))
                .collect();
            let dump = format!("INSERT INTO `t` VALUES {};\nINSERT INTO `u` VALUES (1);\n", quoted.join(","));
            let rows = count(&dump, size);
            prop_assert_eq!((rows["t"], rows["u"]), (texts.len() as u64, 1));
        }
    }
}
