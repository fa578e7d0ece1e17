//! Unix sockets of programs: the folder each instance has for them, and the name by which others reach them.
//!
//! An instance's folder has two rooms. In `app` the program makes its socket; nobody else may enter. In `edge` lies a
//! second name of that socket, put there by the shim; only the edge (and we) may enter. So whoever connects meets what
//! the shim has looked at, a socket that the program's user made: a link to somebody else's socket, laid where the
//! program's own should be, is followed by nobody. Invariants: the rooms are made anew at each start, so that nothing of
//! an earlier process is in the way; the second name is gone once the process is. Not here: where the folder is, and
//! when it is looked for (`crate::shim`).

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use seaworthy_sys::files::create_private_dir;

use crate::model::SocketRule;

/// Bytes that a socket's address has room for (`sun_path` without its final NUL).
pub const LONGEST_PATH: usize = 107;
/// The room of the program.
const APP: &str = "app";
/// The room of those who connect, and the socket's name there.
const EDGE: &str = "edge";
const KNOWN_AS: &str = "s";

/// Where a program can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl SocketRule {
    /// Where the program makes its socket: `$SOCKET`.
    pub fn path(&self) -> PathBuf {
        self.room().join(&self.name)
    }

    /// The folder it may make it in: `$RUNTIME_DIRECTORY`.
    pub fn room(&self) -> PathBuf {
        self.folder.join(APP)
    }

    /// Where others connect.
    pub fn reached_at(&self) -> PathBuf {
        self.folder.join(EDGE).join(KNOWN_AS)
    }

    /// How long its path is where that is longer than a socket's address has room for.
    pub fn too_long(&self) -> Option<usize> {
        let length = self.path().as_os_str().len().max(self.reached_at().as_os_str().len());
        (length > LONGEST_PATH).then_some(length)
    }

    /// Makes both rooms, empty.
    pub(crate) fn make_rooms(&self) -> io::Result<()> {
        self.clear()?;
        create_private_dir(&self.folder, 0o711)?;
        let (room, edge) = (self.room(), self.folder.join(EDGE));
        create_private_dir(&room, 0o700)?;
        let inner = self.path();
        let inner = inner.parent().unwrap_or(&room);
        create_private_dir(inner, 0o700)?;
        for folder in inner.ancestors().take_while(|folder| folder.starts_with(&room)) {
            if let Some((user, group)) = self.owner {
                chown(folder, Some(user), Some(group))?;
            }
        }
        create_private_dir(&edge, if self.group.is_some() { 0o710 } else { 0o700 })?;
        chown(&edge, None, self.group)
    }

    /// Removes the folder with all that is in it.
    pub(crate) fn clear(&self) -> io::Result<()> {
        remove(&self.folder)
    }

    /// Nobody connects to it any more.
    pub(crate) fn withdraw(&self) -> io::Result<()> {
        match fs::remove_file(self.reached_at()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Looks for the program's socket and gives it its second name. Whether there is one; what the program has in its
    /// place that is no socket of its user is none.
    pub(crate) fn publish(&self) -> io::Result<Published> {
        let room = rustix::fs::open(self.room(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // The program may put there whatever it likes: what is opened is looked at, and only that is linked.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let socket = match rustix::fs::openat2(&room, &self.name, flags, Mode::empty(), within) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::NOENT) => return Ok(Published::Nothing),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&socket)?;
        let own = self.owner.is_none_or(|(user, _)| user == stat.st_uid);
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || !own {
            return Ok(Published::Nothing);
        }
        let known = fs::symlink_metadata(self.reached_at()).ok();
        let is_new =
            known.is_none_or(|known| (known.dev(), known.ino()) != (stat.st_dev, stat.st_ino));
        self.open_to_the_edge(&socket, &stat)?;
        if is_new {
            self.link(&socket)?;
        }
        Ok(if is_new { Published::New } else { Published::Known })
    }

    /// Whoever may enter one of the rooms may connect, whatever mode the program gave its socket.
    fn open_to_the_edge(&self, socket: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        if stat.st_gid == group && stat.st_mode & 0o060 == 0o060 {
            return Ok(());
        }
        let group = Some(rustix::fs::Gid::from_raw(group));
        rustix::fs::chownat(socket, "", None, group, AtFlags::EMPTY_PATH)?;
        fs::set_permissions(opened(socket), Permissions::from_mode(0o660))
    }

    fn link(&self, socket: &OwnedFd) -> io::Result<()> {
        let (known, new) = (self.reached_at(), self.reached_at().with_extension("new"));
        remove(&new)?;
        rustix::fs::linkat(CWD, opened(socket), CWD, &new, AtFlags::SYMLINK_FOLLOW)?;
        fs::rename(new, known)
    }
}

/// What was found where a program's socket should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// No socket of the program's.
    Nothing,
    /// One that was not there before.
    New,
    /// The one that is known.
    Known,
}

impl Address {
    /// Connects; waits `patience` at most, also for a program that has more connections waiting than it asked for.
    pub(crate) fn connect(&self, patience: Duration) -> io::Result<TcpStream> {
        let path = match self {
            Self::Tcp(address) => return TcpStream::connect_timeout(address, patience),
            Self::Unix(path) => path,
        };
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        // What is asked of a connection (read, write, how long) is the same call for both kinds.
        Ok(TcpStream::from(socket))
    }

    /// What a request names as its host.
    pub(crate) fn host(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Removes an instance's folder of sockets, or what else has that name.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The path of what is open, also where it was opened by path only.
fn opened(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    fn rule(name: &str) -> (SocketRule, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("u");
        (SocketRule { folder, name: name.to_owned(), owner: None, group: None }, dir)
    }

    #[test]
    fn others_meet_the_socket_that_was_looked_at_and_the_newest() {
        let (rule, _dir) = rule("tmp/app.sock");
        rule.make_rooms().unwrap();
        assert_eq!(rule.publish().unwrap(), Published::Nothing);
        let connect = || Address::Unix(rule.reached_at()).connect(Duration::from_secs(5));
        let first = UnixListener::bind(rule.path()).unwrap();
        assert_eq!(rule.publish().unwrap(), Published::New);
        assert_eq!(rule.publish().unwrap(), Published::Known);
        connect().unwrap();
        drop(first);
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        fs::remove_file(rule.path()).unwrap();
        let second = UnixListener::bind(rule.path()).unwrap();
        assert_eq!(rule.publish().unwrap(), Published::New);
        let mut stream = connect().unwrap();
        drop(second.accept().unwrap());
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        rule.withdraw().unwrap();
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::NotFound);
        rule.make_rooms().unwrap();
        assert!(!rule.path().exists() && rule.path().parent().unwrap().is_dir());
    }

    #[test]
    fn what_is_no_socket_of_the_program_is_shown_to_nobody() {
        let (rule, dir) = rule("app.sock");
        rule.make_rooms().unwrap();
        let theirs = dir.path().join("theirs");
        let _listening = UnixListener::bind(&theirs).unwrap();
        std::os::unix::fs::symlink(&theirs, rule.path()).unwrap();
        assert_eq!(rule.publish().unwrap(), Published::Nothing);
        fs::remove_file(rule.path()).unwrap();
        fs::write(rule.path(), "no socket").unwrap();
        assert_eq!(rule.publish().unwrap(), Published::Nothing);
        // Nor one below a link, nor one that another user made.
        fs::remove_file(rule.path()).unwrap();
        std::os::unix::fs::symlink(dir.path(), rule.room().join("tmp")).unwrap();
        let below = SocketRule { name: "tmp/theirs".to_owned(), ..rule.clone() };
        assert!(below.publish().is_err());
        let _own = UnixListener::bind(rule.path()).unwrap();
        let owner = fs::metadata(rule.path()).unwrap().uid();
        let of_another = SocketRule { owner: Some((owner + 1, 0)), ..rule.clone() };
        assert_eq!(of_another.publish().unwrap(), Published::Nothing);
        assert!(!rule.reached_at().exists());
    }

    #[test]
    fn a_connection_to_one_with_a_full_queue_is_given_up_in_time() {
        let (rule, _dir) = rule("app.sock");
        rule.make_rooms().unwrap();
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listening = rustix::net::socket(family, kind, None).unwrap();
        rustix::net::bind(&listening, &SocketAddrUnix::new(rule.path()).unwrap()).unwrap();
        rustix::net::listen(&listening, 2).unwrap();
        rule.publish().unwrap();
        let connect = || Address::Unix(rule.reached_at()).connect(Duration::from_millis(5));
        let waiting: Vec<_> = (0..100).map_while(|_| connect().ok()).collect();
        assert!((1..10).contains(&waiting.len()), "{} wait", waiting.len());
        assert_eq!(connect().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_path_longer_than_an_address_is_known_before_it_is_bound() {
        let (rule, _dir) = rule("app.sock");
        assert_eq!(rule.too_long(), None);
        let folder = PathBuf::from(format!("/{}", "a".repeat(95)));
        let longer = SocketRule { folder, ..rule };
        assert_eq!(longer.too_long(), Some(96 + "/app/app.sock".len()));
    }
}
