//! Reading values with their places: every reader takes what fits and notes what does not.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use seaworthy_base::names::NameError;
use seaworthy_base::quantity::QuantityError;
use seaworthy_base::{ByteSize, parse_duration};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::excerpt::Source;
use crate::keys::{Key, Kind};
use crate::mask::HIDDEN;
use crate::report::RawProblem;
use crate::site::{Command, EnvValue};
use crate::words::split_words;

/// Variables that people expect a shell to replace.
const COMMON_NAMES: [&str; 12] = [
    "HOME", "PATH", "USER", "PWD", "HOST", "HOSTNAME", "PORT", "SHELL", "TMPDIR", "NODE_ENV",
    "LANG", "DATA",
];

/// What [`Reader::known`] found: by key, with the place of the key.
pub(crate) type Found<'a> = BTreeMap<&'a str, (Range<usize>, Value<'a>)>;

/// A name and its text, with the places of both.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: Range<usize>,
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) text: String,
}

/// A value with its place.
pub(crate) type Value<'a> = &'a Spanned<DeValue<'a>>;

/// How many problems are kept; the others are only counted.
const MAX_KEPT: usize = 1000;
/// How many suggestions are made: comparing is slow, and nobody reads more.
const MAX_SUGGESTIONS: usize = 50;
/// The longest word that is compared with others: no key of ours is half as long.
const MAX_COMPARED: usize = 64;
/// How many names a help lists.
const MAX_LISTED: usize = 10;

