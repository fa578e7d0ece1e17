//! A folder behind SSH: OpenSSH's own client carries, the SFTP protocol is a library's.
//!
//! Why `ssh` and not an implementation of ours: keys, agents, jump hosts and host keys work as they do for the
//! person who set the server up. As in a folder, a set is put together under a name that is no id, synced where
//! the server can, and renamed. Invariants: an unknown host key is refused, never learned; nobody is asked; a server
//! that moves nothing is given up, and with it the connection.

use std::cell::{Cell, RefCell};
use std::fs::File as LocalFile;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::file::TokioCompatFile;
use openssh_sftp_client::fs::Fs;
use openssh_sftp_client::{Error, Sftp, SftpOptions};
use seaworthy_base::{Code, Fault};
use seaworthy_sys::files::write_atomically;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;

use super::{STALL, Stamp, Store};
use crate::model::StorePlace;
use crate::set::{DOCUMENT, Set, SetId};
use crate::work::{Temporary, Work};

/// Begins the names of sets that are being put together.
const PARTIAL: &str = ".partial-";
/// Bytes read and written at once.
const CHUNK: usize = 256 << 10;
/// Bringing what was sent onto the server's disk takes longer than sending some of it.
const SETTLING: Duration = Duration::from_secs(10 * 60);
/// What `ssh` says of its end comes at once.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A server's folder.
pub(crate) struct SftpStore {
    name: String,
    shown: String,
    dir: PathBuf,
    link: Rc<Link>,
}

/// The connection; the runtime is last, so that it outlives what runs on it.
struct Link {
    sftp: Sftp,
    ssh: RefCell<Child>,
    /// How long the server may move nothing: usually, and while it settles what it got.
    stall: (Duration, Duration),
    /// It moved nothing for so long.
    dead: Cell<bool>,
    _files: Temporary,
    runtime: Runtime,
}

impl Link {
    /// Has the server do something.
    fn wait<T>(&self, what: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(self.soon(self.stall.0, what))
    }

    /// The same within other work; one that takes longer is the end of the connection.
    async fn soon<T>(
        &self,
        patience: Duration,
        what: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = || {
            let text = format!("nothing moved for {} s: it was given up", patience.as_secs());
            Error::IOError(io::Error::new(io::ErrorKind::TimedOut, text))
        };
        if self.dead.get() {
            return Err(late());
        }
        if let Ok(done) = tokio::time::timeout(patience, what).await {
            return done;
        }
        self.dead.set(true);
        self.ssh.borrow_mut().start_kill().ok();
        Err(late())
    }
}

impl SftpStore {
    /// Connects.
    pub(crate) fn connect(
        name: &str,
        place: &StorePlace,
        site: &str,
        item: &str,
        work: &Work,
    ) -> Result<Self, Fault> {
        // For the key: it goes with the connection.
        let files = work.private()?;
        let StorePlace::Sftp { host, user, path, .. } = place else {
            return Err(Fault::new(Code::Internal, "this store is no SFTP"));
        };
        let shown = format!(
            "sftp://{}{host}/{path}",
            user.as_ref().map_or_else(String::new, |user| format!("{user}@"))
        );
        let fault = |cause: String| {
            Fault::new(Code::BackupStore, format!("store `{name}` ({shown}) cannot be reached"))
                .because(cause)
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| fault(error.to_string()))?;
        let mut command = ssh(place, files.path()).map_err(|error| fault(error.to_string()))?;
        let opened = runtime.block_on(async {
            let mut ssh = command.spawn().map_err(|error| {
                fault(format!("`ssh` could not be started: {error}"))
                    .next("apt install openssh-client")
            })?;
            let (Some(stdin), Some(stdout)) = (ssh.stdin.take(), ssh.stdout.take()) else {
                return Err(fault("`ssh` has no pipes".to_owned()));
            };
            let stall = work.patience(STALL);
            let opened = tokio::time::timeout(stall, Sftp::new(stdin, stdout, SftpOptions::new()));
            match opened.await {
                Ok(Ok(sftp)) => Ok((sftp, ssh)),
                Ok(Err(error)) => Err(explain(fault, &last_words(&mut ssh).await, &error)),
                Err(_) => Err(fault(format!("it did not answer for {} s", stall.as_secs()))),
            }
        });
        let (sftp, ssh) = opened?;
        let link = Link {
            sftp,
            ssh: RefCell::new(ssh),
            stall: (work.patience(STALL), work.patience(SETTLING)),
            dead: Cell::new(false),
            _files: files,
            runtime,
        };
        Ok(Self {
            name: name.to_owned(),
            dir: Path::new(path).join(site).join(item),
            link: Rc::new(link),
            shown,
        })
    }

