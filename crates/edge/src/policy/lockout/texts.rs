//! The texts by which an application refuses, looked for in an answer while it passes by.
//!
//! Invariants: however an answer is cut into pieces the same is found; nothing is held but the end of what was seen, shorter
//! than the text that is looked for; what was not read to its end is never taken for an answer without the text.

use memchr::memmem;

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    each: Vec<Text>,
    /// Something may have followed that nobody read.
    is_cut: bool,
}

#[derive(Debug)]
struct Text {
    wanted: String,
    count: u32,
    /// What may be its beginning.
    tail: Vec<u8>,
}

impl Texts {
    /// Of an answer of which nothing was seen yet.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut each: Vec<Text> = Vec::new();
        for text in texts.filter(|text| !text.is_empty()) {
            if each.iter().all(|one| one.wanted != text) {
                each.push(Text { wanted: text.to_owned(), count: 0, tail: Vec::new() });
            }
        }
        Self { each, is_cut: true }
    }

    pub(crate) fn see(&mut self, data: &[u8]) {
        self.each.iter_mut().for_each(|one| one.see(data));
    }

    /// The answer has come to its end.
    pub(crate) fn end(&mut self) {
        self.is_cut = false;
    }

    /// How often a text stood there. Once at least where that is not known: who asks for an answer and does not take it must
    /// not be taken for somebody who was let in.
    pub(super) fn count(&self, text: &str) -> u32 {
        let found = self.each.iter().find(|one| one.wanted == text).map_or(0, |one| one.count);
        if self.is_cut { found.max(1) } else { found }
    }
}

impl Text {
    fn see(&mut self, data: &[u8]) {
        let mut seen = std::mem::take(&mut self.tail);
        seen.extend_from_slice(data);
        let mut after = 0;
        for at in memmem::find_iter(&seen, self.wanted.as_bytes()) {
            self.count = self.count.saturating_add(1);
            after = at + self.wanted.len();
        }
        // What was counted is not counted again.
        let from = after.max(seen.len().saturating_sub(self.wanted.len() - 1));
        self.tail = seen.split_off(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(pieces: &[&[u8]], text: &str) -> Texts {
        let mut texts = Texts::of([text].into_iter());
        pieces.iter().for_each(|piece| texts.see(piece));
        texts
    }

    #[test]
    fn what_was_not_read_to_its_end_is_never_without_the_text() {
        let mut texts = read(&[b"half of it"], "Wrong");
        assert_eq!(texts.count("Wrong"), 1);
        texts.end();
        assert_eq!(texts.count("Wrong"), 0);
        assert_eq!(read(&[b"Wrong, Wro", b"ng"], "Wrong").count("Wrong"), 2);
        assert_eq!(Texts::default().count("Wrong"), 0, "an answer that nobody needs to read");
    }

    proptest! {
        #[test]
        fn however_it_is_cut_as_much_is_found(
            body in "[ab]{0,40}",
            text in "[ab]{1,4}",
            size in 1usize..7,
        ) {
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            let mut texts = read(&pieces, &text);
            texts.end();
            prop_assert_eq!(texts.count(&text) as usize, body.matches(&text).count());
        }
    }
}
