//! Workers: processes that do one job each and may die at any moment.
//!
//! The job goes in as a line on standard input, events come out as lines, and some events are answered. Why a
//! process for each: control opens no connection outward and holds nothing of a dump or an authority for longer than
//! it takes to hand it over. Invariant: a worker ends when its standard input does, and so with us. Not here:
//! what the jobs are (`backups`, `certificates`).

use std::process::{ExitStatus, Stdio};

use seaworthy_base::{Code, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::platform::Platform;

/// A worker at its job.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    /// Held until the end.
    input: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
}

fn failed(cause: impl ToString) -> Fault {
    Fault::new(Code::Internal, "a worker process failed")
        .because(cause.to_string())
        .next("seaworthy logs --control")
}

impl Worker {
    /// Starts one in a role and gives it its job.
    pub(crate) async fn start(
        platform: &Platform,
        role: &str,
        job: &impl Serialize,
    ) -> Result<Self, Fault> {
        let mut command = tokio::process::Command::new(&platform.program);
        command.arg(role).stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/");
        command.kill_on_drop(true);
        seaworthy_sys::spawn::inherit_nothing(command.as_std_mut());
        let mut child = command.spawn().map_err(failed)?;
        let input = child.stdin.take().ok_or_else(|| failed("it has no input"))?;
        let output = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
        let mut worker = Self { child, input, events: BufReader::new(output).lines() };
        worker.tell(job).await?;
        Ok(worker)
    }

    /// Sends one line: the job, or an answer.
    pub(crate) async fn tell(&mut self, words: &impl Serialize) -> Result<(), Fault> {
        let mut line = serde_json::to_vec(words).map_err(failed)?;
        line.push(b'\n');
        self.input.write_all(&line).await.map_err(failed)
    }

    /// The next event; none at the end. What is not understood is passed over.
    pub(crate) async fn next<E: DeserializeOwned>(&mut self) -> Result<Option<E>, Fault> {
        while let Some(line) = self.events.next_line().await.map_err(failed)? {
            if let Ok(event) = serde_json::from_str(&line) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Waits until it ended.
    pub(crate) async fn end(mut self) -> Result<ExitStatus, Fault> {
        drop(self.input);
        self.child.wait().await.map_err(failed)
    }
}
