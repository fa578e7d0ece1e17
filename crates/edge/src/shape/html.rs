//! Finds the scripts, styles and links of a page while it streams by.
//!
//! The tokenizer of HTML (<https://html.spec.whatwg.org/multipage/parsing.html#tokenization>) as far as it decides where a
//! start tag is one: comments, quoted values, the text of scripts and of elements that hold text only. It runs over the
//! whole of every page, so what is neither a tag nor its end is skipped by `memchr`. Invariants: nothing is held back
//! but a tag's name; wherever a page is cut, the same is found; it agrees with `lol_html`, which the tests ask.
//! Not here: foreign content (`svg`, `math`), whose rules need the tree; it is only announced.

use memchr::{memchr, memchr2};

/// What was found, and before which byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The name of a script, style or link has ended here.
    Element(usize),
    /// The name of an element whose content is not HTML has ended here.
    Foreign(usize, &'static str),
}

/// A tag's name or a word, in lower case, a byte behind the other, the first of which is a letter. One that is longer than
/// any we know is none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Word(u128);

impl Word {
    const fn of(text: &[u8]) -> Self {
        let (mut word, mut rest) = (Self(0), text);
        while let [first, more @ ..] = rest {
            word.push(*first);
            rest = more;
        }
        word
    }

    /// The letters in front of `text`, one to seven, and how many; in eight bytes at once.
    fn short(text: &[u8]) -> Option<(Self, usize)> {
        const EACH: u64 = u64::from_be_bytes([1; 8]);
        const TOP: u64 = EACH << 7;
        let bytes = u64::from_be_bytes(*text.first_chunk()?);
        let lower = bytes | EACH << 5;
        let low = lower & !TOP;
        // Its top bit is set from `a` on; and that from behind `z` on.
        let (from_a, behind_z) = (low + EACH * (0x80 - 0x61), low + EACH * (0x80 - 0x7b));
        let is_letter = from_a & !behind_z & !bytes & TOP;
        let count = (is_letter ^ TOP).leading_zeros() / 8;
        let word = Self(u128::from(lower >> (64 - 8 * count.clamp(1, 8))));
        (1..8).contains(&count).then_some((word, count as usize))
    }

    const fn push(&mut self, byte: u8) {
        let fits = self.0 >> 120 == 0;
        self.0 = if fits { self.0 << 8 | byte.to_ascii_lowercase() as u128 } else { u128::MAX };
    }
}

const SCRIPT: Word = Word::of(b"script");
const STYLE: Word = Word::of(b"style");
const LINK: Word = Word::of(b"link");
const SVG: Word = Word::of(b"svg");
const MATH: Word = Word::of(b"math");
const PLAINTEXT: Word = Word::of(b"plaintext");

/// Beside `script`, the elements that hold text only.
const TEXTS: [Word; 8] = [
    STYLE,
    Word::of(b"title"),
    Word::of(b"textarea"),
    Word::of(b"iframe"),
    Word::of(b"xmp"),
    Word::of(b"noembed"),
    Word::of(b"noframes"),
    Word::of(b"noscript"),
];

/// How deep in a script we are: `<!--` and in it `<script` change what ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Plain,
    Escaped,
    Double,
}

/// The states of the standard, where their difference matters here.
#[derive(Debug, Clone, Copy)]
enum State {
    Data,
    TagOpen,
    EndTagOpen,
    StartTagName,
    /// Of an end tag outside of texts.
    EndTagName,
    BeforeAttribute,
    Attribute,
    AfterAttribute,
    BeforeValue,
    Quoted(u8),
    Unquoted,
    Markup,
    MarkupDash,
    /// Ends with the next `>`.
    Bogus,
    CommentStart,
    CommentStartDash,
    Comment,
    CommentDash,
    CommentEnd,
    CommentBang,
    /// In an element that holds text only; its name is in `within`.
    Text,
    TextOpen,
    TextEndName,
    Script(Level),
    ScriptOpen(Level),
    ScriptEndName(Level),
    ScriptBang,
    ScriptBangDash,
    ScriptDash(Level),
    ScriptDashDash(Level),
    /// `<word` in what is escaped: with `script` it is so twice.
    ScriptDoubleBegin,
    /// `</word` in what is escaped twice.
    ScriptDoubleEnd,
    PlainText,
}

/// How far a page was read.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    word: Word,
    /// The start tag that was seen last, as long as its content is text; empty for an end tag.
    within: Word,
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\x0c' | b'\r' | b' ')
}