/// Collects problems while sections are read.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    pub(crate) source: &'t Source<'t>,
    problems: Vec<RawProblem>,
    dropped: usize,
    suggestions: usize,
    /// Names of `[redis.X]` that something counts in, with their places.
    pub(crate) stores: Vec<(Range<usize>, String)>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(source: &'t Source<'t>) -> Self {
        Self { source, problems: Vec::new(), dropped: 0, suggestions: 0, stores: Vec::new() }
    }

    pub(crate) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.keep(RawProblem { span, message: message.into(), help, limit: false });
    }

    /// Notes that there is more of something than a manifest may hold.
    pub(crate) fn limit(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.keep(RawProblem { span, message: message.into(), help: None, limit: true });
    }

    fn keep(&mut self, problem: RawProblem) {
        if self.problems.len() < MAX_KEPT || problem.limit {
            self.problems.push(problem);
        } else {
            self.dropped += 1;
        }
    }

    /// Notes an error of the TOML grammar.
    pub(crate) fn syntax(&mut self, error: &toml::de::Error) {
        let message = error.message();
        if message.contains("recurs") {
            self.problem(
                error.span().unwrap_or(0..0),
                "tables, lists or dotted keys are nested more than 80 deep",
                Some("no key of a manifest needs more than five levels".to_owned()),
            );
        } else {
            self.problem(error.span().unwrap_or(0..0), message, None);
        }
    }

    /// Whether there is no problem yet.
    pub(crate) fn is_content(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many problems there are, to be given to [`Self::understood`].
    pub(crate) fn count(&self) -> usize {
        self.problems.len() + self.dropped
    }

    /// Whether the text is TOML and there was no problem since `before`.
    pub(crate) fn understood(&self, before: usize) -> bool {
        self.is_sound() && self.count() == before
    }

    /// Whether the whole text is TOML.
    pub(crate) fn is_sound(&self) -> bool {
        self.source.is_sound()
    }

    /// Notes a list that is too long, and cuts it.
    pub(crate) fn at_most<T>(
        &mut self,
        value: Value<'_>,
        list: &mut Vec<T>,
        most: usize,
        what: &str,
    ) {
        if list.len() > most {
            self.limit(value.span(), format!("this list has more than {most} {what}"));
            list.truncate(most);
        }
    }

    /// All problems, and how many more there were.
    pub(crate) fn into_problems(self) -> (Vec<RawProblem>, usize) {
        (self.problems, self.dropped)
    }

    /// A key or value between backticks, or `…` where it may be a secret.
    pub(crate) fn quote(&self, span: &Range<usize>, text: &str) -> String {
        if self.source.shows(span) { format!("`{}`", shorten(text)) } else { format!("`{HIDDEN}`") }
    }

    /// An error that quotes what was given.
    fn refuse(&mut self, span: Range<usize>, error: &impl std::fmt::Display, given: &str) {
        let text = error.to_string();
        let shown = self.source.shows(&span) || given.is_empty();
        let text = if shown { text } else { text.replacen(given, HIDDEN, 1) };
        self.problem(span, text, None);
    }

    /// A name, such as that of a service.
    pub(crate) fn name<T>(&mut self, span: Range<usize>, text: &str) -> Option<T>
    where
        T: std::str::FromStr<Err = NameError>,
    {
        text.parse().map_err(|error: NameError| self.refuse(span, &error, &error.given)).ok()
    }

    /// The known word that is nearest, as a help.
    pub(crate) fn suggest<'k>(
        &mut self,
        text: &str,
        known: impl Iterator<Item = &'k str>,
    ) -> Option<String> {
        if text.len() > MAX_COMPARED || self.suggestions == MAX_SUGGESTIONS {
            return None;
        }
        self.suggestions += 1;
        closest(text, known).map(|close| format!("did you mean `{close}`?"))
    }

    /// Notes keys that nobody knows and those that are planned; the others are returned by name.
    pub(crate) fn known<'a>(
        &mut self,
        table: &'a DeTable<'a>,
        keys: &[Key],
        place: &str,
    ) -> Found<'a> {
        let mut found = BTreeMap::new();
        for (name, value) in table {
            let text: &str = name.get_ref().as_ref();
            match keys.iter().find(|key| key.name == text) {
                Some(key) if key.kind == Kind::Planned => {
                    self.problem(
                        name.span(),
                        format!("planned: `{}` is not built yet", key.name),
                        Some("leave it out for now".to_owned()),
                    );
                }
                Some(_) => {
                    found.insert(text, (name.span(), value));
                }
                None => {
                    let help = self.suggest(text, keys.iter().map(|key| key.name));
                    let quoted = self.quote(&name.span(), text);
                    self.problem(name.span(), format!("unknown key {quoted} in {place}"), help);
                }
            }
        }
        found
    }

    fn wrong(&mut self, value: Value<'_>, wanted: &str) {
        let is = match value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(value.span(), format!("this is {is}, it should be {wanted}"), None);
    }

    pub(crate) fn table<'a>(&mut self, value: Value<'a>) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong(value, "a table");
        }
        table
    }

    pub(crate) fn text(&mut self, value: Value<'_>) -> Option<String> {
        let text = value.get_ref().as_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(value, "text in quotes");
        }
        text
    }

    pub(crate) fn switch(&mut self, value: Value<'_>) -> Option<bool> {
        let switch = value.get_ref().as_bool();
        if switch.is_none() {
            self.wrong(value, "true or false");
        }
        switch
    }

    pub(crate) fn number(
        &mut self,
        value: Value<'_>,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong(value, "a whole number");
            return None;
        };
        let number = i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok();
        let fits = number.filter(|number| range.contains(number));
        if fits.is_none() {
            self.problem(
                value.span(),
                format!("this number must be from {} to {}", range.start(), range.end()),
                None,
            );
        }
        fits
    }

    /// A share, written `"5%"`; in ten-thousandths.
    pub(crate) fn share(&mut self, value: Value<'_>) -> Option<u16> {
        let text = self.text(value)?;
        let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let share = number.filter(|share| (0.01..=100.0).contains(share));
        if share.is_none() {
            self.problem(value.span(), "this is no share: write it like `\"5%\"`", None);
        }
        share.map(|share| (share * 100.0).round() as u16)
    }

    /// Cores, written 2 or 0.5; in thousandths.
    pub(crate) fn cores(&mut self, value: Value<'_>) -> Option<u32> {
        let number: Option<f64> = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => None,
        };
        match number {
            Some(cores) if (0.01..=1024.0).contains(&cores) => {
                Some((cores * 1000.0).round() as u32)
            }
            _ => {
                self.problem(
                    value.span(),
                    "this should be a number of cores, such as 0.5 or 2",
                    None,
                );
                None
            }
        }
    }

    pub(crate) fn duration(&mut self, value: Value<'_>) -> Option<Duration> {
        let text = self.text(value)?;
        parse_duration(&text).map_err(|error| self.refuse(value.span(), &error, &error.given)).ok()
    }

    pub(crate) fn size(&mut self, value: Value<'_>) -> Option<ByteSize> {
        let text = self.text(value)?;
        text.parse()
            .map_err(|error: QuantityError| self.refuse(value.span(), &error, &error.given))
            .ok()
    }

    /// Text or a list of texts, each with its place.
    pub(crate) fn texts(&mut self, value: Value<'_>) -> Vec<(Range<usize>, String)> {
        match value.get_ref() {
            DeValue::String(text) => vec![(value.span(), text.to_string())],
            DeValue::Array(items) => {
                items.iter().filter_map(|item| Some((item.span(), self.text(item)?))).collect()
            }
            _ => {
                self.wrong(value, "text or a list of texts");
                Vec::new()
            }
        }
    }

    /// Names and texts, in the order of the file.
    pub(crate) fn map(&mut self, value: Value<'_>) -> Vec<Entry> {
        let Some(table) = self.table(value) else { return Vec::new() };
        table
            .iter()
            .filter_map(|(name, value)| {
                let (key, span) = (name.span(), value.span());
                Some(Entry { key, name: name.get_ref().to_string(), span, text: self.text(value)? })
            })
            .collect()
    }

    /// One command, or a list of them.
    pub(crate) fn commands(&mut self, value: Value<'_>, names: &[&str]) -> Vec<Command> {
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| self.command(item, names)).collect()
            }
            _ => self.command(value, names).into_iter().collect(),
        }
    }

    pub(crate) fn command(&mut self, value: Value<'_>, names: &[&str]) -> Option<Command> {
        if let DeValue::Table(table) = value.get_ref() {
            if table.keys().any(|name| name.get_ref() == "up") {
                self.problem(
                    value.span(),
                    "planned: `{ up, down, status }` is not built yet",
                    Some("give the command that migrates up".to_owned()),
                );
                return None;
            }
            let shell = [Key { name: "shell", kind: Kind::Text, doc: "" }];
            let found = self.known(table, &shell, "a command");
            let Some((_, line)) = found.get("shell") else {
                self.problem(
                    value.span(),
                    "a command is text, a list, or `{ shell = \"…\" }`",
                    None,
                );
                return None;
            };
            return self.text(line).map(Command::Shell);
        }
        let text = self.text(value)?;
        if text.contains('\0') {
            self.problem(value.span(), "a command cannot hold a NUL byte", None);
            return None;
        }
        let words = match split_words(&text) {
            Ok(words) if !words.is_empty() => words,
            Ok(_) => {
                self.problem(value.span(), "this command is empty", None);
                return None;
            }
            Err(error) => {
                self.problem(value.span(), error.to_string(), None);
                return None;
            }
        };
        for word in &words {
            if let Some(unknown) = unknown_name(word, names) {
                let help = format!(
                    "only {} are replaced; for a shell's own: {{ shell = \"…\" }}",
                    names.iter().map(|name| format!("`${name}`")).collect::<Vec<_>>().join(", ")
                );
                // What looks like a name may be the middle of a password.
                let known = COMMON_NAMES.contains(&unknown);
                let name = if known { unknown } else { HIDDEN };
                self.problem(
                    value.span(),
                    format!("`${name}` is not replaced: commands run without a shell"),
                    Some(help),
                );
            }
            if matches!(word.as_str(), "|" | "||" | "&&" | ";" | ">" | "<" | "&" | ">>") {
                self.problem(
                    value.span(),
                    format!("`{word}` means nothing here: commands run without a shell"),
                    Some("use a list of commands, or { shell = \"…\" }".to_owned()),
                );
            }
        }
        Some(Command::Argv(words))
    }

    pub(crate) fn environment(&mut self, value: Value<'_>) -> BTreeMap<String, EnvValue> {
        let mut all = BTreeMap::new();
        for Entry { key, name, span, text } in self.map(value) {
            if name.is_empty()
                || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                || name.as_bytes()[0].is_ascii_digit()
            {
                let quoted = self.quote(&key, &name);
                self.problem(key, format!("{quoted} is no name of an environment variable"), None);
                continue;
            }
            let value = match text.strip_prefix("secret:") {
                Some(secret) if is_secret_name(secret) => EnvValue::Secret(secret.to_owned()),
                Some(_) => {
                    self.problem(
                        span,
                        "what follows `secret:` is no name of a secret",
                        Some("a name is `A-Z`, `0-9` and `_`".to_owned()),
                    );
                    continue;
                }
                None if text.contains('\0') => {
                    self.problem(span, "a value of the environment cannot hold a NUL byte", None);
                    continue;
                }
                None => EnvValue::Text(text),
            };
            all.insert(name, value);
        }
        all
    }
}

/// Whether a text can name a secret.
pub(crate) fn is_secret_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_');
    first
        && text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The first `$NAME` that is not one of `names`.
fn unknown_name<'a>(word: &'a str, names: &[&str]) -> Option<&'a str> {
    word.split('$').skip(1).find_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        (named && !names.contains(&name)).then_some(name)
    })
}

/// The known word that is nearest, if it is near enough to be what was meant.
fn closest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.map(|word| (strsim::damerau_levenshtein(text, word), word));
    scored
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .map(|(_, word)| word)
}

/// Some names for a help: not all that there are.
pub(crate) fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.peekable();
    let first: Vec<&str> = names.by_ref().take(MAX_LISTED).collect();
    let rest = if names.peek().is_some() { ", …" } else { "" };
    format!("{}{rest}", first.join(", "))
}

/// Cuts what could be a whole file.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}
