//! seaworthy.toml: text to a validated Site.

pub mod site;

pub use site::Site;