fn ends_name(byte: u8) -> bool {
    is_space(byte) || byte == b'/' || byte == b'>'
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { state: State::Data, word: Word::default(), within: Word::default() }
    }

    /// Whether it stands inside a tag.
    #[cfg(test)]
    pub(super) fn is_in_tag(&self) -> bool {
        use State::{AfterAttribute, Attribute, BeforeAttribute, BeforeValue, Quoted, Unquoted};
        matches!(
            self.state,
            BeforeAttribute | Attribute | AfterAttribute | BeforeValue | Quoted(_) | Unquoted
        )
    }

    /// Reads on until something is found. What is before it was read; `None`: all was read.
    pub(super) fn next(&mut self, data: &[u8]) -> Option<Found> {
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            at += self.skip(rest);
            at += self.take_plain(data.get(at..).unwrap_or_default());
            let Some(byte) = data.get(at) else { break };
            if matches!(self.state, State::StartTagName) && ends_name(*byte) {
                self.within = self.word;
                self.state = State::BeforeAttribute;
                match self.within {
                    SCRIPT | STYLE | LINK => return Some(Found::Element(at)),
                    SVG => return Some(Found::Foreign(at, "<svg")),
                    MATH => return Some(Found::Foreign(at, "<math")),
                    _ => {}
                }
            }
            at += usize::from(self.take(*byte));
        }
        None
    }

    /// How many bytes change nothing.
    fn skip(&self, rest: &[u8]) -> usize {
        let first = |ends: fn(u8) -> bool| rest.iter().position(|byte| ends(*byte));
        let found = match self.state {
            State::EndTagName => first(ends_name),
            State::Unquoted => first(|byte| is_space(byte) || byte == b'>'),
            State::Attribute => first(|byte| ends_name(byte) || byte == b'='),
            State::Data | State::Text | State::Script(Level::Plain) => memchr(b'<', rest),
            State::Quoted(quote) => memchr(quote, rest),
            State::Bogus => memchr(b'>', rest),
            State::Comment => memchr(b'-', rest),
            State::Script(_) => memchr2(b'<', b'-', rest),
            State::PlainText => None,
            _ => return 0,
        };
        found.unwrap_or(rest.len())
    }

    /// Takes what most tags are made of in one step, where it is there whole: a start tag's name, an end tag without
    /// spaces. How many bytes that were.
    fn take_plain(&mut self, rest: &[u8]) -> usize {
        let (name, before) = match rest {
            [b'<', b'/', name @ ..] => (name, 2),
            [b'<', name @ ..] => (name, 1),
            _ => return 0,
        };
        let Some((word, end)) = Word::short(name) else { return 0 };
        let ends = name.get(end) == Some(&b'>');
        match self.state {
            State::Data if before == 1 => {
                self.word = word;
                self.state = State::StartTagName;
                before + end
            }
            State::Data if ends => before + end + 1,
            State::Text | State::Script(Level::Plain)
                if before == 2 && ends && word == self.within =>
            {
                self.state = State::Data;
                before + end + 1
            }
            _ => 0,
        }
    }

    /// Goes on by one byte; whether it was used, or is to be seen again in the new state.
    fn take(&mut self, byte: u8) -> bool {
        match self.state {
            State::Data
            | State::TagOpen
            | State::EndTagOpen
            | State::StartTagName
            | State::EndTagName => self.take_tag(byte),
            State::BeforeAttribute
            | State::Attribute
            | State::AfterAttribute
            | State::BeforeValue
            | State::Quoted(_)
            | State::Unquoted => self.take_attribute(byte),
            State::Text | State::TextOpen | State::TextEndName => self.take_text(byte),
            State::PlainText => true,
            State::Markup
            | State::MarkupDash
            | State::Bogus
            | State::CommentStart
            | State::CommentStartDash
            | State::Comment
            | State::CommentDash
            | State::CommentEnd
            | State::CommentBang => self.take_markup(byte),
            _ => self.take_script(byte),
        }
    }

    fn to(&mut self, state: State, used: bool) -> bool {
        self.state = state;
        used
    }

    fn take_tag(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Data, b'<') => self.to(State::TagOpen, true),
            (State::TagOpen, b'!') => self.to(State::Markup, true),
            (State::TagOpen, b'/') => self.to(State::EndTagOpen, true),
            (State::TagOpen, b'?') => self.to(State::Bogus, true),
            (State::TagOpen, _) if byte.is_ascii_alphabetic() => {
                self.word = Word::of(&[byte]);
                self.to(State::StartTagName, true)
            }
            (State::TagOpen, _) => self.to(State::Data, false),
            (State::EndTagOpen, b'>') => self.to(State::Data, true),
            (State::EndTagOpen, _) if byte.is_ascii_alphabetic() => {
                self.within = Word::default();
                self.to(State::EndTagName, true)
            }
            (State::EndTagOpen, _) => self.to(State::Bogus, false),
            (State::EndTagName, _) if ends_name(byte) => self.to(State::BeforeAttribute, false),
            (State::Data | State::EndTagName, _) => true,
            _ => {
                self.word.push(byte);
                true
            }
        }
    }

    fn take_attribute(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Quoted(quote), _) if byte == quote => self.to(State::BeforeAttribute, true),
            (State::Quoted(_), _) => true,
            (_, b'>') => {
                self.state = self.content();
                true
            }
            (State::Unquoted, _) if is_space(byte) => self.to(State::BeforeAttribute, true),
            (State::Unquoted, _) => true,
            (State::BeforeValue, b'"' | b'\'') => self.to(State::Quoted(byte), true),
            (State::BeforeValue, _) if is_space(byte) => true,
            (State::BeforeValue, _) => self.to(State::Unquoted, false),
            // Alone, a solidus parts two attributes.
            (_, b'/') => self.to(State::BeforeAttribute, true),
            (State::BeforeAttribute, _) if is_space(byte) => true,
            (State::Attribute | State::AfterAttribute, b'=') => self.to(State::BeforeValue, true),
            (State::Attribute | State::AfterAttribute, _) if is_space(byte) => {
                self.to(State::AfterAttribute, true)
            }
            // In front of a name, an equals sign is its first letter.
            _ => self.to(State::Attribute, true),
        }
    }

    /// What a tag that has just ended is followed by.
    fn content(&self) -> State {
        match self.within {
            SCRIPT => State::Script(Level::Plain),
            PLAINTEXT => State::PlainText,
            word if TEXTS.contains(&word) => State::Text,
            _ => State::Data,
        }
    }

    fn take_markup(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Markup, b'-') => self.to(State::MarkupDash, true),
            (State::MarkupDash, b'-') => self.to(State::CommentStart, true),
            (State::Markup | State::MarkupDash, _) => self.to(State::Bogus, false),
            (
                State::Bogus
                | State::CommentStart
                | State::CommentStartDash
                | State::CommentEnd
                | State::CommentBang,
                b'>',
            ) => self.to(State::Data, true),
            (State::Bogus, _) => true,
            (State::CommentStart, b'-') => self.to(State::CommentStartDash, true),
            (State::CommentStartDash | State::CommentDash | State::CommentEnd, b'-') => {
                self.to(State::CommentEnd, true)
            }
            (State::Comment | State::CommentBang, b'-') => self.to(State::CommentDash, true),
            (State::CommentEnd, b'!') => self.to(State::CommentBang, true),
            _ => self.to(State::Comment, true),
        }
    }

    fn take_text(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Text, b'<') => self.to(State::TextOpen, true),
            (State::Text, _) => true,
            (State::TextOpen, b'/') => {
                self.word = Word::default();
                self.to(State::TextEndName, true)
            }
            (State::TextEndName, _) => self.take_end_name(byte, State::Text),
            _ => self.to(State::Text, false),
        }
    }

    /// The name of what may be the end tag of a text.
    fn take_end_name(&mut self, byte: u8, text: State) -> bool {
        if byte.is_ascii_alphabetic() {
            self.word.push(byte);
            return true;
        }
        if ends_name(byte) && self.word == self.within {
            self.within = Word::default();
            return self.to(State::BeforeAttribute, false);
        }
        self.to(text, false)
    }

    fn take_script(&mut self, byte: u8) -> bool {
        use Level::{Double, Escaped, Plain};
        use State::{
            Script, ScriptBang, ScriptBangDash, ScriptDash, ScriptDashDash, ScriptDoubleBegin,
            ScriptDoubleEnd, ScriptEndName, ScriptOpen,
        };
        match (self.state, byte) {
            (Script(level) | ScriptDash(level) | ScriptDashDash(level), b'<') => {
                self.to(ScriptOpen(level), true)
            }
            (Script(level @ (Escaped | Double)), b'-') => self.to(ScriptDash(level), true),
            (Script(_), _) => true,
            (ScriptDash(level) | ScriptDashDash(level), b'-') => {
                self.to(ScriptDashDash(level), true)
            }
            (ScriptDashDash(_), b'>') => self.to(Script(Plain), true),
            (ScriptDash(level) | ScriptDashDash(level), _) => self.to(Script(level), true),
            (ScriptOpen(Plain), b'!') => self.to(ScriptBang, true),
            (ScriptBang, b'-') => self.to(ScriptBangDash, true),
            (ScriptBangDash, b'-') => self.to(ScriptDashDash(Escaped), true),
            (ScriptBang | ScriptBangDash, _) => self.to(Script(Plain), false),
            (ScriptOpen(level), b'/') => {
                self.word = Word::default();
                self.to(if level == Double { ScriptDoubleEnd } else { ScriptEndName(level) }, true)
            }
            (ScriptOpen(Escaped), _) if byte.is_ascii_alphabetic() => {
                self.word = Word::default();
                self.to(ScriptDoubleBegin, false)
            }
            (ScriptOpen(level), _) => self.to(Script(level), false),
            (ScriptEndName(level), _) => self.take_end_name(byte, Script(level)),
            (ScriptDoubleBegin | ScriptDoubleEnd, _) if byte.is_ascii_alphabetic() => {
                self.word.push(byte);
                true
            }
            (before, _) => {
                let is_begin = matches!(before, ScriptDoubleBegin);
                let (same, other) = if is_begin { (Escaped, Double) } else { (Double, Escaped) };
                let used = ends_name(byte);
                let turns = used && self.word == SCRIPT;
                self.to(Script(if turns { other } else { same }), used)
            }
        }
    }
}
