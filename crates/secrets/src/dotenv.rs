//! Dotenv files: `NAME=value` lines, quotes, `export`, comments, values over several lines in quotes.
//!
//! Invariant: an error names a line, never what stands in it.

use thiserror::Error;

use crate::secret::Secret;

/// Why a text is no dotenv file.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DotenvError {
    /// A line that is neither blank, a comment nor `NAME=value`.
    #[error("line {line} is not `NAME=value`")]
    NoAssignment {
        /// Which line, from 1.
        line: usize,
    },
    /// A quote that is never closed.
    #[error("the quote that opens in line {line} is never closed")]
    OpenQuote {
        /// Where it opens.
        line: usize,
    },
}

/// Reads names and values in the order of the file.
pub fn parse_dotenv(text: &str) -> Result<Vec<(String, Secret<String>)>, DotenvError> {
    let mut found = Vec::new();
    let mut lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let assignment = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) =
            assignment.split_once('=').ok_or(DotenvError::NoAssignment { line: number })?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return Err(DotenvError::NoAssignment { line: number });
        }
        let value = value.trim_start();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let mut quoted = value[1..].to_owned();
                while closing(&quoted, quote).is_none() {
                    let (_, more) = lines.next().ok_or(DotenvError::OpenQuote { line: number })?;
                    quoted.push('\n');
                    quoted.push_str(more);
                }
                let end = closing(&quoted, quote).unwrap_or(quoted.len());
                let inner = &quoted[..end];
                if quote == '"' { unescape(inner) } else { inner.to_owned() }
            }
            _ => value.split(" #").next().unwrap_or_default().trim_end().to_owned(),
        };
        found.push((name.to_owned(), Secret::new(value)));
    }
    Ok(found)
}

/// Where the quote closes; a backslash protects what follows it in double quotes.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote == '"' {
            escaped = true;
        } else if c == quote {
            return Some(at);
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match if c == '\\' { chars.next() } else { None } {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some(other) => out.push(other),
            None => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_people_write_them_are_read() {
        let text =
            "# comment\nA=1\nexport B = two words # note\nC=\"x # \\\"y\\\"\\n\"\nD='a\nb'\nE=\n";
        let found = parse_dotenv(text).unwrap();
        let plain: Vec<_> =
            found.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
        assert_eq!(
            plain,
            [("A", "1"), ("B", "two words"), ("C", "x # \"y\"\n"), ("D", "a\nb"), ("E", "")]
        );
    }

    #[test]
    fn errors_name_the_line_and_nothing_of_it() {
        assert_eq!(
            parse_dotenv("A=1\nhunter2").unwrap_err().to_string(),
            "line 2 is not `NAME=value`"
        );
        assert_eq!(parse_dotenv("A=\"hunter2").unwrap_err(), DotenvError::OpenQuote { line: 1 });
    }
}
