//! Running the engines' own tools: as another user, with nothing inherited, ended when they hang.
//!
//! Invariants: no shell, no secret in an argument; a client opens only what it was given (`shut_in`); a tool dies with us, whatever kills us; what it says on
//! standard error is kept; one that neither reads nor writes for too long is ended. Not here: which tool.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use seaworthy_base::{Code, Fault};
use seaworthy_sys::{process, spawn};

use crate::model::RunAs;
use crate::shut_in::ShutIn;

/// A tool that moves no byte for so long hangs: a dump waits for locks, but not this long.
pub(crate) const STALL: Duration = Duration::from_secs(30 * 60);
/// One that loads a dump: at its end a server makes indexes, and nothing moves meanwhile.
pub(crate) const LOADING: Duration = Duration::from_secs(12 * 3600);
/// How long a dump is let write before it is read: what a fast one writes in this time is far less than a pipe holds.
const GATHER: Duration = Duration::from_micros(500);
/// How much a pipe holds: as much as anybody may ask for.
const PIPE: usize = 1 << 20;
/// Lines of standard error that are kept: the first and the last so many.
const KEPT_LINES: usize = 40;
/// The longest line that is kept; what is longer counts as several.
const LINE: u64 = 2000;
/// The longest output that is taken into memory.
const MAX_OUTPUT: u64 = 64 << 20;

/// A tool and how it runs.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment besides PATH and LANG.
    pub environment: Vec<(String, String)>,
    /// Working folder.
    pub dir: PathBuf,
    /// As whom.
    pub run_as: Option<RunAs>,
    /// Whether it may go on without reading or writing: what it does shows elsewhere.
    pub silent: bool,
    /// It is ended when it neither reads nor writes for so long.
    pub stall: Duration,
    /// What it may open; everything that its user may, without.
    pub shut_in: Option<ShutIn>,
}

/// A tool that runs.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    /// What it writes.
    pub stdout: Option<Counted<PipeReader>>,
    /// What it reads; dropped to end its input.
    pub stdin: Option<Counted<PipeWriter>>,
    stderr: Option<JoinHandle<Vec<String>>>,
    moved: Arc<AtomicU64>,
    stall: Duration,
    stalled: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
}

/// A pipe whose bytes are counted, so that somebody sees when none move.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    pipe: T,
    moved: Arc<AtomicU64>,
}

impl<T: Read> Read for Counted<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.pipe.read(buffer)?;
        self.moved.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

impl<T: Write> Write for Counted<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let done = self.pipe.write(bytes)?;
        self.moved.fetch_add(done as u64, Ordering::Relaxed);
        Ok(done)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

/// What a dump writes, taken in large pieces: it writes a page at a time, and one who takes each as it comes is woken
/// for each, which costs more than sealing does. So it is let write on while there is room in the pipe.
#[derive(Debug)]
pub(crate) struct Gathered<R> {
    from: R,
    /// The last read took all that there was.
    emptied: bool,
}

impl<R> Gathered<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, emptied: false }
    }
}

impl<R: Read> Read for Gathered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.emptied {
            std::thread::park_timeout(GATHER);
        }
        let got = self.from.read(buffer)?;
        self.emptied = got < buffer.len();
        Ok(got)
    }
}

