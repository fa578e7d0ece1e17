//! Everything that one control process holds, put together once.
//!
//! The composition root's struct: parts are made in [`Platform::open`] in the order in which they
//! depend on each other, and handed around as one `Arc`. Invariant: locks are taken in the order
//! `edge` (async), `store`, `world`, and the last two never across an await.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rand::distr::{Alphanumeric, SampleString};
use seaworthy_api::Layout;
use seaworthy_base::{Code, Fault, Timestamp};
use seaworthy_runtime::model::User;
use seaworthy_secrets::vault::Vault;
use seaworthy_state::{EventRecord, Store};
use seaworthy_sys::systemd::Manager;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, Semaphore, watch};

use crate::authorities;
use crate::ca::Authority;
use crate::certificates::Certificates;
use crate::edge::{Edge, EdgeOptions, Sockets};
use crate::jobs::Running;
use crate::manager::{self, Kept};
use crate::names;
use crate::release::Turns;
use crate::scope::Scope;
use crate::users;
use crate::world::World;

/// The parts of a control process.
#[derive(Debug)]
pub(crate) struct Platform {
    /// Where everything lies.
    pub layout: Layout,
    /// Whether we are root.
    pub root: bool,
    /// Cores of this machine.
    pub cores: u16,
    /// When this process started.
    pub started: Instant,
    /// Our own program, for the roles we start.
    pub program: PathBuf,
    /// Key of the specifications' hashes.
    pub spec_key: String,
    /// Our own certificate authority.
    pub authority: Authority,
    /// Certificates of public authorities, and those from files.
    pub certificates: Certificates,
    /// Authorities that manifests name, as they were last read.
    pub authorities: Mutex<BTreeMap<authorities::Named, authorities::Known>>,
    /// Encrypted secrets.
    pub vault: Vault,
    /// The edge.
    pub edge: tokio::sync::Mutex<Edge>,
    /// Wakes the reconciler.
    pub wake: Arc<Notify>,
    /// Counts changes, for those who wait for something to become true.
    pub changes: watch::Sender<u64>,
    /// How many names are looked up at once.
    pub lookups: Semaphore,
    /// One deployment of a site at a time.
    pub turns: Turns,
    /// Jobs that run.
    pub jobs: Running,
    /// Names this control process among all that ever were.
    pub identity: String,
    /// Set when control is to end.
    pub ending: Notify,
    /// systemd, where it started us.
    pub manager: Option<Arc<Manager>>,
    /// Where edge and applications live then.
    pub scope: Option<Arc<Scope>>,
    /// As whom the edge runs, when we are root.
    pub edge_user: Option<User>,
    /// As whom workers run that talk to the world, when we are root.
    pub worker_user: Option<User>,
    /// The program that this process is to become.
    pub next_program: NextProgram,
    /// Guards that this host cannot give.
    pub guards: Vec<String>,
    store: Mutex<Store>,
    world: Mutex<World>,
}

