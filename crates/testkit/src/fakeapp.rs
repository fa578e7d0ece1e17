//! The fake application: a web server that misbehaves exactly as it is told to.
//!
//! What the harness needs and no real application offers: every fault on demand, by flag or by
//! request, and answers from which a client can tell whether they were meant for it. A thread for
//! each connection, no framework, so that what happens on the wire is what stands here. It speaks
//! HTTP/1.1 with keep-alive and an idle limit (5 s, as Node's), because that limit is what loses
//! requests behind careless proxies.
//!
//! Invariants: without flags it is a well-behaved application (listens on loopback at `$PORT`, ends
//! within its grace on TERM after the requests under way); what it allocates with `--leak` is
//! bounded, so that a limit that does not bite cannot take the machine down.
//! Not here: TLS and HTTP/2, which the edge speaks, never an application behind it.

mod answers;
mod http;
mod options;
mod streams;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use options::Options;
use rustix::net::SocketFlags;

/// What all threads share.
#[derive(Debug)]
pub(crate) struct App {
    options: Options,
    hung: AtomicBool,
    ending: AtomicBool,
    busy: AtomicUsize,
    answered: AtomicUsize,
    health_status: AtomicU16,
    health_body: Mutex<String>,
}

impl App {
    /// Blocks for ever once `/hang` was asked for: no thread answers any more.
    fn hang_if_asked(&self) {
        while self.hung.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// Runs the application until it is told to end; the program's whole `main`.
pub fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            complain(&format!("fakeapp: {error}"));
            return ExitCode::from(2);
        }
    };
    if options.orphan {
        outlive();
    }
    ONE_STREAM.store(options.one_stream, Ordering::SeqCst);
    say(&format!("fakeapp: starting, pid {}", std::process::id()));
    complain("fakeapp: this line goes to stderr");
    if let Some(name) = options
        .require_env
        .iter()
        .find(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()))
    {
        complain(&format!("Error: missing required environment variable {name}"));
        return ExitCode::from(1);
    }
    if let Some(after) = options.crash_loop {
        std::thread::sleep(after);
        complain("Error: something it cannot live without is broken");
        return ExitCode::from(options.exit_code);
    }
    if options.grandchildren > 0 {
        spawn_grandchildren(options.grandchildren);
    }
    if options.leak {
        leak(options.leak_cap);
    }
    std::thread::sleep(options.slow_start);
    serve(options)
}

fn serve(options: Options) -> ExitCode {
    let app = Arc::new(App {
        hung: AtomicBool::new(false),
        ending: AtomicBool::new(false),
        busy: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
        health_status: AtomicU16::new(options.health_status),
        health_body: Mutex::new(options.health_json.clone()),
        options,
    });
    watch_signals(&app);
    if app.options.never_listen {
        say("fakeapp: running, and not listening anywhere");
        park_for_ever();
    }
    let address = SocketAddr::new(app.options.bind, app.options.port);
    let (place, listener) = match &app.options.socket {
        Some(path) => (
            path.display().to_string(),
            UnixListener::bind(path).map(|listener| TcpListener::from(OwnedFd::from(listener))),
        ),
        None => (address.to_string(), TcpListener::bind(address)),
    };
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            complain(&format!("Error: could not listen on {place}: {error}"));
            return ExitCode::from(1);
        }
    };
    say(&format!("fakeapp: listening on {place}"));
    loop {
        // A Unix socket is accepted from by the same call, but has no address that the library could read.
        let Ok(stream) =
            rustix::net::accept_with(&listener, SocketFlags::CLOEXEC).map(TcpStream::from)
        else {
            continue;
        };
        let app = Arc::clone(&app);
        app.hang_if_asked();
        let spawned = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || http::serve_connection(&app, stream));
        if let Err(error) = spawned {
            complain(&format!("fakeapp: no thread for a connection: {error}"));
        }
    }
}

/// TERM and INT end it once nothing is under way (at most five seconds later), or are ignored.
fn watch_signals(app: &Arc<App>) {
    let app = Arc::clone(app);
    let (caught, installed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        wait_for_signal(app.options.ignore_term, || drop(caught));
        app.ending.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while app.busy.load(Ordering::SeqCst) > 0 && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        say("fakeapp: ending as asked");
        std::process::exit(0);
    });
    // The sender is dropped once signals are caught: before that one would end us at once.
    installed.recv().map(|(): ()| ()).unwrap_err();
}

/// Returns at the first TERM or INT; never when they are to be ignored. Calls `installed` once they are caught.
fn wait_for_signal(ignore: bool, installed: impl FnOnce()) {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for signals");
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).expect("TERM can be caught");
        let mut int = signal(SignalKind::interrupt()).expect("INT can be caught");
        installed();
        loop {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            if !ignore {
                return;
            }
            say("fakeapp: ignoring a signal");
        }
    });
}

/// Children with sessions of their own that ignore TERM: what killing a process group leaves behind.
fn spawn_grandchildren(count: usize) {
    let program = std::env::current_exe().expect("our own program");
    for _ in 0..count {
        let child = Command::new(&program).arg("--orphan").stdin(Stdio::null()).spawn();
        match child {
            Ok(child) => say(&format!("fakeapp: grandchild {}", child.id())),
            Err(error) => complain(&format!("fakeapp: no grandchild: {error}")),
        }
    }
}

/// The life of such a child.
fn outlive() -> ! {
    rustix::process::setsid().ok();
    wait_for_signal(true, || {});
    park_for_ever()
}

/// Allocates and touches memory until it is killed or the cap is reached.
pub(crate) fn leak(cap: usize) {
    const PIECE: usize = 4 << 20;
    let mut kept = Vec::new();
    while kept.len() * PIECE < cap {
        kept.push(vec![1_u8; PIECE]);
        std::thread::sleep(Duration::from_millis(10));
    }
    complain(&format!("fakeapp: leaked {} MiB and nobody ended it", cap >> 20));
    park_for_ever()
}

fn park_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Set by `--one-stream`: everything goes to stderr, because two pipes have no order between them.
static ONE_STREAM: AtomicBool = AtomicBool::new(false);

/// A line on stdout; a closed stdout is no reason to end.
pub(crate) fn say(line: &str) {
    if ONE_STREAM.load(Ordering::SeqCst) {
        return complain(line);
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// A line on stderr.
pub(crate) fn complain(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}