impl Tool {
    /// A tool without anything special.
    pub(crate) fn new(program: impl Into<String>, dir: &Path, run_as: Option<&RunAs>) -> Self {
        Self {
            argv: vec![program.into()],
            environment: Vec::new(),
            dir: dir.to_path_buf(),
            run_as: run_as.cloned(),
            silent: false,
            stall: STALL,
            shut_in: None,
        }
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(arguments.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Adds variables.
    pub(crate) fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// Has it ended when it neither reads nor writes for so long.
    pub(crate) fn stall(mut self, stall: Duration) -> Self {
        self.stall = stall;
        self
    }

    /// Shuts it in.
    pub(crate) fn shut_in(mut self, rules: ShutIn) -> Self {
        self.shut_in = Some(rules);
        self
    }

    /// One that is shut in may read that file.
    pub(crate) fn may_read(mut self, file: &Path) -> Self {
        if let Some(rules) = &mut self.shut_in {
            rules.may_read(file);
        }
        self
    }

    /// One that is shut in may make files there.
    pub(crate) fn may_write(mut self, folder: &Path) -> Self {
        if let Some(rules) = &mut self.shut_in {
            rules.may_write(folder);
        }
        self
    }

    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        let program = self.argv.first().map_or("", String::as_str);
        Path::new(program)
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    }

    /// Starts it; with `feed` its standard input is ours to write.
    pub(crate) fn start(&self, feed: bool) -> Result<Running, Fault> {
        self.spawn(feed).map_err(|error| {
            let fault = Fault::new(Code::BackupTool, format!("could not run `{}`", self.name()));
            let fault = fault.because(error.to_string());
            if error.kind() == io::ErrorKind::NotFound {
                fault.next(advice(&self.name()))
            } else {
                fault
            }
        })
    }

    fn spawn(&self, feed: bool) -> io::Result<Running> {
        let (out_reader, out_writer) = io::pipe()?;
        let (err_reader, err_writer) = io::pipe()?;
        let (input, stdin) = if feed {
            let (reader, writer) = io::pipe()?;
            (Some(OwnedFd::from(reader)), Some(writer))
        } else {
            (None, None)
        };
        // A larger pipe means fewer turns of the scheduler between a dump and us.
        rustix::pipe::fcntl_setpipe_size(&out_reader, PIPE).ok();
        let fallback = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let path = std::env::var("PATH").unwrap_or_else(|_| fallback.to_owned());
        let mut environment = vec![
            ("PATH".to_owned(), path),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
            ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
        ];
        environment.extend(self.environment.iter().cloned());
        let program = self.argv.first().map_or("", String::as_str);
        let shut_in = self.shut_in.as_ref().map(|one| one.rules(program).prepare()).transpose()?;
        let (child, _) = spawn::start(spawn::Start {
            argv: &self.argv,
            dir: &self.dir,
            environment: &environment,
            input,
            output: (out_writer.into(), err_writer.into()),
            user: self.run_as.as_ref().map(|user| (user.uid, user.gid, &user.groups[..])),
            cgroups: &[],
            nofile: None,
            shut_in,
            answer_binds: false,
        })?;
        let moved = Arc::new(AtomicU64::new(0));
        let counted = |pipe| Counted { pipe, moved: Arc::clone(&moved) };
        let running = Running {
            name: self.name(),
            stdout: Some(counted(out_reader)),
            stdin: stdin.map(|pipe| Counted { pipe, moved: Arc::clone(&moved) }),
            stderr: Some(std::thread::spawn(move || keep_lines(err_reader))),
            moved: Arc::clone(&moved),
            stall: self.stall,
            stalled: Arc::default(),
            done: Arc::default(),
            child,
        };
        if !self.silent {
            running.watch();
        }
        Ok(running)
    }

    /// Runs it to its end; what it printed.
    pub(crate) fn output(&self, code: Code) -> Result<String, Fault> {
        let mut running = self.start(false)?;
        let mut text = Vec::new();
        let read = running.output().map(|pipe| pipe.take(MAX_OUTPUT).read_to_end(&mut text));
        running.finish(code)?;
        read?.map_err(|error| {
            Fault::new(code, format!("could not read what `{}` printed", self.name()))
                .because(error.to_string())
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Running {
    /// Ends it when nothing moves for too long. A thread, because the one that reads is blocked then.
    fn watch(&self) {
        let (group, moved) = (self.child.id(), Arc::clone(&self.moved));
        let (stalled, done) = (Arc::clone(&self.stalled), Arc::clone(&self.done));
        let stall = self.stall;
        std::thread::spawn(move || {
            let (mut last, mut still) = (0, Duration::ZERO);
            let step = Duration::from_millis(500);
            while !done.load(Ordering::Acquire) {
                std::thread::park_timeout(step);
                let now = moved.load(Ordering::Relaxed);
                still = if now == last { still + step } else { Duration::ZERO };
                last = now;
                if still >= stall {
                    stalled.store(true, Ordering::Release);
                    process::kill_group(group);
                    return;
                }
            }
        });
    }

    /// Notes that it lives although no byte moves.
    pub(crate) fn note_life(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// What it writes, taken over.
    pub(crate) fn output(&mut self) -> Result<Counted<PipeReader>, Fault> {
        self.stdout.take().ok_or_else(|| {
            Fault::new(Code::Internal, format!("what `{}` writes was taken twice", self.name))
        })
    }

    /// Waits for its end. Returns what it said on standard error, or a fault unless it ended well.
    pub(crate) fn finish(mut self, code: Code) -> Result<Vec<String>, Fault> {
        drop(self.stdin.take());
        let status = self.child.wait();
        self.done.store(true, Ordering::Release);
        let lines = self.stderr.take().and_then(|lines| lines.join().ok()).unwrap_or_default();
        let fault = |cause: String| {
            let mut fault = Fault::new(code, format!("`{}` failed", self.name)).because(cause);
            fault.evidence.clone_from(&lines);
            fault
        };
        match status {
            Ok(status) if status.success() => Ok(lines),
            Ok(_) if self.stalled.load(Ordering::Acquire) => {
                Err(fault(format!("nothing moved for {} s: it was ended", self.stall.as_secs())))
            }
            Ok(status) => Err(fault(ending(status))),
            Err(error) => Err(fault(error.to_string())),
        }
    }

    /// Waits until a server is `ready`; one that ends instead, or takes longer than `patience`, is a fault.
    pub(crate) fn ready(
        mut self,
        patience: Duration,
        code: Code,
        mut ready: impl FnMut() -> bool,
    ) -> Result<Self, Fault> {
        let begun = std::time::Instant::now();
        while !ready() {
            if self.has_ended() {
                let name = self.name.clone();
                let early = || Fault::new(code, format!("`{name}` ended as soon as it was up"));
                return Err(self.finish(code).err().unwrap_or_else(early));
            }
            if begun.elapsed() > patience {
                let fault = Fault::new(code, format!("`{}` does not come up", self.name));
                return Err(fault.because(format!("it took longer than {} s", patience.as_secs())));
            }
            std::thread::park_timeout(Duration::from_millis(30));
        }
        Ok(self)
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Asks it to end with that signal, and ends it after `patience`.
    pub(crate) fn stop(mut self, signal: i32, patience: Duration) {
        process::signal_process(self.child.id(), signal);
        let begun = std::time::Instant::now();
        while begun.elapsed() < patience && !self.has_ended() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
        if let Ok(None) = self.child.try_wait() {
            process::kill_group(self.child.id());
            self.child.wait().ok();
        }
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by {}", process::signal_name(signal)),
        (None, None) => "it ended".to_owned(),
    }
}

/// The first and the last lines of what a tool says: the cause is often first, the summary last.
fn keep_lines(pipe: PipeReader) -> Vec<String> {
    let (mut first, mut last, mut dropped) = (Vec::new(), VecDeque::new(), 0usize);
    let mut reader = io::BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        // In pieces: a tool that never ends its line must not fill our memory.
        match io::BufRead::read_until(&mut (&mut reader).take(LINE), b'\n', &mut line) {
            Ok(got) if got > 0 => {}
            _ => break,
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if first.len() < KEPT_LINES {
            first.push(text);
            continue;
        }
        if last.len() == KEPT_LINES {
            last.pop_front();
            dropped += 1;
        }
        last.push_back(text);
    }
    if dropped > 0 {
        first.push(format!("({dropped} lines left out)"));
    }
    first.extend(last);
    first
}

/// What to type when a program is missing.
fn advice(program: &str) -> String {
    let package = match program {
        "pg_dump" | "pg_restore" | "psql" | "pg_dumpall" => "postgresql-client",
        "initdb" | "postgres" | "pg_basebackup" => "postgresql",
        "mariadb" | "mariadb-dump" | "mysql" | "mysqldump" => "mariadb-client",
        "mariadbd" | "mysqld" | "mariadb-install-db" => "mariadb-server",
        "redis-cli" => "redis-tools",
        "redis-server" => "redis-server",
        "ssh" => "openssh-client",
        other => other,
    };
    format!("apt install {package}   (or your distribution's package that has `{program}`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Tool {
        Tool::new("sh", Path::new("/"), None).args(["-c", line])
    }

    #[test]
    fn a_tool_that_fails_shows_what_it_said() {
        let fault = shell("echo out; echo why >&2; exit 3").output(Code::BackupTool).unwrap_err();
        assert_eq!(fault.causes, ["it ended with exit code 3"]);
        assert_eq!(fault.evidence, ["why"]);
        assert_eq!(shell("echo out; echo why >&2").output(Code::BackupTool).unwrap(), "out\n");
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let fault = Tool::new("pg_dump_of_nowhere", Path::new("/"), None)
            .output(Code::BackupTool)
            .unwrap_err();
        assert!(fault.what.contains("pg_dump_of_nowhere") && fault.next[0].contains("apt install"));
    }

    #[test]
    fn one_that_moves_nothing_is_ended_and_what_it_said_is_kept() {
        let fault = shell("echo waiting >&2; exec sleep 600")
            .stall(Duration::from_secs(1))
            .output(Code::BackupTool)
            .unwrap_err();
        assert_eq!(fault.causes, ["nothing moved for 1 s: it was ended"]);
        assert_eq!(fault.evidence, ["waiting"]);
    }

    #[test]
    fn a_line_without_an_end_is_kept_in_pieces() {
        let fault = shell("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")
            .output(Code::BackupTool)
            .unwrap_err();
        assert_eq!(fault.evidence.len(), 2 * KEPT_LINES + 1);
        assert!(fault.evidence.iter().all(|line| line.len() as u64 <= LINE));
    }

    #[test]
    fn endless_complaints_are_kept_short() {
        let line = "i=0; while [ $i -lt 500 ]; do echo line $i >&2; i=$((i+1)); done; exit 1";
        let fault = shell(line).output(Code::BackupTool).unwrap_err();
        assert_eq!(fault.evidence.len(), 2 * KEPT_LINES + 1);
        assert_eq!(fault.evidence.last().unwrap(), "line 499");
    }
}
