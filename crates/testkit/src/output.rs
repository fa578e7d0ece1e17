//! A run of the binary: what it printed, what it ended with.
//!
//! Output goes to files, not pipes: a process that stays behind (control, when `up` started it) would
//! hold a pipe open, and reading to its end would never end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, eventually_some, filters};

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Output {
    command: String,
    folder: PathBuf,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Output {
    /// Ends the test unless the exit code is 0.
    #[track_caller]
    pub fn success(&self) -> &Self {
        self.code(0)
    }

    /// Ends the test unless the exit code is that one.
    #[track_caller]
    pub fn code(&self, expected: i32) -> &Self {
        assert_eq!(self.code, Some(expected), "exit code of {self}");
        self
    }

    /// Ends the test unless the filtered stdout is that text (leading and trailing empty lines and
    /// common indentation aside).
    #[track_caller]
    pub fn stdout_is(&self, expected: &str) -> &Self {
        assert_text(&format!("stdout of {self}\nThat"), &self.stdout(), expected);
        self
    }

    /// The same for stderr.
    #[track_caller]
    pub fn stderr_is(&self, expected: &str) -> &Self {
        assert_text(&format!("stderr of {self}\nThat"), &self.stderr(), expected);
        self
    }

    /// Ends the test unless stdout or stderr contains each of the texts.
    #[track_caller]
    pub fn says<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> &Self {
        for text in texts {
            assert!(
                self.stdout.contains(text) || self.stderr.contains(text),
                "`{text}` is missing in {self}"
            );
        }
        self
    }

    /// Ends the test when stdout or stderr contains the text.
    #[track_caller]
    pub fn never_says(&self, text: &str) -> &Self {
        assert!(
            !self.stdout.contains(text) && !self.stderr.contains(text),
            "`{text}` must not stand in {self}"
        );
        self
    }

    /// Stdout, filtered.
    pub fn stdout(&self) -> String {
        filters::apply(&self.stdout, &self.folder)
    }

    /// Stderr, filtered.
    pub fn stderr(&self) -> String {
        filters::apply(&self.stderr, &self.folder)
    }

    /// Stdout as it came.
    pub fn raw_stdout(&self) -> &str {
        &self.stdout
    }

    /// Stderr as it came.
    pub fn raw_stderr(&self) -> &str {
        &self.stderr
    }

    /// What it ended with; none when a signal ended it.
    pub fn exit_code(&self) -> Option<i32> {
        self.code
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is no JSON ({error}) in {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, stdout, stderr, .. } = self;
        write!(
            f,
            "`{command}` (exit code {code:?})\n--- stdout ---\n{stdout}--- stderr ---\n{stderr}---"
        )
    }
}

/// Ends the test unless the two are the same (leading and trailing empty lines and common indentation
/// of the expected text aside).
#[track_caller]
pub fn assert_text(name: &str, actual: &str, expected: &str) {
    let (actual, expected) = (actual.trim_end(), unindent(expected));
    assert!(
        actual == expected,
        "{name} differs.\n--- expected ---\n{expected}\n--- filtered ---\n{actual}\n---"
    );
}

/// Takes away what an inline text has in front because it stands inside a function.
fn unindent(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().trim_start_matches('\n').lines().collect();
    let indent = lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    lines.iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    folder: PathBuf,
    tag: String,
    files: [PathBuf; 2],
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts it; `tag` is taken away wherever it is printed.
    pub(crate) fn start(
        mut command: Command,
        folder: &Path,
        tag: &str,
        files: [PathBuf; 2],
    ) -> Self {
        let [out, err] =
            files.each_ref().map(|path| fs::File::create(path).expect("a file for output"));
        let shown: Vec<_> =
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("the binary can be started");
        Self {
            child,
            command: format!("seaworthy {}", shown.join(" ")),
            folder: folder.to_path_buf(),
            tag: tag.to_owned(),
            files,
            ended: None,
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn so_far(&mut self) -> Output {
        let [stdout, stderr] = self.files.each_ref().map(|path| {
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).replace(&self.tag, "")
        });
        let code = self.ended.and_then(|status| status.code());
        Output { command: self.command.clone(), folder: self.folder.clone(), code, stdout, stderr }
    }

    /// Waits until it has printed the text; ends the test after `limit`.
    #[track_caller]
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) {
        eventually(&format!("`{text}` from `{}`", self.command), limit, || {
            let output = self.so_far();
            output.raw_stdout().contains(text) || output.raw_stderr().contains(text)
        });
    }

    /// Ctrl-C.
    pub fn interrupt(&mut self) {
        self.send(Signal::INT);
    }

    fn send(&mut self, signal: Signal) {
        // Our own child, not yet waited for: its number cannot have been given away.
        if self.ended.is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal).ok();
        }
    }

    /// Waits for its end; one that does not end within `limit` is killed, and the test with it.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Output {
        let begun = std::time::Instant::now();
        let status = eventually_some(
            &format!("an end of `{}`", self.command),
            limit + Duration::from_secs(5),
            || {
                if begun.elapsed() > limit {
                    self.send(Signal::KILL);
                }
                self.child.try_wait().expect("a child can be waited for")
            },
        );
        self.ended = Some(status);
        let output = self.so_far();
        assert!(begun.elapsed() <= limit, "not ended within {limit:?}: {output}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            self.send(Signal::KILL);
            self.child.wait().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_texts_lose_their_indentation() {
        assert_eq!(unindent("\n    a\n      b\n\n    c\n    "), "a\n  b\n\nc");
    }

    #[test]
    fn a_process_that_stays_behind_does_not_hold_up_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 5 & echo printed; exit 3"]).current_dir(dir.path());
        let files = [dir.path().join("out"), dir.path().join("err")];
        let output =
            Running::start(command, dir.path(), "-x", files).finish(Duration::from_secs(4));
        output.code(3).stdout_is("printed");
        for left in crate::process::inside(dir.path()) {
            crate::process::signal(left.pid, dir.path(), Signal::KILL);
        }
    }
}
