//! Splitting a command into words as a POSIX shell would, without a shell: quotes and backslashes, no
//! expansion of anything.

use thiserror::Error;

/// Why a text is no list of words.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum WordsError {
    /// A quote that is never closed.
    #[error("the {quote} at character {at} is never closed")]
    OpenQuote {
        /// Which quote.
        quote: char,
        /// Where, from 1.
        at: usize,
    },
    /// A backslash with nothing after it.
    #[error("a backslash stands at the end")]
    TrailingBackslash,
}

/// Splits `text` into words.
pub fn split_words(text: &str) -> Result<Vec<String>, WordsError> {
    let (mut words, mut word, mut in_word) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().enumerate();
    while let Some((at, c)) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                }
                in_word = false;
                continue;
            }
            '\'' | '"' => loop {
                let (_, inner) =
                    chars.next().ok_or(WordsError::OpenQuote { quote: c, at: at + 1 })?;
                match inner {
                    _ if inner == c => break,
                    '\\' if c == '"' => {
                        let (_, escaped) =
                            chars.next().ok_or(WordsError::OpenQuote { quote: c, at: at + 1 })?;
                        if !matches!(escaped, '"' | '\\' | '$' | '`') {
                            word.push('\\');
                        }
                        word.push(escaped);
                    }
                    _ => word.push(inner),
                }
            },
            '\\' => word.push(chars.next().ok_or(WordsError::TrailingBackslash)?.1),
            _ => word.push(c),
        }
        in_word = true;
    }
    if in_word {
        words.push(word);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let words = split_words(r#"a "b c"'d' \e "" f\ g "x\"y\z""#).unwrap();
        assert_eq!(words, ["a", "b cd", "e", "", "f g", "x\"y\\z"]);
        assert_eq!(split_words("a 'b").unwrap_err(), WordsError::OpenQuote { quote: '\'', at: 3 });
        assert_eq!(split_words("a\\").unwrap_err(), WordsError::TrailingBackslash);
    }
}
