//! Where things lie: the state folder, the run folder, and what stands in them.
//!
//! Invariants: the layout is settled (`LAYOUT` 1); run paths stay short, because a Unix socket's path
//! may have 107 bytes; nothing is created here, this is only the map.

use std::path::{Path, PathBuf};

use seaworthy_base::{InstanceId, ReleaseId, SiteName};
use sha2::{Digest, Sha256};

/// The map of the folders of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// State root: survives everything.
    pub state: PathBuf,
    /// Run root: sockets and locks, gone after a reboot.
    pub run: PathBuf,
}

impl Layout {
    /// The map for a user. `state` is what the command line or `SEAWORTHY_STATE` say, `root` whether we are root.
    pub fn find(state: Option<&Path>, root: bool) -> Self {
        let env = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        let chosen = state.map(Path::to_path_buf).or_else(|| env("SEAWORTHY_STATE"));
        let runtime = if root {
            PathBuf::from("/run")
        } else {
            env("XDG_RUNTIME_DIR").unwrap_or_else(|| {
                PathBuf::from(format!("/tmp/seaworthy-{}", rustix::process::getuid().as_raw()))
            })
        };
        let Some(state) = chosen else {
            let state = if root {
                PathBuf::from("/var/lib/seaworthy")
            } else {
                let base = env("XDG_STATE_HOME")
                    .or_else(|| env("HOME").map(|home| home.join(".local/state")))
                    .unwrap_or_else(|| PathBuf::from("/tmp"));
                base.join("seaworthy")
            };
            return Self {
                state,
                run: env("SEAWORTHY_RUN").unwrap_or_else(|| runtime.join("seaworthy")),
            };
        };
        let state = std::path::absolute(&state).unwrap_or(state);
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let tag = format!(
            "seaworthy-{:02x}{:02x}{:02x}{:02x}",
            digest[0], digest[1], digest[2], digest[3]
        );
        Self { state, run: env("SEAWORTHY_RUN").unwrap_or_else(|| runtime.join(tag)) }
    }

    /// The socket of the control process.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// Held by the one control process that owns this state folder.
    pub fn control_lock(&self) -> PathBuf {
        self.state.join("control.lock")
    }

    /// What control says about itself (it has no terminal).
    pub fn control_log(&self) -> PathBuf {
        self.state.join("logs/control.log")
    }

    /// The socket on which edge number `number` listens for control.
    pub fn edge_socket(&self, number: u32) -> PathBuf {
        self.run.join(format!("edge-{number}.sock"))
    }

    /// Access logs.
    pub fn edge_logs(&self) -> PathBuf {
        self.state.join("logs/edge")
    }

    /// Logs of a site's services.
    pub fn site_logs(&self, site: &SiteName) -> PathBuf {
        self.state.join("logs").join(site.as_str())
    }

    /// The log of one instance; its generation is in the name, so that an old and a new copy of a slot never share a file.
    pub fn instance_log(&self, id: &InstanceId) -> PathBuf {
        self.site_logs(&id.site).join(format!("{}.log", id.file_name()))
    }

    /// All instances' folders of all sites.
    pub fn instances(&self) -> PathBuf {
        self.run.join("i")
    }

    /// The folder with an instance's lock and socket.
    pub fn instance(&self, id: &InstanceId) -> PathBuf {
        self.instances().join(id.site.as_str()).join(id.file_name())
    }

    /// All instances' folders for the Unix sockets of their programs.
    pub fn sockets(&self) -> PathBuf {
        self.run.join("u")
    }

    /// An instance's folder for the Unix socket of its program. Its name is short, whatever the instance's is.
    pub fn sockets_of(&self, id: &InstanceId) -> PathBuf {
        let digest = Sha256::digest(id.to_string().as_bytes());
        let number = digest.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte));
        self.sockets().join(format!("{number:012x}"))
    }

    /// Releases of a site.
    pub fn releases(&self, site: &SiteName) -> PathBuf {
        self.state.join("sites").join(site.as_str()).join("releases")
    }

    /// One release.
    pub fn release(&self, site: &SiteName, release: ReleaseId) -> PathBuf {
        self.releases(site).join(release.to_string())
    }

    /// What outlives releases: `$DATA`.
    pub fn data(&self, site: &SiteName) -> PathBuf {
        self.state.join("data").join(site.as_str())
    }

    /// Data of a site's managed databases.
    pub fn databases(&self, site: &SiteName) -> PathBuf {
        self.state.join("databases").join(site.as_str())
    }

    /// Backups: keys, records, the local store, scratch.
    pub fn backups(&self) -> PathBuf {
        self.state.join("backups")
    }

    /// Static files as the edge may read them.
    pub fn public(&self, site: &SiteName, release: ReleaseId) -> PathBuf {
        self.public_root().join(site.as_str()).join(release.to_string())
    }

    /// All static files: the only place that the edge reads.
    pub fn public_root(&self) -> PathBuf {
        self.state.join("public")
    }

    /// Archives on their way to a release.
    pub fn incoming(&self) -> PathBuf {
        self.state.join("incoming")
    }

    /// Certificates and keys, 0700.
    pub fn certs(&self) -> PathBuf {
        self.state.join("certs")
    }

    /// The certificate of our own authority: what a client trusts.
    pub fn ca(&self) -> PathBuf {
        self.state.join("ca.pem")
    }
}
