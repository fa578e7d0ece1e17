//! Lines of a manifest as a report shows them: found by a prepared index, cut to the width of a terminal,
//! and without what the [`Mask`] hides.
//!
//! Invariants: an excerpt is at most [`WIDTH`] characters wide and holds no control characters; finding a
//! line takes a binary search, not a walk through the file (a report of a hostile file asks often).

use std::ops::Range;

use toml::de::DeTable;

use crate::mask::{HIDDEN, Mask, is_word_character};

/// The widest excerpt: it and its line number fit into a window of 120 columns.
const WIDTH: usize = 110;
/// How many bytes around a place are looked at.
const NEAR: usize = 400;

/// The text of a manifest, prepared for questions about places.
#[derive(Debug)]
pub(crate) struct Source<'t> {
    text: &'t str,
    lines: Vec<usize>,
    mask: Mask<'t>,
}

/// One line around a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    /// Where the place begins in `text`, in characters from 1.
    pub(crate) caret: usize,
    /// Characters of `text` to underline.
    pub(crate) length: usize,
}

/// An excerpt while it is put together.
#[derive(Debug)]
struct Drawing {
    place: Range<usize>,
    out: Vec<char>,
    hiding: bool,
    caret: Option<usize>,
    end: usize,
}

impl<'t> Source<'t> {
    pub(crate) fn new(text: &'t str, document: &DeTable<'_>, sound: bool) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();
        Self { text, lines, mask: Mask::new(text, document, sound) }
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Whether the whole text is TOML.
    pub(crate) fn is_sound(&self) -> bool {
        self.mask.is_sound()
    }

    /// Whether the key or value at this place may be quoted in a message.
    pub(crate) fn shows(&self, span: &Range<usize>) -> bool {
        self.mask.shows(span)
    }

    /// Line and column of a byte, both from 1.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let at = self.floor(at);
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        (line, self.slice(start..at).chars().count() + 1)
    }

    /// The line in which a place begins.
    pub(crate) fn excerpt(&self, place: Range<usize>) -> Excerpt {
        let start = self.floor(place.start);
        let number = self.lines.partition_point(|line| *line <= start);
        let line_start = self.lines.get(number.saturating_sub(1)).copied().unwrap_or(0);
        let line_end = self.lines.get(number).map_or(self.text.len(), |next| next - 1);
        let line_end = line_end - usize::from(self.slice(line_start..line_end).ends_with('\r'));
        let start = start.min(line_end);
        let end = self.floor(place.end).clamp(start, line_end);
        let mut drawing =
            Drawing { place: start..end, out: Vec::new(), hiding: false, caret: None, end: 0 };

        let near = start.saturating_sub(NEAR);
        let mut at = line_start.max(self.mask.end_before(near));
        if at > line_start {
            drawing.hide(line_start..at);
        }
        for piece in self.mask.pieces(at) {
            if piece.span.start >= line_end.min(end.saturating_add(NEAR)) {
                break;
            }
            let span = piece.span.start.max(at)..piece.span.end.min(line_end);
            self.between(at..span.start, &mut drawing);
            at = span.end;
            if piece.shown {
                drawing.show(span.start, self.slice(span));
            } else {
                drawing.hide(span);
            }
        }
        let rest_end =
            if self.mask.pieces(at).first().is_some_and(|next| next.span.start < line_end) {
                at
            } else {
                line_end
            };
        self.between(at..rest_end, &mut drawing);
        if rest_end < line_end {
            drawing.hide(rest_end..line_end);
        }
        drawing.finish()
    }

    /// What stands between keys and values, or is not understood: signs of the grammar and known words are
    /// shown, and all else hides the rest.
    fn between(&self, range: Range<usize>, drawing: &mut Drawing) {
        let text = self.slice(range.clone());
        let mut at = 0;
        while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
            let rest = text.get(at..).unwrap_or_default();
            let length = if is_word_character(c) {
                let end = rest.find(|c| !is_word_character(c)).unwrap_or(rest.len());
                if !self.mask.knows(rest.get(..end).unwrap_or_default()) {
                    break;
                }
                end
            } else if c == ' ' || c == '\t' || "[]{}=,.".contains(c) {
                c.len_utf8()
            } else {
                break;
            };
            drawing.show(range.start + at, rest.get(..length).unwrap_or_default());
            at += length;
        }
        if at < text.len() {
            drawing.hide(range.start + at..range.end);
        }
    }

    fn slice(&self, range: Range<usize>) -> &'t str {
        self.text.get(range).unwrap_or_default()
    }

    fn floor(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

impl Drawing {
    fn show(&mut self, from: usize, text: &str) {
        self.hiding &= text.is_empty();
        for (offset, c) in text.char_indices() {
            let at = from + offset;
            if at >= self.place.start && self.caret.is_none() {
                self.caret = Some(self.out.len());
            }
            self.out.push(if c.is_control() { ' ' } else { c });
            if at < self.place.end {
                self.end = self.out.len();
            }
        }
    }

    fn hide(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if !self.hiding {
            self.out.extend(HIDDEN.chars());
            self.hiding = true;
        }
        if range.end > self.place.start && self.caret.is_none() {
            self.caret = Some(self.out.len() - 1);
        }
        if range.start < self.place.end {
            self.end = self.out.len();
        }
    }

    fn finish(self) -> Excerpt {
        let caret = self.caret.unwrap_or(self.out.len());
        let length = self.end.saturating_sub(caret).max(1);
        let first = if self.out.len() > WIDTH { caret.saturating_sub(WIDTH / 2) } else { 0 };
        let mut text: Vec<char> = self.out.iter().skip(first).take(WIDTH).copied().collect();
        let more = self.out.len() > first + text.len();
        let mark = HIDDEN.chars().next().unwrap_or('.');
        if first > 0
            && let Some(c) = text.first_mut()
        {
            *c = mark;
        }
        if more && let Some(c) = text.last_mut() {
            *c = mark;
        }
        let caret = caret - first;
        let length = length.min(text.len().saturating_sub(caret).max(1));
        Excerpt {
            text: text.into_iter().collect::<String>().trim_end().to_owned(),
            caret: caret + 1,
            length,
        }
    }
}
