//! Problems of a manifest, and how they are shown: place, line, caret, help.
//!
//! Invariant: text between quotes on a line whose key looks like a secret is never shown.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use seaworthy_base::{Code, Fault};
use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Line, from 1; 0 when the problem has no place.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Characters to underline.
    pub length: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The line, masked where it may hold a secret.
    pub source: Option<String>,
}

/// A problem as the reader found it: by bytes.
#[derive(Debug, Clone)]
pub(crate) struct RawProblem {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Everything that is wrong with a manifest.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The kind of failure.
    pub code: Code,
    /// The manifest.
    pub file: PathBuf,
    /// All problems, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Words in keys whose values are not shown.
const SECRETIVE: [&str; 8] =
    ["secret", "password", "passwd", "token", "key", "dsn", "credential", "_url"];

impl Report {
    pub(crate) fn single(code: Code, file: &Path, message: String, help: &str) -> Self {
        let problem = Problem {
            line: 0,
            column: 0,
            length: 0,
            message,
            help: Some(help.to_owned()),
            source: None,
        };
        Self { code, file: file.to_path_buf(), problems: vec![problem] }
    }

    pub(crate) fn new(code: Code, file: PathBuf, text: &str, mut raw: Vec<RawProblem>) -> Self {
        raw.sort_by_key(|problem| problem.span.start);
        Self { code, file, problems: raw.into_iter().map(|problem| place(text, problem)).collect() }
    }

    /// The whole report as text for people.
    pub fn render(&self, color: bool) -> String {
        let paint = |code: &str, text: &str| {
            if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut out = String::new();
        for problem in &self.problems {
            let _infallible = writeln!(out, "{} {}", paint("1;31", "error:"), problem.message);
            if problem.line > 0 {
                let gutter = problem.line.to_string().len();
                let _infallible = writeln!(
                    out,
                    "{:gutter$}{} {}:{}:{}",
                    "",
                    paint("34", "-->"),
                    self.file.display(),
                    problem.line,
                    problem.column
                );
            }
            if let Some(source) = &problem.source {
                let gutter = problem.line.to_string().len();
                let before = " ".repeat(problem.column.saturating_sub(1) as usize);
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
        out
    }

    /// The report as a fault, for the control protocol.
    pub fn to_fault(&self) -> Fault {
        let count = self.problems.len();
        let what = match &self.problems[..] {
            [only] if only.line == 0 => only.message.clone(),
            _ => format!(
                "`{}` has {count} problem{}",
                self.file.display(),
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

fn place(text: &str, raw: RawProblem) -> Problem {
    let start = floor(text, raw.span.start);
    let end = floor(text, raw.span.end.max(start));
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[..start].matches('\n').count() as u32 + 1;
    let column = text[line_start..start].chars().count() as u32 + 1;
    let length = text[start..end.min(line_end).max(start)].chars().count().max(1) as u32;
    // A line of a thousand characters helps nobody, and may be binary.
    let source: String = text[line_start..line_end]
        .chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let length = length.min((source.chars().count() as u32 + 1).saturating_sub(column).max(1));
    Problem {
        line,
        column,
        length,
        message: raw.message,
        help: raw.help,
        source: Some(mask(&source)),
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Replaces what stands between quotes by dots of the same number when the line speaks of secrets.
fn mask(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let harmless = lower.trim_start().starts_with("secrets") || lower.contains("\"secret:");
    if harmless || (!SECRETIVE.iter().any(|word| lower.contains(word)) && !lower.contains("://")) {
        return line.to_owned();
    }
    let mut quote = None;
    let masked = line.chars().map(|c| match quote {
        None if c == '"' || c == '\'' => {
            quote = Some(c);
            c
        }
        Some(open) if open == c => {
            quote = None;
            c
        }
        Some(_) => '·',
        None => c,
    });
    masked.collect()
}