    fn fault(&self, what: &str, error: &Error) -> Fault {
        let fault = Fault::new(
            Code::BackupStore,
            format!("store `{}` ({}): {what}", self.name, self.shown),
        )
        .because_of(error);
        fault.next(format!(
            "sftp {}   shows what the server says",
            self.shown.trim_start_matches("sftp://").split('/').next().unwrap_or_default()
        ))
    }

    fn fs(&self) -> Fs {
        self.link.sftp.fs()
    }

    fn names(&self, dir: &Path) -> Result<Vec<String>, Error> {
        self.link.wait(async {
            let opened = match self.fs().open_dir(dir).await {
                Err(error) if is_missing(&error) => return Ok(Vec::new()),
                other => other?,
            };
            let mut entries = Box::pin(opened.read_dir());
            let mut names = Vec::new();
            while let Some(entry) = entries.next().await {
                names.push(entry?.filename().to_string_lossy().into_owned());
            }
            names.retain(|name| name != "." && name != "..");
            Ok(names)
        })
    }

    /// Makes a folder and those above it.
    async fn make(&self, dir: &Path) -> Result<(), Error> {
        let mut path = PathBuf::new();
        for part in dir.components() {
            path.push(part);
            if let Err(error) = self.fs().create_dir(&path).await
                && self.fs().metadata(&path).await.is_err()
            {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        path: &Path,
        from: &mut dyn Read,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let link = &self.link;
        let (usual, settling) = link.stall;
        let mut options = link.sftp.options();
        let open = options.write(true).create(true).truncate(true).open(path);
        let mut file = Box::pin(TokioCompatFile::new(link.soon(usual, open).await?));
        let mut buffer = vec![0; CHUNK];
        loop {
            let got = from.read(&mut buffer).map_err(Error::IOError)?;
            let bytes = buffer.get(..got).unwrap_or_default();
            if bytes.is_empty() {
                break;
            }
            link.soon(usual, async { file.write_all(bytes).await.map_err(Error::IOError) }).await?;
            moved(got as u64);
        }
        link.soon(settling, async { file.flush().await.map_err(Error::IOError) }).await?;
        if link.sftp.support_fsync() {
            link.soon(settling, file.as_mut().as_mut_file().sync_all()).await?;
        }
        link.soon(settling, async { file.shutdown().await.map_err(Error::IOError) }).await
    }

    fn put_together(
        &self,
        set: &Set,
        staged: &Path,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let draft = self.dir.join(format!("{PARTIAL}{}", set.id));
        let document =
            set.document().map_err(|fault| Error::IOError(io::Error::other(fault.to_string())))?;
        self.link.runtime.block_on(async {
            self.link.soon(self.link.stall.0, self.make(&draft)).await?;
            for part in &set.parts {
                let mut from = LocalFile::open(staged.join(&part.file)).map_err(Error::IOError)?;
                self.write(&draft.join(&part.file), &mut from, moved).await?;
            }
            self.write(&draft.join(DOCUMENT), &mut document.as_slice(), &mut |_| {}).await?;
            let published = self.dir.join(set.id.as_str());
            self.link
                .soon(self.link.stall.0, async { self.fs().rename(&draft, published).await })
                .await
        })
    }

    fn remove_folder(&self, dir: &Path) -> Result<(), Error> {
        for name in self.names(dir)? {
            self.link.wait(async { self.fs().remove_file(dir.join(name)).await })?;
        }
        self.link.wait(async { self.fs().remove_dir(dir).await })
    }
}

/// The client, told to ask nobody and to learn nothing.
fn ssh(place: &StorePlace, files: &Path) -> io::Result<Command> {
    let StorePlace::Sftp { host, port, user, key, host_key, .. } = place else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut command = Command::new("ssh");
    for option in [
        "BatchMode=yes",
        "ConnectTimeout=20",
        "ServerAliveInterval=15",
        "ServerAliveCountMax=4",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
    ] {
        command.arg("-o").arg(option);
    }
    if let Some(key) = key {
        let path = files.join("key");
        // OpenSSH refuses a key whose last line does not end.
        write_atomically(&path, format!("{}\n", key.trim_end()).as_bytes(), 0o600)?;
        command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(path);
    }
    if let Some(host_key) = host_key {
        let path = files.join("known_hosts");
        let lines: Vec<String> = host_key
            .lines()
            .map(|line| {
                format!(
                    "[{host}]:{port} {line}
{host} {line}
"
                )
            })
            .collect();
        write_atomically(&path, lines.concat().as_bytes(), 0o600)?;
        command
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", path.display()))
            .args(["-o", "GlobalKnownHostsFile=/dev/null"]);
    }
    command.arg("-p").arg(port.to_string());
    if let Some(user) = user {
        command.arg("-l").arg(user);
    }
    command.args(["-s", "--", host, "sftp"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    Ok(command)
}

/// What `ssh` said before it ended.
async fn last_words(ssh: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = ssh.stderr.take() {
        tokio::time::timeout(LAST_WORDS, stderr.read_to_string(&mut said)).await.ok();
    }
    said.trim().to_owned()
}

/// What `ssh` says tells more than that the protocol did not begin.
fn explain(fault: impl Fn(String) -> Fault, said: &str, error: &Error) -> Fault {
    let last = said.lines().rev().find(|line| !line.is_empty()).unwrap_or_default();
    let cause = if last.is_empty() { error.to_string() } else { last.to_owned() };
    let fault = fault(cause);
    if said.contains("Host key verification failed") {
        return fault.next("give the server's key: host_key = \"…\" in [store.X]; ssh-keyscan HOST prints it: compare it with what the server's owner says");
    }
    if said.contains("Permission denied") {
        return fault.next(
            "put the public half of `key` into ~/.ssh/authorized_keys of that user on the server",
        );
    }
    fault
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::SftpError(SftpErrorKind::NoSuchFile, _))
}

impl Store for SftpStore {
    fn sets(&mut self) -> Result<Vec<SetId>, Fault> {
        let names =
            self.names(&self.dir).map_err(|error| self.fault("it cannot be listed", &error))?;
        let mut sets: Vec<SetId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let there = |id: &SetId| {
            let path = self.dir.join(id.as_str()).join(DOCUMENT);
            self.link.wait(async { self.fs().metadata(&path).await }).is_ok()
        };
        sets.retain(there);
        sets.sort();
        Ok(sets)
    }

    fn document(&mut self, id: &SetId) -> Result<Vec<u8>, Fault> {
        let path = self.dir.join(id.as_str()).join(DOCUMENT);
        let read = self.link.wait(async { self.fs().read(&path).await });
        read.map(|bytes| bytes.to_vec())
            .map_err(|error| self.fault(&format!("backup {id} cannot be read"), &error))
    }

    fn stamps(&mut self, set: &Set) -> Result<Vec<(String, Stamp)>, Fault> {
        let dir = self.dir.join(set.id.as_str());
        let mut stamps = Vec::new();
        for part in &set.parts {
            let path = dir.join(&part.file);
            match self.link.wait(async { self.fs().metadata(&path).await }) {
                Ok(meta) => {
                    let time =
                        meta.modified().map(openssh_sftp_client::UnixTimeStamp::as_system_time);
                    stamps.push((
                        part.file.clone(),
                        Stamp { bytes: meta.len().unwrap_or(0), mark: format!("{time:?}") },
                    ));
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(self.fault("a part cannot be looked at", &error)),
            }
        }
        Ok(stamps)
    }

    fn publish(
        &mut self,
        set: &Set,
        staged: &Path,
        moved: &mut dyn FnMut(u64),
    ) -> Result<(), Fault> {
        self.put_together(set, staged, moved).map_err(|error| {
            // The connection may be what failed: then the next run removes it.
            self.remove_folder(&self.dir.join(format!("{PARTIAL}{}", set.id))).ok();
            self.fault(&format!("backup {} could not be written", set.id), &error)
        })
    }

    fn open(&mut self, set: &Set, file: &str) -> Result<Box<dyn Read>, Fault> {
        let path = self.dir.join(set.id.as_str()).join(file);
        let opened = self.link.wait(async { self.link.sftp.open(&path).await });
        let opened = opened.map_err(|error| {
            self.fault(&format!("`{file}` of backup {} cannot be read", set.id), &error)
        })?;
        Ok(Box::new(Remote {
            file: Box::pin(TokioCompatFile::new(opened)),
            link: Rc::clone(&self.link),
        }))
    }

    fn remove(&mut self, id: &SetId) -> Result<(), Fault> {
        let draft = self.dir.join(format!("{PARTIAL}{id}"));
        let renamed =
            self.link.wait(async { self.fs().rename(self.dir.join(id.as_str()), &draft).await });
        renamed
            .and_then(|()| self.remove_folder(&draft))
            .map_err(|error| self.fault(&format!("backup {id} could not be removed"), &error))
    }

    fn tidy(&mut self) -> Result<(), Fault> {
        let names =
            self.names(&self.dir).map_err(|error| self.fault("it cannot be listed", &error))?;
        for name in names.iter().filter(|name| name.starts_with(PARTIAL)) {
            self.remove_folder(&self.dir.join(name)).map_err(|error| {
                self.fault("what a run left behind could not be removed", &error)
            })?;
        }
        Ok(())
    }
}

/// A file that is read as it comes.
struct Remote {
    file: Pin<Box<TokioCompatFile>>,
    link: Rc<Link>,
}

impl Read for Remote {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { file, link } = self;
        link.wait(async { file.read(buffer).await.map_err(Error::IOError) }).map_err(|error| {
            match error {
                Error::IOError(error) => error,
                other => io::Error::other(other),
            }
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Its death by `kill_on_drop` needs the runtime; asking for it here does not.
        self.ssh.borrow_mut().start_kill().ok();
    }
}
