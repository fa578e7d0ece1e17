//! Runs build and migrate commands: as the site's user, in the release, every line shown as it comes.
//!
//! Invariants: no shell unless the manifest asks for one; nothing of our own environment is inherited
//! but what the service would get; a command that fails or hangs is ended with all that it started.

pub(crate) mod bounds;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use seaworthy_base::{Code, Fault, format_duration};
use seaworthy_manifest::site::Command;
use seaworthy_runtime::model::User;
use seaworthy_sys::spawn::{Confined, confine};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::mpsc;

use bounds::Bounds;

/// Lines kept as evidence of a failure.
const EVIDENCE: usize = 15;
/// Lines on their way from a command to who looks on; when they are not taken, the command waits.
const WAITING: usize = 256;
/// A longer line is cut.
const LINE: usize = 8 << 10;

/// Where the lines go that a command prints.
pub(crate) type Lines = mpsc::Sender<String>;

/// A way for lines.
pub(crate) fn lines() -> (Lines, mpsc::Receiver<String>) {
    mpsc::channel(WAITING)
}

/// What a command runs in.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    /// Working folder.
    pub dir: &'a Path,
    /// Whole environment.
    pub environment: &'a [(String, String)],
    /// As whom.
    pub user: Option<&'a User>,
    /// How long it may take.
    pub limit: Duration,
    /// Standard input: nothing, or an empty file that is locked as long as anything of it lives.
    pub input: Option<std::fs::File>,
    /// Where it stands, and what it may use; with us, and without a limit, where there is none.
    pub bounds: Option<&'a Bounds>,
}

/// The argv of a command, our own names replaced.
pub(crate) fn argv(command: &Command, names: &[(&str, &str)]) -> Vec<String> {
    match command {
        Command::Argv(words) => words.iter().map(|word| replace(word, names)).collect(),
        Command::Shell(line) => vec!["sh".to_owned(), "-c".to_owned(), line.clone()],
    }
}

