//! One thread's connection to a store: questions go out as they come, many at a time; answers come back in order.
//!
//! Invariants: who asks waits [`PATIENCE`] at most; a connection that did not answer in time is not used again, since its
//! answers could no longer be told apart; while a store is gone nobody waits for it at all: it is tried beside.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};

use super::resp::{self, Reply, command};
use super::{AGAIN_MS, Store, scripts};
use crate::socket::Socket;
use crate::worker::Local;

/// For an answer: a store is near, or of no use for counting requests.
const PATIENCE: Duration = Duration::from_millis(250);
/// To connect and to greet.
const GREETING: Duration = Duration::from_secs(2);
/// More questions do not wait for a connection.
const MOST: usize = 10_000;

type Question = (Vec<u8>, oneshot::Sender<Reply>);

/// The end that questions are put into.
#[derive(Debug, Clone)]
pub(super) struct Link {
    store: Arc<Store>,
    questions: mpsc::Sender<Question>,
}

impl Link {
    /// Begins to connect.
    pub(super) fn open(local: &Rc<Local>, store: &Arc<Store>) -> Self {
        let (questions, receiver) = mpsc::channel(MOST);
        let (of_task, local) = (Arc::clone(store), Rc::clone(local));
        tokio::task::spawn_local(async move {
            if let Err(error) = run(&local, &of_task, receiver).await {
                of_task.lose(&error.to_string(), AGAIN_MS);
            }
        });
        Self { store: Arc::clone(store), questions }
    }

    /// Whether it leads to this store, and has not ended.
    pub(super) fn is_of(&self, store: &Arc<Store>) -> bool {
        Arc::ptr_eq(&self.store, store) && !self.questions.is_closed()
    }

    /// Whether it is this very connection.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.questions.same_channel(&other.questions)
    }

    /// Asks. Nothing: it did not answer, and is to be given up.
    pub(super) async fn ask(&self, command: Vec<u8>) -> Option<Reply> {
        let (sender, answer) = oneshot::channel();
        self.questions.try_send((command, sender)).ok()?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(Reply::Refused(why))) => {
                self.store.lose(&why, AGAIN_MS);
                None
            }
            Ok(answer) => answer.ok(),
            Err(_) => {
                let why = format!("no answer within {} ms", PATIENCE.as_millis());
                self.store.lose(&why, AGAIN_MS);
                None
            }
        }
    }
}

fn ended(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what.to_owned())
}

/// Connects, says who we are, and carries questions and answers until either end goes.
async fn run(
    local: &Rc<Local>,
    store: &Arc<Store>,
    mut questions: mpsc::Receiver<Question>,
) -> io::Result<()> {
    let greeted = tokio::time::timeout(GREETING, greet(local, store)).await;
    let mut socket = greeted.map_err(|_| ended("no connection within 2 s"))??;
    store.find();
    let mut waiting: VecDeque<oneshot::Sender<Reply>> = VecDeque::new();
    let mut bytes = BytesMut::new();
    loop {
        tokio::select! {
            question = questions.recv() => {
                // Nobody asks here any more.
                let Some((mut out, sender)) = question else { return Ok(()) };
                waiting.push_back(sender);
                while let Ok((more, sender)) = questions.try_recv() {
                    out.extend_from_slice(&more);
                    waiting.push_back(sender);
                }
                let sent = async {
                    socket.write_all(&out).await?;
                    socket.flush().await
                };
                let sent = tokio::time::timeout(GREETING, sent).await;
                sent.map_err(|_| ended("it takes nothing"))??;
            }
            read = socket.read_buf(&mut bytes) => {
                if read? == 0 {
                    return Err(ended("the connection was closed"));
                }
                let unreadable = |_| ended("it said something that is no reply");
                while let Some(reply) = resp::take(&mut bytes).map_err(unreadable)? {
                    // Who asked may have given up.
                    waiting.pop_front().map(|sender| sender.send(reply));
                }
            }
        }
    }
}

async fn greet(local: &Rc<Local>, store: &Arc<Store>) -> io::Result<Socket> {
    let mut socket = connect(local, store).await?;
    let at = &store.at;
    let mut words: Vec<Vec<String>> = Vec::new();
    if let Some(password) = &at.password {
        let login = ["AUTH".to_owned()].into_iter().chain(at.user.clone());
        words.push(login.chain([password.clone()]).collect());
    }
    words.push(vec!["SELECT".to_owned(), at.database.to_string()]);
    for script in scripts::ALL {
        words.push(["SCRIPT", "LOAD", script.text].map(str::to_owned).to_vec());
    }
    let out: Vec<u8> = words.iter().flat_map(command).collect();
    socket.write_all(&out).await?;
    socket.flush().await?;
    let mut bytes = BytesMut::new();
    let mut left = words.len();
    while left > 0 {
        match resp::take(&mut bytes).map_err(|_| ended("it is no Redis"))? {
            // Redis does not say passwords back.
            Some(Reply::Refused(why)) => return Err(io::Error::other(why)),
            Some(_) => left -= 1,
            None if socket.read_buf(&mut bytes).await? == 0 => {
                return Err(ended("the connection was closed"));
            }
            None => {}
        }
    }
    Ok(socket)
}

/// A connection to the first of its addresses that takes one.
async fn connect(local: &Rc<Local>, store: &Arc<Store>) -> io::Result<Socket> {
    let service = local.current().services.get(&*store.label).map(Arc::clone);
    let mut last = ended("its name could not be resolved");
    for instance in service.iter().flat_map(|service| &service.ready) {
        let connected = Socket::connect(&instance.address).await;
        let connected = match (connected, &store.tls) {
            (Ok(Socket::Tcp(stream)), Some(tls)) => {
                tls.handshake(stream).await.map(|stream| Socket::Tls(Box::new(stream)))
            }
            (other, _) => other,
        };
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}
