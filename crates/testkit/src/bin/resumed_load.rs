//! Connections that come back with a ticket, one request on each, for `cargo xtask bench edge --case resumed`.
//!
//! Why our own: `wrk` shakes hands in full each time. So many clients at a time, each with tickets of its own: it
//! connects, comes back with the newest, asks once and is let go by the server. First each of them gets a ticket; then
//! `primed` is printed, and the load begins once the input ends, so that whoever measures counts none of the full
//! handshakes. Invariants: a handshake that is not what it should be (full first, resumed from then on), an answer that
//! is not a whole 200, and a connection that fails end the program with what was wrong, never with a figure. Not here:
//! what the server spends.
#![expect(clippy::print_stdout, reason = "a program for developers that prints what it found")]

use std::cell::Cell;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rustls::HandshakeKind;
use rustls_pki_types::ServerName;
use seaworthy_testkit::flags::{self, Flags};
use seaworthy_testkit::tls::{Comeback, resuming_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

const HELP: &str = "\
Comes back with a TLS ticket on each connection and asks once.

  --as NAME         1.3 (X25519), 1.3-hybrid (X25519MLKEM768 first, as browsers) or 1.2
  --address IP:PORT
  --host NAME       asked for, and the name in TLS
  --authority PEM   to trust
  --count N         connections at a time [64]
  --seconds N       of load [5]";

struct Plan {
    comeback: Comeback,
    address: SocketAddr,
    host: String,
    authority: PathBuf,
    count: usize,
    seconds: u64,
}

fn main() -> ExitCode {
    let plan = match flags::read(HELP, read) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
        .and_then(|runtime| runtime.block_on(load(&plan)));
    match done {
        Ok(figures) => println!("{figures}"),
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read(mut words: Flags) -> Result<Plan, String> {
    let (mut comeback, mut address, mut host, mut authority) = (None, None, None, None);
    let (mut count, mut seconds) = (64, 5);
    while let Some((flag, value)) = words.pair()? {
        match flag.as_str() {
            "--as" => {
                let known = Comeback::named(&value);
                comeback = Some(known.ok_or_else(|| format!("nobody comes back as `{value}`"))?);
            }
            "--address" => address = Some(flags::number(&value)?),
            "--host" => host = Some(value),
            "--authority" => authority = Some(PathBuf::from(value)),
            "--count" => count = flags::number(&value)?,
            "--seconds" => seconds = flags::number(&value)?,
            _ => return flags::unknown(&flag),
        }
    }
    Ok(Plan {
        comeback: comeback.ok_or("`--as` is missing")?,
        address: address.ok_or("`--address` is missing")?,
        host: host.ok_or("`--host` is missing")?,
        authority: authority.ok_or("`--authority` is missing")?,
        count,
        seconds,
    })
}

async fn load(plan: &Plan) -> Result<String, String> {
    let clients = (0..plan.count).map(|_| Client::new(plan).map(Rc::new));
    let clients: Vec<Rc<Client>> = clients.collect::<Result<_, _>>()?;
    at_once(&clients, async |client| client.visit(HandshakeKind::Full).await).await?;
    println!("primed");
    // Whoever started us says when.
    let told = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    told.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let until = begun + Duration::from_secs(plan.seconds);
    let visits = at_once(&clients, async move |client| client.come_back(until).await).await?;
    let took = begun.elapsed().as_secs_f64();
    let mut micros = visits.concat();
    micros.sort_unstable();
    let p99 = micros.get(micros.len() * 99 / 100).copied().unwrap_or_default() as f64 / 1000.0;
    Ok(format!("{} answers {:.0} req/s p99 {p99:.2}ms", micros.len(), micros.len() as f64 / took))
}

/// Has all of them do something, each in a task of its own.
async fn at_once<T: 'static>(
    clients: &[Rc<Client>],
    act: impl AsyncFn(Rc<Client>) -> Result<T, String> + Clone + 'static,
) -> Result<Vec<T>, String> {
    let tasks = LocalSet::new();
    let all = clients.iter().map(|client| {
        let (client, act) = (Rc::clone(client), act.clone());
        tasks.spawn_local(async move { act(client).await })
    });
    let done = try_join_all(all.collect::<Vec<_>>());
    tasks.run_until(done).await.map_err(|error| error.to_string())?.into_iter().collect()
}

/// Somebody with tickets of his own.
struct Client {
    connector: TlsConnector,
    name: ServerName<'static>,
    address: SocketAddr,
    asked: String,
    /// What was read of an answer; kept for the next one.
    said: Cell<Vec<u8>>,
}

impl Client {
    fn new(plan: &Plan) -> Result<Self, String> {
        let config = resuming_config(&plan.authority, &["http/1.1"], plan.comeback);
        let name = ServerName::try_from(plan.host.clone());
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: name.map_err(|error| format!("{}: {error}", plan.host))?,
            address: plan.address,
            asked: format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", plan.host),
            said: Cell::default(),
        })
    }

    /// Again and again until then; how long each visit took, in microseconds.
    async fn come_back(&self, until: Instant) -> Result<Vec<u64>, String> {
        let mut micros = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            self.visit(HandshakeKind::Resumed).await?;
            micros.push(begun.elapsed().as_micros() as u64);
        }
        Ok(micros)
    }

    /// One connection with one request.
    async fn visit(&self, expected: HandshakeKind) -> Result<(), String> {
        let mut said = self.said.take();
        said.clear();
        let shaken =
            self.ask(&mut said).await.map_err(|error| format!("a visit failed: {error}"))?;
        if shaken != Some(expected) {
            return Err(format!("{shaken:?} handshake where {expected:?} was due"));
        }
        if !is_whole(&said) {
            return Err(format!("answered with {}", String::from_utf8_lossy(&said)));
        }
        self.said.set(said);
        Ok(())
    }

    /// To the end of the connection, which the server makes: tickets may come with the last of the answer.
    async fn ask(&self, said: &mut Vec<u8>) -> io::Result<Option<HandshakeKind>> {
        let socket = TcpStream::connect(self.address).await?;
        socket.set_nodelay(true)?;
        let mut stream = self.connector.connect(self.name.clone(), socket).await?;
        stream.write_all(self.asked.as_bytes()).await?;
        stream.flush().await?;
        match stream.read_to_end(said).await {
            // Without a word (RFC 8446 § 6.1); whether the answer is whole is looked at anyway.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            done => {
                done?;
            }
        }
        Ok(stream.get_ref().1.handshake_kind())
    }
}

/// Whether this is a 200 with as many bytes as it promised.
fn is_whole(said: &[u8]) -> bool {
    let text = String::from_utf8_lossy(said).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    head.starts_with("http/1.1 200 ")
        && length.and_then(|length| length.parse().ok()) == Some(body.len())
}
