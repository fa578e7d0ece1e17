//! Problems of a manifest, and how they are shown: place, line, caret, help.
//!
//! Invariants: no value that could be a secret is in a report, in whatever form it is printed (the lines
//! come from [`Source`], which decides what may be seen); a report of the worst file is a few screens long
//! and holds no control characters. Not here: finding problems.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};
use serde::Serialize;

use crate::excerpt::Source;

/// How many problems are shown: more than anybody mends before the next try.
const MAX_PROBLEMS: usize = 50;
/// The longest message, in characters.
const MAX_MESSAGE: usize = 300;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1; 0 when the problem has no place.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The line: cut around the place, and `…` instead of what may be secret.
    pub source: Option<String>,
    /// Where the place begins in `source`, in characters from 1.
    pub caret: u32,
    /// Characters of `source` to underline.
    pub length: u32,
}

/// A problem as the reader found it: by bytes.
#[derive(Debug, Clone)]
pub(crate) struct RawProblem {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Something is too large: told first, for the rest of the file was not looked at.
    pub(crate) limit: bool,
}

/// Everything that is wrong with a manifest.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The kind of failure.
    pub code: Code,
    /// The manifest.
    pub file: PathBuf,
    /// The first problems: limits, then the others in the order of the file.
    pub problems: Vec<Problem>,
    /// How many problems there are beyond those.
    pub more: usize,
}

impl Report {
    pub(crate) fn single(code: Code, file: &Path, message: String, help: &str) -> Self {
        let problem = Problem {
            line: 0,
            column: 0,
            message: plain(&message),
            help: Some(help.to_owned()),
            source: None,
            caret: 0,
            length: 0,
        };
        Self { code, file: file.to_path_buf(), problems: vec![problem], more: 0 }
    }

    /// `dropped`: problems that were found and not kept.
    pub(crate) fn new(
        file: PathBuf,
        source: &Source<'_>,
        mut raw: Vec<RawProblem>,
        dropped: usize,
    ) -> Self {
        raw.sort_by_key(|problem| (!problem.limit, problem.span.start));
        let more = raw.len().saturating_sub(MAX_PROBLEMS) + dropped;
        raw.truncate(MAX_PROBLEMS);
        let problems = raw.into_iter().map(|problem| place(source, problem)).collect();
        Self { code: Code::ManifestInvalid, file, problems, more }
    }

    /// How many problems there are, with those that are not listed.
    pub fn total(&self) -> usize {
        self.problems.len() + self.more
    }

    /// The whole report as text for people.
    pub fn render(&self, color: bool) -> String {
        let paint = |code: &str, text: &str| {
            if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut out = String::new();
        let file = plain(&self.file.display().to_string());
        for problem in &self.problems {
            let _infallible = writeln!(out, "{} {}", paint("1;31", "error:"), problem.message);
            if problem.line > 0 {
                let gutter = problem.line.to_string().len();
                let _infallible = writeln!(
                    out,
                    "{:gutter$}{} {}:{}:{}",
                    "",
                    paint("34", "-->"),
                    file,
                    problem.line,
                    problem.column
                );
            }
            if let Some(source) = &problem.source {
                let gutter = problem.line.to_string().len();
                let before = " ".repeat(problem.caret.saturating_sub(1) as usize);
                let carets = "^".repeat(problem.length.max(1) as usize);
                let _infallible = writeln!(out, "{} {} {source}", problem.line, paint("34", "|"));
                let _infallible = writeln!(
                    out,
                    "{:gutter$} {} {before}{}",
                    "",
                    paint("34", "|"),
                    paint("1;31", &carets)
                );
            }
            if let Some(help) = &problem.help {
                let _infallible = writeln!(out, "{} {help}", paint("1;32", "help:"));
            }
            out.push('\n');
        }
        if self.more > 0 {
            let _infallible = writeln!(out, "… and {} more\n", self.more);
        }
        out
    }

    /// The report as a fault, for the control protocol.
    pub fn to_fault(&self) -> Fault {
        let count = self.total();
        let what = match &self.problems[..] {
            [only] if only.line == 0 => only.message.clone(),
            _ => format!(
                "`{}` has {count} problem{}",
                plain(&self.file.display().to_string()),
                if count == 1 { "" } else { "s" }
            ),
        };
        let mut fault = Fault::new(self.code, what);
        if self.code == Code::ManifestInvalid {
            fault.evidence = self.render(false).lines().map(str::to_owned).collect();
            let folder = self.file.parent().unwrap_or(Path::new("."));
            fault.next.push(format!("seaworthy check --manifest {}", folder.display()));
        } else {
            fault.next.extend(self.problems.iter().filter_map(|problem| problem.help.clone()));
        }
        fault
    }
}

fn place(source: &Source<'_>, raw: RawProblem) -> Problem {
    let (line, column) = source.position(raw.span.start);
    let excerpt = source.excerpt(raw.span);
    Problem {
        line: line as u32,
        column: column as u32,
        message: plain(&raw.message),
        help: raw.help.map(|help| plain(&help)),
        source: Some(excerpt.text),
        caret: excerpt.caret as u32,
        length: excerpt.length as u32,
    }
}

/// A text that a terminal shows as it is: cut, without control characters or those that change the
/// direction of writing.
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MAX_MESSAGE {
            out.push('…');
            break;
        }
        let turns = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || turns {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
