//! `seaworthy.toml`: text in, a validated [`Site`] or a report of all problems out.
//!
//! One pipeline for every caller (`check`, `plan`, `up`, control itself): spanned TOML → a reader that
//! knows the keys ([`keys`]) and collects problems → checks across sections → [`Site`]. Invariants: all
//! problems are reported at once, each with its place; an unknown key is an error; of the file only the
//! lines in question are shown, and of those only what cannot be a secret (`mask`). Not here: reading
//! secrets, looking at the machine.

mod backups;
mod checks;
pub mod cron;
mod delivery;
mod draft;
mod excerpt;
mod inherit;
mod init;
mod input;
pub mod keys;
mod limits;
mod mask;
mod outgoing;
mod policy;
mod read;
mod report;
mod route;
mod schema;
mod service;
pub mod site;
mod tls;
mod wire;
mod words;

use std::path::{Path, PathBuf};

use crate::excerpt::Source;

pub use init::{InitResult, init};
pub use report::{Problem, Report};
pub use schema::{reference, schema};
pub use site::Site;
pub use words::{WordsError, split_words};

/// What the parser says of a key that stands twice.
const DUPLICATE_KEY: &str = "duplicate key";

/// Reads the manifest of a project: its folder, or the file itself.
pub fn load(place: &Path) -> Result<Site, Report> {
    let file = if place.is_dir() || !place.exists() {
        place.join("seaworthy.toml")
    } else {
        place.to_path_buf()
    };
    let project = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let text = input::read(&file)?;
    parse(&text, &file, &project)
}

/// Reads a manifest's text. `file` is for the report, `project` the folder that paths are inside of.
pub fn parse(text: &str, file: &Path, project: &Path) -> Result<Site, Report> {
    if let Some(report) = input::refuse(text, file) {
        return Err(report);
    }
    let (document, errors) = toml::de::DeTable::parse_recoverable(text);
    // A key that stands twice does not shift what is key and what is value; any other error may.
    let sound = errors.iter().all(|error| error.message() == DUPLICATE_KEY);
    let source = Source::new(text, document.get_ref(), sound);
    let mut reader = read::Reader::new(&source);
    for error in errors {
        reader.syntax(&error);
    }
    let draft = draft::read_site(&mut reader, document.get_ref(), project);
    checks::check(&mut reader, &draft);
    if reader.is_content()
        && let Some(site) = draft.finish()
    {
        return Ok(site);
    }
    let (problems, dropped) = reader.into_problems();
    Err(Report::new(PathBuf::from(file), &source, problems, dropped))
}

#[cfg(test)]
mod tests;
