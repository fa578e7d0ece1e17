//! A state folder for one test and the worker program run on it, as control would.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use seaworthy_backup::{
    Action, Event, Folders, Item, ItemReport, Job, OwnerKey, Rules, RunAs, Source, StoreAt,
    StorePlace, Taken, make_owner_key,
};
use seaworthy_base::Fault;
use seaworthy_testkit::peers::{Place, unprivileged};
use serde::de::DeserializeOwned;

/// Folders, keys and stores of one test.
pub(crate) struct Platform {
    pub(crate) place: Place,
    pub(crate) owner: OwnerKey,
    pub(crate) stores: Vec<StoreAt>,
    pub(crate) rules: Rules,
    /// The item with the log of the server.
    pub(crate) log: Option<String>,
    /// A job waits its turn.
    pub(crate) patient: bool,
    /// Programs that come before the others.
    pub(crate) programs: Option<PathBuf>,
    /// There are no others.
    pub(crate) alone: bool,
    /// What moves nothing for so long is given up.
    pub(crate) stall_ms: Option<u64>,
}

impl Platform {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let stores = vec![folder_store("local", &place.path().join("store"))];
        Self {
            place,
            owner: make_owner_key(),
            stores,
            rules: Rules::default(),
            log: None,
            patient: false,
            programs: None,
            alone: false,
            stall_ms: None,
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.place.path().join("state")
    }

    pub(crate) fn job(&self, item: &str, source: &Source, action: Action) -> Job {
        Job {
            site: "shop".to_owned(),
            item: Item {
                name: item.to_owned(),
                source: source.clone(),
                rules: self.rules.clone(),
                log: self.log.clone(),
            },
            stores: self.stores.clone(),
            folders: Folders { state: self.state(), run: self.place.path().join("r") },
            run_as: unprivileged().map(|(uid, gid)| RunAs { uid, gid, groups: Vec::new() }),
            owner: vec![self.owner.recipient.clone()],
            patient: self.patient,
            stall_ms: self.stall_ms,
            action,
        }
    }

    /// Starts the worker on a job.
    pub(crate) fn start(&self, item: &str, source: &Source, action: Action) -> Worker {
        let job = self.job(item, source, action);
        let Some(programs) = &self.programs else { return Worker::start(&job) };
        let rest = if self.alone { String::new() } else { std::env::var("PATH").unwrap() };
        let path = format!("{}:{rest}", programs.display());
        Worker::start_with(&job, &[("PATH", path.trim_end_matches(':'))])
    }

    /// A job to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn run<T: DeserializeOwned>(
        &self,
        item: &str,
        source: &Source,
        action: Action,
    ) -> T {
        match self.start(item, source, action).finish() {
            Ok(report) => serde_json::from_value(report).unwrap(),
            Err(fault) => panic!("{fault}\n{:#?}", fault.evidence),
        }
    }

    /// The same, in the memory that is promised whatever is backed up.
    #[track_caller]
    pub(crate) fn run_small<T: DeserializeOwned>(
        &self,
        item: &str,
        source: &Source,
        action: Action,
    ) -> T {
        let mut worker = self.start(item, source, action);
        let mut most = 0;
        // The kernel's own high-water mark, as often as something is said.
        while worker.next().is_some_and(|event| !matches!(event, Event::Done { .. })) {
            let status = format!("/proc/{}/status", worker.child.id());
            let status = std::fs::read_to_string(status).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            most = most.max(now.unwrap_or(0));
        }
        assert!((1..=64 << 10).contains(&most), "it took {most} KiB of memory");
        match worker.seen.pop() {
            Some(Event::Done { report }) => serde_json::from_value(report).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// A job to its end, which must be a fault.
    #[track_caller]
    pub(crate) fn fails(&self, item: &str, source: &Source, action: Action) -> Fault {
        self.start(item, source, action).finish().unwrap_err()
    }

    #[track_caller]
    pub(crate) fn take(&self, item: &str, source: &Source) -> Taken {
        self.run(item, source, take())
    }

    #[track_caller]
    pub(crate) fn drill(&self, item: &str, source: &Source) -> seaworthy_backup::Drilled {
        self.run(item, source, Action::Drill { set: None, store: None })
    }

    #[track_caller]
    pub(crate) fn list(&self, item: &str, source: &Source) -> ItemReport {
        self.run(item, source, Action::List)
    }

    /// Nothing of a run is left over.
    #[track_caller]
    pub(crate) fn assert_tidy(&self) {
        for dir in ["staging", "scratch"] {
            let left: Vec<_> =
                std::fs::read_dir(self.state().join(dir)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    /// Makes one backup hold what another one does, whole and sealed: what it says of itself stays as it was.
    pub(crate) fn forge(&self, item: &str, taken: &Taken, other: &str, forged: &Taken) {
        let to = self.set_dir(item, taken.set.id.as_str());
        let from = self.set_dir(other, forged.set.id.as_str());
        for part in &forged.set.parts {
            std::fs::copy(from.join(&part.file), to.join(&part.file)).unwrap();
        }
        let set = seaworthy_backup::Set { parts: forged.set.parts.clone(), ..taken.set.clone() };
        std::fs::write(to.join("set.json"), set.document().unwrap()).unwrap();
    }

    /// The folder of a set in a folder store.
    pub(crate) fn set_dir(&self, item: &str, id: &str) -> PathBuf {
        self.place.path().join("store/shop").join(item).join(id)
    }
}

pub(crate) fn take() -> Action {
    Action::Take { reason: "asked".to_owned() }
}

pub(crate) fn folder_store(name: &str, path: &Path) -> StoreAt {
    StoreAt { name: name.to_owned(), place: StorePlace::Folder { path: path.to_path_buf() } }
}

/// The worker's program.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_backup-worker-under-test");

/// A worker that runs.
pub(crate) struct Worker {
    child: Child,
    events: BufReader<std::process::ChildStdout>,
    pub(crate) seen: Vec<Event>,
}

impl Worker {
    pub(crate) fn start(job: &Job) -> Self {
        Self::start_with(job, &[])
    }

    /// With other variables.
    pub(crate) fn start_with(job: &Job, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(WORKER);
        command.envs(variables.iter().copied());
        Self::spawn(job, command)
    }

    /// Started by another program.
    pub(crate) fn start_under(job: &Job, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(WORKER);
        Self::spawn(job, command)
    }

    fn spawn(job: &Job, mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = serde_json::to_vec(job).unwrap();
        line.push(b'\n');
        child.stdin.as_mut().unwrap().write_all(&line).unwrap();
        let events = BufReader::new(child.stdout.take().unwrap());
        Self { child, events, seen: Vec::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut line = String::new();
        if self.events.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        let event: Event = serde_json::from_str(&line).unwrap();
        self.seen.push(event.clone());
        Some(event)
    }

    /// Reads on until a step with that text begins.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) {
        while let Some(event) = self.next() {
            if matches!(&event, Event::Step { text: step } if step.contains(text)) {
                return;
            }
        }
        panic!("no step `{text}`: {:?}", self.seen);
    }

    /// Kills it as nothing else does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Reads to its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Result<serde_json::Value, Fault> {
        while let Some(event) = self.next() {
            match event {
                Event::Done { report } => return self.child.wait().map(|_| Ok(report)).unwrap(),
                Event::Failed { fault } => return self.child.wait().map(|_| Err(fault)).unwrap(),
                _ => {}
            }
        }
        panic!("the worker ended without a last word: {:?}", self.seen);
    }
}
