//! Archives as each version writes them, in pieces, cut, strange.

use proptest::prelude::*;

use super::*;

/// Writes what `pg_dump` of that version would.
struct Sketch {
    bytes: Vec<u8>,
    minor: u8,
}

impl Sketch {
    fn new(minor: u8, entries: usize) -> Self {
        let mut new = Self { bytes: b"PGDMP".to_vec(), minor };
        new.bytes.extend([1, minor, 0, 4, 8, CUSTOM]);
        if minor >= 15 {
            new.bytes.push(0)
        } else {
            new.number(0)
        }
        (0..7).for_each(|_| new.number(-1));
        ["shop", "15.1", "15.2"].iter().for_each(|text| new.text(Some(text)));
        new.number(entries as i64);
        new
    }

    fn number(&mut self, value: i64) {
        self.bytes.push(u8::from(value < 0));
        self.bytes.extend(&value.unsigned_abs().to_le_bytes()[..4]);
    }

    fn text(&mut self, text: Option<&str>) {
        self.number(text.map_or(-1, |text| text.len() as i64));
        self.bytes.extend(text.unwrap_or_default().as_bytes());
    }

    fn entry(&mut self, number: i64, kind: &str, schema: &str, name: &str, data: bool) {
        self.number(number);
        self.number(data.into());
        ["1259", "16384", name, kind].iter().for_each(|text| self.text(Some(text)));
        self.number(3);
        [Some("CREATE \n…"), None, Some("COPY …")].iter().for_each(|text| self.text(*text));
        self.text(Some(schema));
        self.text(None);
        if self.minor >= 14 {
            self.text(Some("heap"));
        }
        if self.minor >= 16 {
            self.number(114);
        }
        ["boss", "false", "7"].iter().for_each(|text| self.text(Some(text)));
        self.text(None);
        self.bytes.extend([1; 9]);
    }

    fn block(&mut self, number: i64, chunks: &[&str]) {
        self.bytes.push(DATA);
        self.number(number);
        for chunk in chunks.iter().chain(&["\\.\n\n\n"]) {
            self.number(chunk.len() as i64);
            self.bytes.extend(chunk.as_bytes());
        }
        self.number(0);
    }

    fn objects(&mut self, number: i64, contents: &[&str]) {
        self.bytes.push(OBJECTS);
        self.number(number);
        for content in contents {
            self.number(77);
            self.number(content.len() as i64);
            self.bytes.extend(content.as_bytes());
            self.number(0);
        }
        self.number(0);
    }
}

fn read(bytes: &[u8], size: usize) -> Content {
    let mut archive = Archive::new();
    bytes.chunks(size.max(1)).for_each(|chunk| archive.feed(chunk));
    archive.finish()
}

fn example(minor: u8) -> Vec<u8> {
    let mut sketch = Sketch::new(minor, 5);
    sketch.entry(1, "TABLE", "public", "a", false);
    sketch.entry(2, "TABLE DATA", "public", "a", true);
    sketch.entry(3, "TABLE DATA", "odd\nschema", "b", true);
    sketch.entry(4, "BLOBS", "", "BLOBS", true);
    sketch.entry(5, "TABLE DATA", "public", "empty", true);
    sketch.block(2, &["1\tx\n", "2\t\\N\n", "3\ty\n4\tz\n", "\n", "\\\\.\n"]);
    sketch.objects(4, &["two\nlines\n", "one"]);
    sketch.block(3, &["1\n"]);
    sketch.block(5, &[]);
    sketch.bytes
}

#[test]
fn rows_are_counted_in_every_version_wherever_reads_end() {
    for minor in [12, 13, 14, 15, 16] {
        let bytes = example(minor);
        for size in [1, 2, 3, 7, 64, 1 << 20] {
            let Content::Whole(rows) = read(&bytes, size) else {
                panic!("version {minor} in pieces of {size}: {:?}", read(&bytes, size));
            };
            let rows: Vec<_> = rows.iter().map(|((_, name), rows)| (&name[..], *rows)).collect();
            assert_eq!(rows, [("b", 1), ("a", 6), ("empty", 0)], "{minor}, {size}");
        }
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_is_not_whole_and_a_strange_one_is_not_counted() {
    let bytes = example(14);
    for length in 0..bytes.len() {
        assert_eq!(read(&bytes[..length], 64), Content::Cut, "cut at {length}");
    }
    assert_eq!(read(&[&bytes[..], &[9]].concat(), 64), Content::Cut);
    assert_eq!(read(&[&bytes[..], &[9, 0, 0, 0, 0, 0]].concat(), 64), Content::Unknown);
    for (at, value) in [(5, 2), (6, 11), (6, 17), (8, 9), (10, 3)] {
        let mut other = bytes.clone();
        other[at] = value;
        assert_eq!(read(&other, 64), Content::Unknown, "byte {at} is {value}");
    }
}

#[test]
fn an_archive_without_data_is_whole() {
    let mut sketch = Sketch::new(14, 1);
    sketch.entry(1, "TABLE", "public", "a", false);
    assert_eq!(read(&sketch.bytes, 64), Content::Whole(BTreeMap::new()));
}

proptest! {
    #[test]
    fn no_bytes_at_all_end_it(start in 0usize..200, noise in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..80) {
        let whole = example(16);
        let bytes = [&whole[..start.min(whole.len())], &noise].concat();
        prop_assert_eq!(read(&bytes, size), read(&bytes, 1 << 20));
    }
}