/// Replaces `$NAME` for the given names only; the longest name that fits wins.
pub(crate) fn replace(text: &str, names: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let word = tail[1..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(&tail[1..], |end| &tail[1..=end]);
        if let Some((_, value)) = names.iter().find(|(name, _)| *name == word) {
            out.push_str(value);
            rest = &tail[1 + word.len()..];
        } else {
            out.push('$');
            rest = &tail[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Runs one command to its end; `lines` gets what it prints.
pub(crate) async fn run(
    argv: &[String],
    around: &Surroundings<'_>,
    code: Code,
    lines: &Lines,
) -> Result<(), Fault> {
    let shown = argv.join(" ");
    let failed = |cause: String| Fault::new(code, format!("`{shown}` failed")).because(cause);
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let input = around.input.as_ref().and_then(|file| file.try_clone().ok());
    let input = input.map_or_else(Stdio::null, Stdio::from);
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .current_dir(around.dir)
        .env_clear()
        .envs(around.environment.iter().cloned());
    command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let unfit =
        |error: std::io::Error| failed(format!("its control group cannot be used: {error}"));
    let rules = Confined {
        cgroups: around.bounds.map_or_else(|| Ok(Vec::new()), Bounds::procs).map_err(unfit)?,
        user: around.user.map(|user| (user.uid, user.gid, user.groups.clone())),
        bound: around.bounds.is_none_or(|bounds| bounds.bound),
    };
    confine(command.as_std_mut(), rules);
    let oom_kills = around.bounds.map_or(0, Bounds::oom_kills);
    let mut child = command.spawn().map_err(|error| {
        failed(format!("`{program}` could not be started: {error}"))
            .next(format!("check that `{program}` is installed and in PATH"))
    })?;
    // Also when this work is dropped: what the command started must not outlive a deployment.
    let group = Group(child.id());
    let (sender, mut receiver) = mpsc::channel(WAITING);
    pump(child.stdout.take(), &sender);
    pump(child.stderr.take(), &sender);
    drop(sender);
    let mut tail = std::collections::VecDeque::new();
    let work = async {
        while let Some(line) = receiver.recv().await {
            if tail.len() == EVIDENCE {
                tail.pop_front();
            }
            tail.push_back(line);
            if let Some(line) = tail.back() {
                // The reader of the progress may have gone; the work goes on.
                lines.send(line.clone()).await.ok();
            }
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(around.limit, work).await;
    let cause = match ended {
        Ok(Ok(status)) if status.success() => {
            group.leave();
            return Ok(());
        }
        Ok(Ok(status)) => format!("it ended with {status}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it did not end within {}", format_duration(around.limit)),
    };
    drop(group);
    let mut fault = failed(cause);
    if let Some(bounds) = around.bounds {
        bounds.end().await;
        if bounds.oom_kills() > oom_kills {
            let (why, next) = bounds.out_of_memory();
            fault = fault.because(why).next(next);
        }
    }
    let full = tail.iter().any(|line| line.contains("No space left on device"));
    if full {
        fault = fault
            .because("the disk is full")
            .next("df -h   (what was made of the release goes with the next one)");
    }
    fault.evidence = tail.into();
    Err(fault)
}

/// The process group of a command; ended when this is dropped.
struct Group(Option<u32>);

impl Group {
    /// The command ended well: what it left running on purpose stays.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            seaworthy_sys::process::kill_group(group);
        }
    }
}

fn pump(stream: Option<impl AsyncRead + Unpin + Send + 'static>, sender: &Lines) {
    let (Some(stream), sender) = (stream, sender.clone()) else { return };
    tokio::spawn(async move {
        let mut reader = BufReader::new(stream);
        while let Some(line) = next_line(&mut reader).await {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
}

/// The next line, cut where it is longer than anybody reads; none at the end.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let piece = reader.fill_buf().await.ok()?;
        if piece.is_empty() && line.is_empty() {
            return None;
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let (taken, is_over) = (end.unwrap_or(piece.len()), end.is_some() || piece.is_empty());
        let room = LINE.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(piece.get(..room).unwrap_or_default());
        if line.is_empty() && is_over {
            line.push(b' ');
        }
        let used = taken + usize::from(end.is_some());
        reader.consume(used);
        if is_over {
            let cut = if line.len() >= LINE { "…" } else { "" };
            return Some(format!("{}{cut}", String::from_utf8_lossy(&line).trim_end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_replaced() {
        let names = [("DATA", "/d"), ("RELEASE", "r1")];
        assert_eq!(
            replace("$DATA/x $RELEASE $HOME $DATABASE $", &names),
            "/d/x r1 $HOME $DATABASE $"
        );
    }

    #[tokio::test]
    async fn a_failed_command_shows_its_last_lines() {
        let (sender, mut receiver) = lines();
        let around = Surroundings {
            dir: Path::new("/"),
            environment: &[("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            user: None,
            limit: Duration::from_secs(60),
            input: None,
            bounds: None,
        };
        let argv = ["sh", "-c", "echo one; echo two >&2; exit 3"].map(str::to_owned);
        let fault = run(&argv, &around, Code::BuildFailed, &sender).await.unwrap_err();
        assert_eq!(fault.causes, ["it ended with exit status: 3"]);
        assert_eq!(fault.evidence.len(), 2);
        assert!(receiver.recv().await.is_some());
    }

    #[tokio::test]
    async fn a_line_that_never_ends_is_cut_and_those_around_it_are_whole() {
        let text = format!("one\n\n{}\nlast", "x".repeat(3 * LINE));
        let mut reader = BufReader::with_capacity(1000, text.as_bytes());
        let mut found = Vec::new();
        while let Some(line) = next_line(&mut reader).await {
            found.push(line);
        }
        assert_eq!((&*found[0], &*found[1], &*found[3], found.len()), ("one", "", "last", 4));
        assert!(found[2].ends_with("x…") && found[2].len() == LINE + "…".len());
    }
}
