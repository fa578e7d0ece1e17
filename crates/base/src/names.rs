//! Names that people give to sites and services, checked once when they are made.
//!
//! Invariant: a value of these types is safe as a file name, a cgroup name and a DNS label.
//! What the names stand for lives in the manifest and the state store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name, in bytes: with its prefix it still fits a DNS label (63, RFC 1035).
pub const MAX_NAME: usize = 40;

/// Why a text is not a name.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{given}` is no name: 1 to 40 of `a-z`, `0-9` and `-`, a letter first")]
pub struct NameError {
    /// The text as it was given, cut to 60 characters.
    pub given: String,
}

fn check(text: &str) -> Result<(), NameError> {
    let mut chars = text.chars();
    let first_ok = chars.next().is_some_and(|c| c.is_ascii_lowercase());
    let rest_ok = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if first_ok && rest_ok && text.len() <= MAX_NAME {
        Ok(())
    } else {
        Err(NameError { given: text.chars().take(60).collect() })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// The name of a site: what one `seaworthy.toml` describes.
    SiteName
}
name! {
    /// The name of a service of a site: `[service.X]`.
    ServiceName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_labels() {
        for good in ["a", "web", "finito-mail", "a1"] {
            assert!(good.parse::<SiteName>().is_ok(), "{good}");
        }
        let long = "a".repeat(41);
        for bad in ["", "1a", "-a", "A", "a_b", "a/b", "..", "ä", long.as_str()] {
            assert!(bad.parse::<SiteName>().is_err(), "{bad}");
        }
    }
}
