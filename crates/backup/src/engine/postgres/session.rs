//! A session with a server, through `psql`: one question at a time, answers as JSON.
//!
//! Why JSON: names of tables may hold any character, a line end too, and only a quoted form keeps rows apart.
//! Invariant: after a refused statement the session is over (psql stops), and what the server said is in
//! the fault.

use std::io::{BufRead, BufReader, PipeReader, Write};

use seaworthy_base::{Code, Fault};
use serde_json::Value;

use crate::tool::{Counted, Running, Tool};

/// Printed by psql behind each answer; no JSON value looks like it.
const END: &str = "--seaworthy-end--";

/// An open session.
#[derive(Debug)]
pub(crate) struct Session {
    running: Option<Running>,
    answers: BufReader<Counted<PipeReader>>,
    shown: String,
}

impl Session {
    /// Opens a session; `shown` is where it goes, for people.
    pub(crate) fn open(psql: &Tool, shown: &str) -> Result<Self, Fault> {
        let words = [
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--quiet",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
        ];
        let mut running = psql.clone().args(words).start(true)?;
        let answers = BufReader::new(running.output()?);
        let mut session = Self { running: Some(running), answers, shown: shown.to_owned() };
        // Names are shown in full, and a policy that hides rows is an error rather than a smaller backup.
        session.run("SET search_path = pg_catalog; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET row_security = off; SET client_min_messages = warning; SET datestyle = iso; SET intervalstyle = postgres; SET extra_float_digits = 3")?;
        Ok(session)
    }

    /// Asks; each row is one JSON value.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<Vec<Value>, Fault> {
        let lines = self.lines(&format!("{sql};"))?;
        let value = |line: &String| {
            serde_json::from_str(line).map_err(|error| {
                let what = format!("{} gave an answer that is no JSON", self.shown);
                Fault::new(Code::BackupSource, what).because(error.to_string())
            })
        };
        lines.iter().map(value).collect()
    }

    /// The first value of the first row; null when there is none.
    pub(crate) fn one(&mut self, sql: &str) -> Result<Value, Fault> {
        Ok(self.ask(sql)?.into_iter().next().unwrap_or(Value::Null))
    }

    /// The same for a question that may be refused; then null.
    pub(crate) fn try_one(&mut self, sql: &str) -> Result<Value, Fault> {
        let lines = self.lines(&format!("\\set ON_ERROR_STOP 0\n{sql};\n\\set ON_ERROR_STOP 1"))?;
        Ok(lines.first().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null))
    }

    /// Rows of one text each.
    pub(crate) fn texts(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        let rows = self.ask(sql)?;
        Ok(rows.iter().filter_map(|row| row.as_str().map(str::to_owned)).collect())
    }

    /// Runs statements that answer nothing.
    pub(crate) fn run(&mut self, sql: &str) -> Result<(), Fault> {
        self.lines(&format!("{sql};")).map(drop)
    }

    /// The server's version, as it says it and as its major number.
    pub(crate) fn version(&mut self) -> Result<(String, u32), Fault> {
        let number = self.one("SELECT to_json(current_setting('server_version_num')::int)")?;
        let text = self.one("SELECT to_json(current_setting('server_version'))")?;
        let major = number.as_u64().unwrap_or(0) as u32 / 10_000;
        Ok((text.as_str().unwrap_or_default().to_owned(), major))
    }

    /// Says that it is left open on purpose: it does not hang, it has nothing to do.
    pub(crate) fn stay(&self) {
        if let Some(running) = &self.running {
            running.note_life();
        }
    }

    fn lines(&mut self, text: &str) -> Result<Vec<String>, Fault> {
        let sent = match self.running.as_mut().and_then(|running| running.stdin.as_mut()) {
            Some(stdin) => write!(stdin, "{text}\n\\echo {END}\n").and_then(|()| stdin.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        let mut lines = Vec::new();
        while sent.is_ok() {
            let mut line = String::new();
            match self.answers.read_line(&mut line) {
                Ok(got) if got > 0 => {}
                _ => break,
            }
            let line = line.trim_end_matches('\n');
            if line == END {
                return Ok(lines);
            }
            if !line.is_empty() {
                lines.push(line.to_owned());
            }
        }
        Err(self.end())
    }

    /// Why the session is over.
    fn end(&mut self) -> Fault {
        let what = format!("{} could not be read", self.shown);
        let Some(running) = self.running.take() else {
            return Fault::new(Code::BackupSource, what).because("the session is over");
        };
        match running.finish(Code::BackupSource) {
            Err(fault) => {
                let telling = ["ERROR:", "FATAL:", "error:"];
                let told = fault
                    .evidence
                    .iter()
                    .find(|line| telling.iter().any(|word| line.contains(word)));
                let cause = told.or(fault.evidence.first()).cloned();
                let cause = cause.unwrap_or_else(|| fault.causes.join(": "));
                let cause = cause
                    .trim_start_matches("psql: error: ")
                    .trim_start_matches("ERROR:")
                    .to_owned();
                Fault { what, causes: vec![cause.trim().to_owned()], ..fault }
            }
            Ok(_) => Fault::new(Code::BackupSource, what).because("the session ended"),
        }
    }
}
