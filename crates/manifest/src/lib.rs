//! `seaworthy.toml`: text in, a validated [`Site`] or a report of all problems out.
//!
//! One pipeline for every caller (`check`, `plan`, `up`, control itself): spanned TOML → a reader that
//! knows the keys ([`keys`]) and collects problems → checks across sections → [`Site`]. Invariants: all
//! problems are reported at once, each with its place; an unknown key is an error; nothing of the file
//! but the line in question is shown, and no text of a key that looks like a secret. Not here: reading
//! secrets, looking at the machine.

mod checks;
mod draft;
pub mod inherit;
mod init;
pub mod keys;
mod read;
mod report;
mod route;
mod schema;
mod service;
pub mod site;
mod words;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use seaworthy_base::Code;

pub use init::{InitResult, init};
pub use report::{Problem, Report};
pub use schema::{reference, schema};
pub use site::Site;
pub use words::{WordsError, split_words};

/// The largest manifest in bytes: the longest that people write has ten thousand.
const MAX_SIZE: u64 = 1 << 20;

/// Reads the manifest of a project: its folder, or the file itself.
pub fn load(place: &Path) -> Result<Site, Report> {
    let file = if place.is_dir() || !place.exists() {
        place.join("seaworthy.toml")
    } else {
        place.to_path_buf()
    };
    let project = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let text = read_text(&file)?;
    parse(&text, &file, &project)
}

fn read_text(file: &Path) -> Result<String, Report> {
    let refused = |code, message: String, help: &str| Report::single(code, file, message, help);
    let opened = fs::File::open(file).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => refused(
            Code::ManifestMissing,
            format!("there is no `{}`", file.display()),
            "seaworthy init   (looks at the folder and writes one)",
        ),
        _ => refused(
            Code::ManifestUnreadable,
            format!("could not read `{}`: {error}", file.display()),
            "check the file's permissions",
        ),
    })?;
    let mut bytes = Vec::new();
    let read = opened.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| {
        refused(
            Code::ManifestUnreadable,
            format!("could not read `{}`: {error}", file.display()),
            "is it a file?",
        )
    })?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(refused(
            Code::ManifestUnreadable,
            format!("`{}` is larger than 1M: that is no manifest", file.display()),
            "seaworthy check --manifest DIR   names another folder",
        ));
    }
    String::from_utf8(bytes).map_err(|_| {
        refused(
            Code::ManifestUnreadable,
            format!("`{}` is not text (UTF-8)", file.display()),
            "a manifest is TOML text",
        )
    })
}

/// Reads a manifest's text. `file` is for the report, `project` the folder that paths are inside of.
pub fn parse(text: &str, file: &Path, project: &Path) -> Result<Site, Report> {
    let (document, errors) = toml::de::DeTable::parse_recoverable(text);
    let mut reader = read::Reader::new(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        reader.problem(span, error.message().to_owned(), None);
    }
    let site = draft::read_site(&mut reader, document.get_ref(), project);
    if reader.problems.is_empty() {
        checks::check(&mut reader, &site);
    }
    if reader.problems.is_empty()
        && let Some(site) = site.finish()
    {
        return Ok(site);
    }
    Err(Report::new(Code::ManifestInvalid, PathBuf::from(file), text, reader.problems))
}

#[cfg(test)]
mod tests;
