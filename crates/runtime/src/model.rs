//! What an instance is told (its specification) and what it tells (status, events), with the protocol
//! of the shim's socket.
//!
//! The protocol is frozen early: shims outlive many controls, and every control must understand every
//! shim since 1.0. Unknown fields are ignored, unknown verbs are an error. Invariant: secret values
//! stand in [`Spec::secret_environment`] and [`Spec::secret_files`] only; a specification travels through an inherited pipe
//! and is never written to a disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use seaworthy_base::{Fault, InstanceId, Timestamp};
use serde::{Deserialize, Serialize};

/// The protocol that control and shim speak: a 4-byte big-endian length, then JSON.
pub const PROTOCOL: u32 = 1;

/// All that a shim must know to run one instance. Times in milliseconds, sizes in bytes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Which instance.
    pub id: InstanceId,
    /// The program and its arguments; `$PORT`-like words are already replaced except for `$PORT` names
    /// and `$INSTANCE`, which the shim replaces.
    pub argv: Vec<String>,
    /// Working folder.
    pub dir: PathBuf,
    /// The environment (nothing is inherited) but for secrets: in its values `$PORT` names are replaced.
    pub environment: Vec<(String, String)>,
    /// Secrets given as variables: passed on to the last byte, nothing in them is replaced.
    #[serde(default)]
    pub secret_environment: Vec<(String, String)>,
    /// Secrets given as files: name, value. Written 0400 into the instance's folder; the path is in `NAME_FILE`.
    pub secret_files: Vec<(String, String)>,
    /// User and groups to run as; as ourselves when absent.
    pub user: Option<User>,
    /// How it learns its port.
    pub ports: Ports,
    /// Not ready: out of rotation.
    pub ready: Probe,
    /// Not live: restarted.
    pub live: Probe,
    /// Limits.
    pub limits: Limits,
    /// Back-off.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stop,
    /// Where and how much is logged.
    pub log: Log,
    /// The instance's own folder in the run folder: `lock`, `sock`, `secrets/`.
    pub run_dir: PathBuf,
    /// Hash of everything above that a change of must restart it; made by control, opaque here.
    pub hash: String,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec")
            .field("id", &self.id)
            .field("argv", &self.argv)
            .finish_non_exhaustive()
    }
}

/// A system user, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

/// How the program learns where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ports {
    /// A free port in each variable: port name and variable; the first is the default.
    Environment(Vec<(String, String)>),
    /// It insists on this one: its `bind` is answered with a free loopback port.
    Fixed(u16),
    /// It was configured to listen on this one, and really does: nobody else may have it.
    Own(u16),
    /// None: it listens on a Unix socket.
    Socket(SocketRule),
}

/// Where a program makes its Unix socket, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketRule {
    /// The instance's own folder of sockets.
    pub folder: PathBuf,
    /// The socket's name below the program's room in it, `/` allowed.
    pub name: String,
    /// User and group that the program runs as, where they are not ours.
    pub owner: Option<(u32, u32)>,
    /// The group of the edge, where it is not our user.
    pub group: Option<u32>,
}

/// One check; the fields mean what the manifest's keys mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// GET this path; a TCP connection without one.
    pub path: Option<String>,
    /// Said on the connection instead of a GET, to a server that speaks no HTTP.
    #[serde(default)]
    pub say: Option<Say>,
    /// Statuses that count as well; 200 to 299 when empty.
    pub status: Vec<u16>,
    /// Values the JSON answer must hold, by dotted path.
    pub json: BTreeMap<String, serde_json::Value>,
    /// Headers to send.
    pub headers: BTreeMap<String, String>,
    /// Interval.
    pub every_ms: u64,
    /// Longest time of one.
    pub timeout_ms: u64,
    /// So many in a row count as failed.
    pub failures: u32,
    /// Before that age failures do not count.
    pub start_ms: u64,
}

/// What is said to a server that speaks no HTTP, and what one that is ready answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Say {
    /// What is sent.
    pub words: Vec<u8>,
    /// How the answer of a server that is ready begins.
    pub answer: Vec<u8>,
}

/// Limits of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Above it the instance is ended: out of memory.
    pub memory_max: Option<u64>,
    /// Above it the instance asks to be replaced gracefully.
    pub memory_restart: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u32>,
    /// Open files.
    pub nofile: Option<u64>,
    /// Processes and threads; a share of what the kernel runs when absent.
    #[serde(default)]
    pub processes: Option<u64>,
}

