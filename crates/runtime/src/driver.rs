//! Control's side of the shims: start one, find them, speak with them, clean up after them.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use seaworthy_base::InstanceId;
use seaworthy_sys::cgroup::{Cgroup, Delegated};
use seaworthy_sys::files::create_private_dir;
use seaworthy_sys::spawn::inherit_nothing;
use thiserror::Error;

use crate::model::{Event, PROTOCOL, Reply, Request, Spec, Status};
use crate::wire;

/// A shim's standard error, in the instance's folder.
const LAST_WORDS: &str = "shim.log";
/// More than that is not written, in bytes: a shim speaks there only of what keeps it from its log.
pub(crate) const MAX_LAST_WORDS: u64 = 64 << 10;

/// Why a shim did not do what was asked.
#[derive(Debug, Error)]
pub enum DriverError {
    /// It could not be started.
    #[error("could not start a shim for `{id}`")]
    Launch {
        /// For which instance.
        id: InstanceId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("the shim does not answer")]
    Silent(#[source] io::Error),
    /// It refused.
    #[error("the shim refused: {0}")]
    Refused(String),
    /// It answered with something else.
    #[error("the shim answered with something else")]
    Unexpected,
}

/// Starts a shim (`program shim`) in a session of its own, and in `home` where there is one; its specification goes
/// through a pipe, never through a file.
pub fn launch(program: &Path, spec: &Spec, home: Option<&Delegated>) -> Result<u32, DriverError> {
    let failed = |source| DriverError::Launch { id: spec.id.clone(), source };
    // The shim works in `/`.
    for path in [program, &spec.run_dir, &spec.log.path, &spec.dir] {
        if path.is_relative() {
            let what = format!("`{}` is not an absolute path", path.display());
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
    }
    create_private_dir(&spec.run_dir, 0o711).map_err(failed)?;
    let words = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(spec.run_dir.join(LAST_WORDS))
        .map_err(failed)?;
    let mut command = Command::new(program);
    // It outlives us: it must hold no folder busy, no terminal and no log of ours.
    command.arg("shim").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(words);
    if let Some(home) = home {
        home.admit(&mut command).map_err(failed)?;
    }
    inherit_nothing(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let text = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    let mut pipe = child.stdin.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    pipe.write_all(&text).map_err(failed)?;
    Ok(child.id())
}

/// What a shim said about itself, such as why it could not go on; empty for one that is well.
pub fn last_words(run_dir: &Path) -> Vec<String> {
    let mut text = String::new();
    let file = std::fs::File::open(run_dir.join(LAST_WORDS));
    // What cannot be read is not there for whoever asks either.
    file.and_then(|file| file.take(MAX_LAST_WORDS).read_to_string(&mut text)).ok();
    text.lines().map(str::to_owned).collect()
}

/// The name of an instance's control group.
pub fn cgroup_name(id: &InstanceId, run_dir: &Path) -> String {
    group_name(&format!("{}.{}", id.site, id.file_name()), run_dir)
}

/// The name of a control group for what `words` name: two platforms on one host, with folders of their own, never share
/// one.
pub fn group_name(words: &str, folder: &Path) -> String {
    let tag = folder
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
    format!("{words}-{tag:016x}")
}

/// Ends what a dead shim, started in `home`, left and removes its folder.
pub fn sweep(id: &InstanceId, run_dir: &Path, home: Option<&Delegated>) -> io::Result<()> {
    let name = cgroup_name(id, run_dir);
    let group = home.map_or_else(|| Cgroup::find(&name), |home| Some(home.find(&name)));
    if let Some(group) = group {
        group.kill_all(Duration::from_secs(2));
        group.remove();
    }
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A connection to one shim. Blocking.
#[derive(Debug)]
pub struct ShimClient {
    stream: UnixStream,
}

impl ShimClient {
    /// Connects to the shim of a run folder and greets; no call takes longer than `patience`.
    pub fn connect(run_dir: &Path, patience: Duration) -> Result<Self, DriverError> {
        let stream = UnixStream::connect(run_dir.join("sock")).map_err(DriverError::Silent)?;
        stream.set_read_timeout(Some(patience)).map_err(DriverError::Silent)?;
        stream.set_write_timeout(Some(patience)).map_err(DriverError::Silent)?;
        let mut client = Self { stream };
        match client
            .ask(&Request::Hello { proto: PROTOCOL, build: env!("CARGO_PKG_VERSION").to_owned() })?
        {
            Reply::Hello { .. } => Ok(client),
            _ => Err(DriverError::Unexpected),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Reply, DriverError> {
        wire::write(&mut self.stream, request).map_err(DriverError::Silent)?;
        match wire::read(&mut self.stream).map_err(DriverError::Silent)? {
            Reply::Failed { message } => Err(DriverError::Refused(message)),
            reply => Ok(reply),
        }
    }

    fn status_of(&mut self, request: &Request) -> Result<Status, DriverError> {
        match self.ask(request)? {
            Reply::Status(status) => Ok(*status),
            _ => Err(DriverError::Unexpected),
        }
    }

    /// How the instance is.
    pub fn status(&mut self) -> Result<Status, DriverError> {
        self.status_of(&Request::Status)
    }

    /// Begins to stop the program, and with `end` the shim too.
    pub fn stop(&mut self, end: bool) -> Result<Status, DriverError> {
        self.status_of(&Request::Stop { end })
    }

    /// Begins to restart the program.
    pub fn restart(&mut self) -> Result<Status, DriverError> {
        self.status_of(&Request::Restart)
    }

    /// Sends a signal to the program.
    pub fn signal(&mut self, name: &str) -> Result<Status, DriverError> {
        self.status_of(&Request::Signal { name: name.to_owned() })
    }

    /// The newest event after `sequence`; empty when nothing happened within `wait`.
    pub fn events_since(
        &mut self,
        sequence: u64,
        wait: Duration,
    ) -> Result<Vec<Event>, DriverError> {
        match self.ask(&Request::EventsSince { sequence, wait_ms: wait.as_millis() as u64 })? {
            Reply::Events { events } => Ok(events),
            _ => Err(DriverError::Unexpected),
        }
    }
}
