//! `seaworthy.toml`: text in, a validated [`Site`] or a report of all problems out.
//!
//! One pipeline for every caller (`check`, `plan`, `up`, control itself): spanned TOML → a reader that
//! knows the keys ([`keys`]) and collects problems → checks across sections → [`Site`]. Invariants: all
//! problems are reported at once, each with its place; an unknown key is an error; of the file only the
//! lines in question are shown, and of those only what cannot be a secret ([`mask`]). Not here: reading
//! secrets, looking at the machine.

mod checks;
mod draft;
mod excerpt;
mod inherit;
mod init;
pub mod keys;
mod limits;
mod mask;
mod read;
mod report;
mod route;
mod schema;
mod service;
pub mod site;
mod wire;
mod words;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use seaworthy_base::Code;

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
    let read = opened.take(limits::FILE + 1).read_to_end(&mut bytes);
    read.map_err(|error| {
        refused(
            Code::ManifestUnreadable,
            format!("could not read `{}`: {error}", file.display()),
            "is it a file?",
        )
    })?;
    if bytes.len() as u64 > limits::FILE {
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
