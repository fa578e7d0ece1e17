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

/// A tag's name or a word, in lower case; a longer one is none that we know.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    bytes: [u8; 9],
    length: u8,
}

impl Word {
    fn of(byte: u8) -> Self {
        let mut word = Self::default();
        word.push(byte);
        word
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
            *place = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

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
            let Some(byte) = data.get(at) else { break };
            if matches!(self.state, State::StartTagName) && ends_name(*byte) {
                self.within = self.word;
                self.state = State::BeforeAttribute;
                match self.within.get() {
                    b"script" | b"style" | b"link" => return Some(Found::Element(at)),
                    b"svg" => return Some(Found::Foreign(at, "<svg")),
                    b"math" => return Some(Found::Foreign(at, "<math")),
                    _ => {}
                }
            }
            at += usize::from(self.take(*byte));
        }
        None
    }

    /// How many bytes change nothing.
    fn skip(&self, rest: &[u8]) -> usize {
        let found = match self.state {
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
                self.word = Word::of(byte);
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
        match self.within.get() {
            b"script" => State::Script(Level::Plain),
            b"style" | b"title" | b"textarea" | b"iframe" | b"xmp" | b"noembed" | b"noframes"
            | b"noscript" => State::Text,
            b"plaintext" => State::PlainText,
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
        if ends_name(byte) && self.word.get() == self.within.get() {
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
                let turns = used && self.word.get() == b"script";
                self.to(Script(if turns { other } else { same }), used)
            }
        }
    }
}
