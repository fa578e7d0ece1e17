//! The value that never prints, and the name it goes by.
//!
//! ```compile_fail
//! fn printed<T: std::fmt::Display>(_: T) {}
//! printed(seaworthy_secrets::Secret::new("x".to_owned()));
//! ```
//! ```compile_fail
//! fn serialised<T: serde::Serialize>(_: T) {}
//! serialised(seaworthy_secrets::Secret::new("x".to_owned()));
//! ```

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use zeroize::Zeroize;

/// A value that is kept out of logs, errors and files; overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Gives the value away: the one place to look for when reading what happens to secrets.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Why a text is no name of a secret.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{given}` is no name of a secret: `A-Z`, `0-9` and `_`, no digit first")]
pub struct NameError {
    /// The text, cut to 60 characters.
    pub given: String,
}

/// The name of a secret, as it stands in the environment. Safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let first =
            text.bytes().next().is_some_and(|byte| byte.is_ascii_uppercase() || byte == b'_');
        let rest = text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        if first && rest && text.len() <= 128 {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { given: text.chars().take(60).collect() })
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2".to_owned()))), "Some([redacted])");
    }

    #[test]
    fn names_are_those_of_environment_variables() {
        assert!(
            "DATABASE_URL".parse::<SecretName>().is_ok() && "_X1".parse::<SecretName>().is_ok()
        );
        for bad in ["", "1A", "a", "A-B", "A/B", "..", "A B"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }
}
