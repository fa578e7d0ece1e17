//! Edges that are slow, broken or gone, played by a thread that speaks their protocol for a process of its own.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc;

use seaworthy_api::Layout;
use seaworthy_edge::model::{Handshake, MAX_MESSAGE, PROTOCOL, Reply};
use seaworthy_sys::fdpass;

use super::*;

/// Something that greets like an edge of that process and with these features, and the verbs that it is told. So many
/// of its connections end with the first question.
pub(super) fn edge(
    socket: &Path,
    pid: u32,
    features: &[&str],
    broken: usize,
) -> mpsc::Receiver<String> {
    let listener = UnixListener::bind(socket).unwrap();
    let features: Vec<String> = features.iter().map(|one| (*one).to_owned()).collect();
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || {
        for (nth, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            while let Ok(Some((payload, _))) = fdpass::receive_message(&stream, MAX_MESSAGE) {
                let asked: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                let reply = if asked["verb"] == "hello" {
                    Reply::Hello {
                        proto: PROTOCOL,
                        build: "0".to_owned(),
                        pid,
                        boot_id: String::new(),
                        features: features.clone(),
                        unguarded: Vec::new(),
                    }
                } else if nth < broken {
                    break;
                } else {
                    // The test may be over.
                    sender.send(asked["verb"].as_str().unwrap().to_owned()).ok();
                    Reply::Done
                };
                fdpass::send_message(&stream, &serde_json::to_vec(&reply).unwrap(), &[]).unwrap();
            }
        }
    });
    told
}

/// Waits until it is so; the test fails if it never is.
async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(GREETING, waiting).await.unwrap();
}

/// A process that does nothing; ended with the value.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("sleep").arg("infinity").spawn().unwrap())
    }

    /// It may have been waited for by who watched it.
    fn has_ended(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()));
        stat.map_or(true, |stat| {
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
        })
    }

    async fn ended(&self) {
        eventually(|| self.has_ended()).await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Control's side, which can start no edge.
fn control(run: &Path) -> Edge {
    let options = EdgeOptions {
        layout: Layout { state: run.join("state"), run: run.to_path_buf() },
        program: "/bin/false".into(),
        threads: 1,
        sockets: Sockets::None,
        user: None,
        signing: [0; 16],
        scope: None,
    };
    Edge::new(options, Arc::default(), Kept::default())
}

/// Control's side of edge 3, which answers no more; it serves on nevertheless.
async fn with_a_broken_link(run: &Path, pid: u32, broken: usize) -> (Edge, mpsc::Receiver<String>) {
    let mut edge = control(run);
    edge.number = 3;
    let told = self::edge(&edge.options.layout.edge_socket(3), pid, &[], broken);
    let link = edge.find(3).await.unwrap();
    assert!(link.ask(Request::Status, Vec::new()).await.is_err());
    assert!(link.is_dead() && !link.has_ended());
    edge.link = Some(link);
    (edge, told)
}

#[tokio::test]
async fn an_edge_that_did_not_answer_finishes_when_the_next_one_serves() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start();
    let (mut edge, told) = with_a_broken_link(dir.path(), process.0.id(), 1).await;
    let old = edge.link.take();
    edge.part_from(3, old, ENDING).await;
    assert_eq!(told.try_iter().collect::<Vec<_>>(), ["drain"]);
    let draining: Vec<u32> = edge.draining.iter().map(|(number, _)| *number).collect();
    assert_eq!(draining, [3]);
    assert!(!process.has_ended());
}

#[tokio::test]
async fn an_edge_that_never_answers_again_is_ended_when_the_next_one_serves() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start();
    let (mut edge, told) = with_a_broken_link(dir.path(), process.0.id(), usize::MAX).await;
    let old = edge.link.take();
    edge.part_from(3, old, ENDING).await;
    process.ended().await;
    assert!(edge.draining.is_empty() && told.try_iter().next().is_none());
}

#[tokio::test]
async fn an_edge_that_did_not_answer_serves_on_where_no_other_can_be_started() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start();
    let (mut edge, _told) = with_a_broken_link(dir.path(), process.0.id(), usize::MAX).await;
    assert!(edge.ensure().await.is_err());
    assert_eq!(edge.number, 3);
    assert!(edge.link.is_some() && !process.has_ended());
    // What it has with instances nobody knows, until it is over.
    assert!(edge.is_silent());
    let link = edge.link.clone().unwrap();
    // `down` ends it all the same.
    edge.stop(Duration::ZERO).await;
    process.ended().await;
    edge.draining.push((3, link.clone()));
    eventually(|| link.has_ended()).await;
    assert!(!edge.is_silent());
}

#[tokio::test]
async fn the_next_edge_is_not_told_what_one_died_over_and_one_that_lives_has_what_it_took() {
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start();
    let (mut edge, _told) = with_a_broken_link(dir.path(), process.0.id(), usize::MAX).await;
    let before = edge.told();
    edge.demand(vec![Handshake::default()]);
    edge.configure(Vec::new(), BTreeMap::new()).await.unwrap();
    edge.route(Vec::new(), BTreeMap::new()).await.unwrap();
    assert!(edge.ensure().await.is_err());
    edge.take_back_to(before);
    assert!(edge.keys.handshakes.is_empty());
    assert_eq!((edge.keys.version, edge.config.version), (0, 0));

    let _living = self::edge(&edge.options.layout.edge_socket(5), process.0.id(), &[], 0);
    edge.link = edge.find(5).await;
    let before = edge.told();
    edge.demand(vec![Handshake::default()]);
    edge.configure(Vec::new(), BTreeMap::new()).await.unwrap();
    edge.take_back_to(before);
    assert_eq!(edge.keys.handshakes.len(), 1, "it took them");
    let before = edge.told();
    edge.demand(Vec::new());
    edge.take_back_to(before);
    assert_eq!(edge.keys.handshakes.len(), 1, "nobody took that there are none");
}

#[test]
fn a_socket_that_comes_back_is_taken_only_if_it_was_written_down_and_listens() {
    let dir = tempfile::tempdir().unwrap();
    let mut edge = control(dir.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let cookie = |socket: BorrowedFd<'_>| seaworthy_sys::socket::socket_cookie(socket).unwrap();
    let of = |address: SocketAddr, cookie: u64| EdgeRecord {
        cookies: BTreeMap::from([(address, cookie)]),
        ..EdgeRecord::default()
    };
    let (address, own) = (listener.local_addr().unwrap(), cookie(listener.as_fd()));
    let copy = || OwnedFd::from(listener.try_clone().unwrap());
    edge.take_back(copy(), Kind::Https, &of(address, own + 1));
    edge.take_back(copy(), Kind::Https, &EdgeRecord::default());
    let connected = of(client.local_addr().unwrap(), cookie(client.as_fd()));
    edge.take_back(client.into(), Kind::Https, &connected);
    assert!(edge.addresses().is_empty());
    edge.take_back(copy(), Kind::Https, &of(address, own));
    assert_eq!(edge.addresses(), BTreeMap::from([(address, true)]));
}
