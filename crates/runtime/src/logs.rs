//! From a program's output to log lines: split, timed, told apart by stream, the newest kept as evidence.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use seaworthy_base::Timestamp;
use seaworthy_sys::logfile::{LogRules, RotatingLog};

use crate::model::Log;

/// A longer line is cut into pieces, in bytes.
const MAX_LINE: usize = 32 << 10;
/// Lines kept as evidence.
const RECENT: usize = 20;

/// One stream of a program.
#[derive(Debug, Default)]
struct Stream {
    partial: Vec<u8>,
}

/// The log of one instance.
#[derive(Debug)]
pub(crate) struct InstanceLog {
    file: RotatingLog,
    streams: [Stream; 2],
    recent: VecDeque<String>,
    compressors: Compressors,
}

/// Rotated files on their way to be compressed, one at a time: a program that writes faster than files
/// are compressed must not fill the machine with processes.
#[derive(Debug, Default)]
struct Compressors {
    running: Option<u32>,
    waiting: VecDeque<PathBuf>,
}

impl InstanceLog {
    pub(crate) fn open(rules: &Log) -> Self {
        let rules = LogRules {
            path: rules.path.clone(),
            max_size: rules.max_size,
            keep: rules.keep,
            days: rules.days,
        };
        Self {
            file: RotatingLog::open(rules),
            streams: [Stream::default(), Stream::default()],
            recent: VecDeque::new(),
            compressors: Compressors::default(),
        }
    }

    /// Takes what came from standard output (0) or error (1).
    pub(crate) fn take(&mut self, which: usize, bytes: &[u8]) {
        let name = if which == 0 { "out" } else { "err" };
        let Some(stream) = self.streams.get_mut(which) else { return };
        stream.partial.extend_from_slice(bytes);
        let (mut lines, mut out, mut count) = (Vec::new(), Vec::new(), 0);
        let time = Timestamp::now().to_string();
        loop {
            let end = memchr(&stream.partial)
                .or_else(|| (stream.partial.len() >= MAX_LINE).then_some(MAX_LINE - 1));
            let Some(end) = end else { break };
            let line: Vec<u8> = stream.partial.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        }
        for line in lines {
            out.extend_from_slice(format!("{time} {name} {line}\n").as_bytes());
            count += 1;
            self.remember(&line);
        }
        if count > 0 {
            self.write(&out, count);
        }
    }

    fn write(&mut self, lines: &[u8], count: u64) {
        if let Some(rotated) = self.file.write(lines, count) {
            self.compressors.add(rotated);
        }
    }

    /// What is left of an unfinished line when the program ended.
    pub(crate) fn finish(&mut self) {
        for which in [0, 1] {
            if self.streams.get(which).is_some_and(|stream| !stream.partial.is_empty()) {
                self.take(which, b"\n");
            }
        }
    }

    /// A line of the shim itself.
    pub(crate) fn say(&mut self, text: &str) {
        self.write(format!("{} sys {text}\n", Timestamp::now()).as_bytes(), 1);
    }

    /// Whether a child of ours compresses logs and is no part of the program.
    pub(crate) fn is_compressor(&self, pid: u32) -> bool {
        self.compressors.running == Some(pid)
    }

    /// A child ended; if it compressed logs, the next one begins.
    pub(crate) fn compressor_ended(&mut self, pid: u32) {
        if self.is_compressor(pid) {
            self.compressors.running = None;
            self.compressors.next();
        }
    }

    fn remember(&mut self, line: &str) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(line.chars().take(300).collect());
    }

    /// The newest `count` lines of the program.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        self.recent.iter().skip(self.recent.len().saturating_sub(count)).cloned().collect()
    }

    pub(crate) fn forget_recent(&mut self) {
        self.recent.clear();
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.file.dropped()
    }
}

fn memchr(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

impl Compressors {
    fn add(&mut self, file: PathBuf) {
        self.waiting.push_back(file);
        self.next();
    }

    fn next(&mut self) {
        while self.running.is_none() {
            let Some(file) = self.waiting.pop_front() else { break };
            // One of many may have been removed meanwhile, to keep the bound.
            if file.exists() {
                self.running = compress_aside(&file);
            }
        }
    }
}

/// Compresses a rotated file in a process of its own; returns that process, which is reaped with the
/// other children. A file that stays uncompressed is only larger.
fn compress_aside(file: &Path) -> Option<u32> {
    let program = std::env::current_exe().ok()?;
    let mut command = std::process::Command::new(program);
    command
        .arg("compress-log")
        .arg(file)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.spawn().ok().map(|child| child.id())
}