/// Back-off and crash loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// First pause; doubles.
    pub backoff_min_ms: u64,
    /// Longest pause.
    pub backoff_max_ms: u64,
    /// So many ends …
    pub crashes: u32,
    /// … within this time are a crash loop.
    pub within_ms: u64,
}

/// How an instance is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Signal name without `SIG`.
    pub signal: String,
    /// Time between signal and KILL.
    pub grace_ms: u64,
}

/// Where and how much is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The current file; rotated ones stand beside it.
    pub path: PathBuf,
    /// Rotated at this size, and each day.
    pub max_size: u64,
    /// Rotated files kept.
    pub keep: u32,
    /// Days after which rotated files are removed.
    pub days: Option<u32>,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Started, not yet ready for the first time.
    Starting,
    /// Ready.
    Ready,
    /// Runs, but its readiness check fails.
    Unready,
    /// Ended; waits for its next start.
    Backoff,
    /// Being stopped.
    Stopping,
    /// Stopped because it was asked to.
    Stopped,
}

/// How an instance is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which one.
    pub id: InstanceId,
    /// Phase of its life.
    pub phase: Phase,
    /// The shim's process.
    pub shim_pid: u32,
    /// The program's process, while there is one.
    pub pid: Option<u32>,
    /// When the program was last started.
    pub started: Option<Timestamp>,
    /// Where it really listens, by port name (`http` for the default one).
    pub listening: BTreeMap<String, SocketAddr>,
    /// The Unix socket by which it can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Starts after the first.
    pub restarts: u32,
    /// Whether it is in a crash loop.
    pub crash_loop: bool,
    /// How it last ended.
    pub last_exit: Option<ExitRecord>,
    /// While it waits: when it is started again.
    #[serde(default)]
    pub next_start: Option<Timestamp>,
    /// What is wrong now, with cause, evidence and next command.
    pub fault: Option<Fault>,
    /// Bytes of memory of the whole tree, when known.
    pub memory: Option<u64>,
    /// CPU time of the whole tree in milliseconds, when known.
    pub cpu_ms: Option<u64>,
    /// Log lines that could not be written.
    pub log_dropped: u64,
    /// Guards that this host cannot give, or gives in a weaker way, in words.
    pub guards: Vec<String>,
    /// Above `memory_restart`: wants to be replaced.
    pub wants_replacement: bool,
    /// [`Spec::hash`] of what runs.
    pub hash: String,
    /// Number of the newest event.
    pub sequence: u64,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: ExitReason,
    /// How long it had run, in milliseconds.
    pub ran_ms: u64,
    /// Whether it had listened.
    pub listened: bool,
}

/// Why a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(String),
    /// By the kernel or the shim: out of memory.
    OutOfMemory,
    /// Restarted because it was hung.
    Hung,
    /// Could not be executed; says what is missing.
    CouldNotExec(String),
    /// Stopped because it was asked to.
    Asked,
}

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 within one shim.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// The status after it.
    pub status: Status,
}

/// What control asks of a shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verb")]
pub enum Request {
    /// First message on every connection.
    Hello {
        /// [`PROTOCOL`] of the speaker.
        proto: u32,
        /// Build of the speaker.
        build: String,
    },
    /// How the instance is.
    Status,
    /// Start it if it is stopped.
    Start,
    /// Stop it and, with `end`, end the shim too.
    Stop {
        /// Whether the shim ends as well.
        end: bool,
    },
    /// Stop and start the program (same shim).
    Restart,
    /// Send a signal to the program.
    Signal {
        /// Its name without `SIG`.
        name: String,
    },
    /// The newest event after `sequence`, waiting up to `wait_ms` for one.
    EventsSince {
        /// The last one known.
        sequence: u64,
        /// Longest wait.
        wait_ms: u64,
    },
}

/// What a shim answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum Reply {
    /// To `Hello`.
    Hello {
        /// [`PROTOCOL`] of the shim.
        proto: u32,
        /// Its build.
        build: String,
        /// Boot id of the running kernel.
        boot_id: String,
        /// What it can do beyond the protocol's number.
        features: Vec<String>,
        /// Which instance it owns.
        id: InstanceId,
    },
    /// To `Status` and to everything that was done.
    Status(Box<Status>),
    /// To `EventsSince`.
    Events {
        /// Newest last; empty when nothing happened in time.
        events: Vec<Event>,
    },
    /// Not done.
    Failed {
        /// Why.
        message: String,
    },
}
