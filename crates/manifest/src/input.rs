//! From a file to a text that is worth parsing.
//!
//! Invariants: at most a mebibyte is read, whatever stands at the place, and nothing waits (a pipe is no
//! manifest); what is refused here is refused before the parser sees it, with words that say why and where.
//! Not here: TOML.

use std::fs;
use std::io::Read;
use std::path::Path;

use seaworthy_base::Code;

use crate::limits;
use crate::report::Report;

/// Reads a manifest that is a file, not too large, and UTF-8.
pub(crate) fn read(file: &Path) -> Result<String, Report> {
    let shown = file.display();
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Report::single(
            Code::ManifestMissing,
            file,
            format!("there is no `{shown}`"),
            "seaworthy init   (looks at the folder and writes one)",
        ),
        _ => Report::single(
            Code::ManifestUnreadable,
            file,
            format!("could not read `{shown}`: {error}"),
            "check the file's permissions",
        ),
    };
    let refused =
        |message: String, help| Err(Report::single(Code::ManifestUnreadable, file, message, help));
    if !fs::metadata(file).map_err(unreadable)?.is_file() {
        return refused(format!("`{shown}` is no file"), "a manifest is a file of TOML text");
    }
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(unreadable)?;
    opened.take(limits::FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limits::FILE {
        return Err(too_large(file));
    }
    String::from_utf8(bytes).or_else(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
        refused(
            format!(
                "`{shown}` is not text (UTF-8): byte {at}, in line {line}, belongs to no character"
            ),
            "a manifest is TOML text; save it as UTF-8",
        )
    })
}

/// Refuses a text that the parser should not see.
pub(crate) fn refuse(text: &str, file: &Path) -> Option<Report> {
    let shown = file.display();
    if text.len() as u64 > limits::FILE {
        return Some(too_large(file));
    }
    if let Some(at) = text.find('\0') {
        let message = format!("`{shown}` is not text: byte {at} is NUL");
        return Some(Report::single(
            Code::ManifestUnreadable,
            file,
            message,
            "a manifest is TOML text; save it as UTF-8",
        ));
    }
    let tables = text.lines().filter(|line| line.trim_start().starts_with('[')).count();
    (tables > limits::TABLES).then(|| {
        let most = limits::TABLES;
        let message = format!("`{shown}` has more than {most} lines that begin with `[`");
        let help = "a site has some tens of tables; is it made by a program that went wrong?";
        Report::single(Code::ManifestInvalid, file, message, help)
    })
}

fn too_large(file: &Path) -> Report {
    Report::single(
        Code::ManifestUnreadable,
        file,
        format!("`{}` is larger than 1 MiB: that is no manifest", file.display()),
        "seaworthy check --manifest DIR   names another folder",
    )
}
