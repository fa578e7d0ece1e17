//! `logs --access`: the edge's requests, as the JSON that they are written in, or in the combined format
//! that analysers of web servers' logs read.
//!
//! Read directly from the edge's file, so that it works when control is dead. Not here: what is written
//! and left out, which the edge decides.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use seaworthy_api::Layout;
use seaworthy_base::Exit;
use serde_json::Value;

use crate::args::LogFormat;
use crate::logs::history::{self, Span};
use crate::render::{self, Failure};

/// Which lines are wanted, and how they look.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) site: Option<String>,
    /// An RFC 3339 time.
    pub(crate) since: Option<String>,
    pub(crate) grep: Option<Regex>,
    pub(crate) format: LogFormat,
}

impl Wanted {
    /// The line as it is shown, if it is wanted.
    fn shown(&self, line: &str) -> Option<String> {
        let entry: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| entry[name].as_str().unwrap_or_default();
        let site = self.site.as_deref().is_none_or(|site| site == text("site"));
        let since = self.since.as_deref().is_none_or(|since| text("time") >= since);
        let fits = self.grep.as_ref().is_none_or(|grep| grep.is_match(line));
        (site && since && fits).then(|| match self.format {
            LogFormat::Json => line.to_owned(),
            LogFormat::Combined => combined(&entry),
        })
    }
}

/// Shows the access log, and follows it when asked.
pub(crate) fn show(
    layout: &Layout,
    follow: bool,
    span: &Span,
    wanted: &Wanted,
) -> Result<Exit, Failure> {
    let path = layout.edge_logs().join("access.log");
    let mut place = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    for line in history::lines(&path, place, span, |line| wanted.shown(line)) {
        render::print(&format!("{line}\n"));
    }
    if !follow {
        return Ok(Exit::Ok);
    }
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let from = if size < place { 0 } else { place };
        let (news, to) = read(&path, from, wanted);
        place = to;
        news.iter().for_each(|line| render::print(&format!("{line}\n")));
    }
}

/// The wanted ones of the whole lines from a place on, and where they end.
fn read(path: &Path, from: u64, wanted: &Wanted) -> (Vec<String>, u64) {
    let (mut lines, mut place) = (Vec::new(), from);
    let Ok(mut file) = File::open(path) else { return (lines, place) };
    if file.seek(SeekFrom::Start(from)).is_err() {
        return (lines, place);
    }
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0)
        && line.ends_with(b"\n")
    {
        place += line.len() as u64;
        lines.extend(wanted.shown(String::from_utf8_lossy(&line).trim_end()));
        line.clear();
    }
    (lines, place)
}

/// `client - - [13/Nov/2025:02:13:20 +0000] "GET /x HTTP/1.1" 200 7 "referer" "agent"`
fn combined(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let quoted = |name: &str| match text(name) {
        "" => "-".to_owned(),
        value => escaped(value),
    };
    format!(
        "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        text("client"),
        time(text("time")),
        escaped(text("method")),
        escaped(text("path")),
        text("proto"),
        entry["status"],
        entry["out"],
        quoted("referer"),
        quoted("agent"),
    )
}

/// A quote or a control character would end the field or the line for who reads it.
fn escaped(text: &str) -> String {
    let one = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\x{:02x}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// `2025-11-13T02:13:20.007Z` as `13/Nov/2025:02:13:20 +0000`.
fn time(rfc3339: &str) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let part = |from: usize, to: usize| rfc3339.get(from..to).unwrap_or_default();
    let month =
        part(5, 7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    format!("{}/{}/{}:{} +0000", part(8, 10), month.unwrap_or(&"-"), part(0, 4), part(11, 19))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_the_combined_format_is_what_analysers_read() {
        let line = r#"{"time":"2025-11-13T02:13:20.007Z","site":"shop","client":"192.0.2.7","method":"GET","path":"/a\"b","status":200,"out":7,"proto":"HTTP/2","agent":"x\ny"}"#;
        let wanted = |site: &str, since: &str| Wanted {
            site: Some(site.to_owned()),
            since: Some(since.to_owned()),
            grep: None,
            format: LogFormat::Combined,
        };
        assert_eq!(
            wanted("shop", "2025-11-13T00:00:00.000Z").shown(line).unwrap(),
            "192.0.2.7 - - [13/Nov/2025:02:13:20 +0000] \"GET /a\\\"b HTTP/2\" 200 7 \"-\" \"x\\x0ay\""
        );
        assert_eq!(wanted("other", "").shown(line), None);
        assert_eq!(wanted("shop", "2025-11-14T00:00:00.000Z").shown(line), None);
    }
}