impl Platform {
    /// Opens state, secrets and authority; nothing is started yet.
    pub(crate) fn open(layout: Layout, program: PathBuf) -> Result<Self, Fault> {
        let unusable = |what: &str, error: &dyn std::error::Error| {
            Fault::new(Code::StateUnwritable, format!("could not open {what}"))
                .because_of(error)
                .next(format!("check the folder: ls -ld {}", layout.state.display()))
        };
        let root = seaworthy_sys::process::current_uid() == 0;
        let mut guards = Vec::new();
        let store =
            Store::open(&layout.state).map_err(|error| unusable("the state store", &error))?;
        let vault = Vault::open(&layout.state).map_err(|error| unusable("the secrets", &error))?;
        let authority = Authority::open(&layout.certs(), &layout.ca())
            .map_err(|error| unusable("the certificates", &error))?;
        let certificates = Certificates::open(&layout.certs())
            .map_err(|error| unusable("the certificates", &error))?;
        let user = if root {
            users::ensure("sw-edge", &layout.edge_logs())
        } else {
            Err(Fault::new(Code::SpawnFailed, ""))
        };
        let user = match user {
            Ok(user) => Some(user),
            Err(fault) => {
                if root {
                    guards.push(format!("the edge runs as root: {fault}"));
                } else {
                    guards.push("sites and edge run as this user: not started as root, so there are no users of their own".to_owned());
                }
                None
            }
        };
        let spec_key = spec_key(&store).map_err(|error| unusable("the state store", &error))?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u16);
        let edge_user = user.clone();
        let worker_user = root.then(|| users::ensure("sw-worker", &layout.state)).transpose();
        let worker_user = worker_user.unwrap_or_else(|fault| {
            guards.push(format!("workers run as root: {fault}"));
            None
        });
        let scope = scope(&program, &mut guards);
        let manager = manager::find();
        let options = EdgeOptions {
            layout: layout.clone(),
            program: program.clone(),
            threads: cores,
            sockets: Sockets::None,
            user,
            signing: signing(&spec_key),
            scope: scope.clone(),
        };
        let kept = Kept::new(manager.clone());
        let wake = Arc::new(Notify::new());
        Ok(Self {
            root,
            cores,
            started: Instant::now(),
            program,
            spec_key,
            authority,
            authorities: Mutex::default(),
            certificates,
            vault,
            edge: tokio::sync::Mutex::new(Edge::new(options, Arc::clone(&wake), kept)),
            wake,
            changes: watch::Sender::new(0),
            lookups: Semaphore::new(names::AT_ONCE),
            turns: Turns::default(),
            jobs: Running::default(),
            identity: Alphanumeric.sample_string(&mut rand::rng(), 16),
            ending: Notify::new(),
            manager,
            scope,
            edge_user,
            worker_user,
            next_program: NextProgram::default(),
            guards,
            store: Mutex::new(store),
            world: Mutex::new(World::default()),
            layout,
        })
    }

    /// The store; never held across an await.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known; never held across an await.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed: the reconciler looks again, and so does everybody who waits.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    /// Writes who did what; a store that cannot take it is said, and what was asked for is done all the same.
    pub(crate) fn audit(&self, who: &str, action: &str, subject: &str, detail: &str) {
        let entry = AuditEntry {
            at: Timestamp::now(),
            who: who.to_owned(),
            action: action.to_owned(),
            subject: subject.to_owned(),
            detail: detail.to_owned(),
        };
        let text = serde_json::to_string(&entry).unwrap_or_default();
        if let Err(error) = self.store().append_audit(&text) {
            crate::say(&format!(
                "could not write the audit log ({who}: {action} {subject}): {error}"
            ));
        }
    }

    /// Writes an event; a store that cannot take it is said and survived.
    pub(crate) fn event(
        &self,
        site: Option<&str>,
        instance: Option<&str>,
        kind: &str,
        text: &str,
        fault: Option<&Fault>,
    ) {
        let record = EventRecord {
            id: 0,
            at: Timestamp::now(),
            site: site.map(str::to_owned),
            instance: instance.map(str::to_owned),
            kind: kind.to_owned(),
            text: text.to_owned(),
            fault: fault.cloned(),
        };
        let written = self.store().append_event(&record);
        if let Err(error) = written {
            crate::say(&format!("could not record an event ({kind}: {text}): {error}"));
        }
    }
}

/// A program that is to take over, once there is one.
#[derive(Debug, Default)]
pub(crate) struct NextProgram(watch::Sender<Option<PathBuf>>);

impl NextProgram {
    /// Names it.
    pub(crate) fn set(&self, program: PathBuf) {
        self.0.send_replace(Some(program));
    }

    /// Waits for it.
    pub(crate) async fn notified_path(&self) -> PathBuf {
        let mut named = self.0.subscribe();
        loop {
            if let Some(program) = &*named.borrow_and_update() {
                return program.clone();
            }
            if named.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// One line of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who asked.
    pub who: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub subject: String,
    /// More of it.
    pub detail: String,
}

/// The scope of our unit. Where systemd gives none, everything stands in the unit, and that is said.
fn scope(program: &std::path::Path, guards: &mut Vec<String>) -> Option<Arc<Scope>> {
    let scope = Scope::find(program)?;
    match scope.home() {
        Ok(_) => Some(Arc::new(scope)),
        Err(error) => {
            guards.push(format!(
                "edge and applications live in the unit of control, which cannot be restarted without them: {error}"
            ));
            None
        }
    }
}

/// What edges sign cookies with: the same after every restart, and no way back to what it is made of.
fn signing(spec_key: &str) -> [u8; 16] {
    let digest = Sha256::digest(format!("edge signing {spec_key}"));
    let mut key = [0; 16];
    key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    key
}

/// The key is made once and lives in the store (0600).
fn spec_key(store: &Store) -> Result<String, seaworthy_state::StateError> {
    if let Some(key) = store.get_setting("spec_key")? {
        return Ok(key);
    }
    let key = Alphanumeric.sample_string(&mut rand::rng(), 32);
    store.put_setting("spec_key", &key)?;
    Ok(key)
}
