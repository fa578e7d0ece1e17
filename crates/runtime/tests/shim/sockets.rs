//! Unix sockets: found soon, made anew at each start, found again when a program makes its own anew.

use crate::instance::{Instance, argv};
use seaworthy_base::Code;
use seaworthy_runtime::model::{Phase, Ports, Probe, SocketRule, User};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Serves on `$SOCKET`; makes its socket anew for who asks for `/again`.
const SERVER: &str = "
import os,socket,sys
path=os.environ['SOCKET']
def bind():
  s=socket.socket(socket.AF_UNIX)
  s.bind(path)
  s.listen(5)
  return s
os.umask(0o077)
s=bind()
while True:
  c,_=s.accept()
  asked=c.recv(4096)
  if asked: c.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n'+str(os.getpid()).encode())
  c.close()
  if b'/again' in asked:
    s.close()
    os.unlink(path)
    s=bind()
";

fn on_a_socket(code: &str) -> Instance {
    Instance::new(argv(&["python3", "-u", "-c", code])).with(|spec| {
        let folder = spec.dir.join("u/0123456789ab");
        let name = "tmp/app.sock".to_owned();
        spec.ports = Ports::Socket(SocketRule { folder, name, owner: None, group: None });
        let path = Some("/health".to_owned());
        spec.ready = Probe { path, ..spec.ready.clone() };
    })
}

fn ask(socket: &Path, path: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

#[test]
fn a_program_is_ready_on_its_socket_after_each_start_and_leaves_nothing() {
    let one = on_a_socket(SERVER).launch();
    let before = one.ready();
    let socket = before.socket.unwrap();
    assert!(before.listening.is_empty() && before.fault.is_none());
    assert_eq!(ask(&socket, "/"), before.pid.unwrap().to_string());
    // It could not bind where the one before still has its socket.
    one.client().signal("KILL").unwrap();
    let after = one.until("ready again", |status| {
        status.phase == Phase::Ready && status.pid.is_some() && status.pid != before.pid
    });
    assert_eq!(after.socket.as_ref(), Some(&socket));
    assert_eq!(ask(&socket, "/"), after.pid.unwrap().to_string());
    let mut client = one.client();
    client.stop(false).unwrap();
    one.until("stopped", |status| status.phase == Phase::Stopped);
    assert!(!socket.exists());
    client.stop(true).unwrap();
    let folder = one.spec.dir.join("u/0123456789ab");
    let begun = std::time::Instant::now();
    while folder.exists() {
        assert!(begun.elapsed() < crate::instance::LONG, "`{}` is left", folder.display());
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_makes_its_socket_anew_is_found_again() {
    let one = on_a_socket(SERVER).launch();
    let socket = one.ready().socket.unwrap();
    let inode = || std::fs::metadata(&socket).map(|meta| meta.ino()).ok();
    let before = inode();
    ask(&socket, "/again");
    one.until("the new one is known", |_| inode() != before && inode().is_some());
    let status = one.ready();
    assert_eq!(ask(&socket, "/"), status.pid.unwrap().to_string());
}

#[test]
fn as_a_user_its_socket_is_open_to_the_edges_group_whatever_its_mode() {
    let user = User { name: "nobody".to_owned(), uid: 65534, gid: 65534, groups: vec![65534] };
    let one = on_a_socket(SERVER).with(|spec| {
        spec.environment = vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())];
        spec.user = Some(user);
        if let Ports::Socket(rule) = &mut spec.ports {
            (rule.owner, rule.group) = (Some((65534, 65534)), Some(4242));
        }
    });
    let one = one.launch();
    let status = one.ready();
    let socket = status.socket.unwrap();
    let seen = |path: &Path| {
        let meta = std::fs::metadata(path).unwrap();
        (meta.uid(), meta.gid(), meta.permissions().mode() & 0o777)
    };
    assert_eq!(seen(&socket), (65534, 4242, 0o660));
    assert_eq!(seen(socket.parent().unwrap()), (0, 4242, 0o710));
    let room = one.spec.dir.join("u/0123456789ab/app");
    assert_eq!(seen(&room), (65534, 65534, 0o700));
    assert_eq!(seen(&room.join("tmp")), (65534, 65534, 0o700));
    assert_eq!(seen(room.parent().unwrap()), (0, 0, 0o711));
}

#[test]
fn one_that_listens_elsewhere_is_named() {
    let elsewhere = "import socket,time\ns=socket.socket()\ns.bind(('127.0.0.1',0))\ns.listen()\ntime.sleep(600)";
    let one = on_a_socket(elsewhere).launch();
    let named = |code: Code| {
        one.until(code.as_str(), |status| {
            status.fault.as_ref().is_some_and(|fault| fault.code == code)
        })
    };
    let fault = named(Code::WrongPort).fault.unwrap();
    assert!(fault.what.contains("instead of its Unix socket"), "{fault:?}");
}
