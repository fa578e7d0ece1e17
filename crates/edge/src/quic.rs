//! Listening for QUIC (RFC 9000): one endpoint for each address, its connections dealt out to the workers.
//!
//! The leader reads what arrives, as it accepts for TCP; a connection's own packets are opened, answered and
//! sent by the worker that has it. Which of several edges a packet belongs to the kernel decides
//! ([`seaworthy_sys::datagram`]); here ids only name the slot. Invariants: nothing of it is there until
//! control gives sockets; a client that cannot have put another's address on its packets is never asked to
//! prove it, others are as soon as many do not finish their handshakes ([`UNPROVEN`]); an edge that
//! goes takes no new ones, and those that it has stay. Not here: what is spoken ([`crate::conn::http3`]), which
//! certificate is shown ([`crate::tls`]).

mod socket;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use seaworthy_sys::datagram;
use tokio::sync::Notify;

use self::socket::Socket;
use crate::snapshot::Shared;
use crate::tls::Choosing;
use crate::worker::{self, Job, Local, Open, Worker};

/// Handshakes under way beyond which newcomers prove first that their address is theirs (RFC 9000 § 8.1.2): it
/// costs an honest client one round trip, and a liar everything.
const UNPROVEN: usize = 64;
/// Handshakes under way beyond which newcomers are not heard at all.
const CROWD: usize = 4096;
/// Requests of one connection at a time, as of HTTP/2.
const STREAMS: u32 = 128;
/// A client's own streams: control and two of QPACK (RFC 9114 § 6.2), and some that mean nothing.
const OWN_STREAMS: u32 = 8;
/// What a client may have sent and we not taken, of one request or of all: a connection takes no more memory
/// than that, and a single upload over a long way is not held up.
const WINDOW: u32 = 1 << 20;
/// What of our answers may be on its way on one connection.
const SEND_WINDOW: u64 = 1 << 20;
/// A client that says nothing at all for so long is gone; so that those who wait for an answer are not, they
/// are asked before.
const SILENCE: u32 = 60_000;
const ASKED: Duration = Duration::from_secs(25);

/// A connection that begins.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) incoming: Incoming,
    /// The port that it came to.
    pub(crate) port: u16,
    /// Held until its handshake is over.
    pub(crate) shaking: Shaking,
}

impl Greeted {
    /// Counts among the handshakes under way until its own is over.
    pub(crate) fn new(incoming: Incoming, port: u16, under_way: &Arc<AtomicUsize>) -> Self {
        Self { incoming, port, shaking: Shaking::new(under_way) }
    }
}

/// One of the handshakes under way.
#[derive(Debug)]
pub(crate) struct Shaking(Arc<AtomicUsize>);

impl Shaking {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address that is served.
#[derive(Debug)]
pub(crate) struct Listening {
    address: SocketAddr,
    /// All sockets of the address, by slot; those of other edges only to be handed back.
    sockets: Vec<OwnedFd>,
    slot: u8,
    endpoint: Endpoint,
    deaf: Arc<AtomicBool>,
    /// Told when it is taken away.
    ended: Notify,
    shaking: Arc<AtomicUsize>,
}

/// The sockets of an address, by slot.
pub(crate) type Sockets = (SocketAddr, Vec<OwnedFd>);

/// The handle to what listens.
#[derive(Debug)]
pub(crate) struct Quic {
    listening: Mutex<Vec<Arc<Listening>>>,
    /// Endpoints that take no new connections and finish those that they have.
    finishing: Mutex<Vec<(SocketAddr, Endpoint, Arc<AtomicBool>)>>,
    workers: Arc<[Worker]>,
    shared: Arc<Shared>,
    shaking: Arc<AtomicUsize>,
}

impl Quic {
    /// Nothing listens yet. The first worker leads.
    pub(crate) fn new(workers: &[Worker], shared: &Arc<Shared>) -> Self {
        let (workers, shared) = (workers.into(), Arc::clone(shared));
        Self {
            listening: Mutex::default(),
            finishing: Mutex::default(),
            workers,
            shared,
            shaking: Arc::default(),
        }
    }

    fn listening(&self) -> MutexGuard<'_, Vec<Arc<Listening>>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on the socket in that slot of a group.
    pub(crate) fn add(
        &self,
        address: SocketAddr,
        sockets: Vec<OwnedFd>,
        slot: u8,
    ) -> io::Result<()> {
        let Some(leader) = self.workers.first() else { return Ok(()) };
        let own = sockets.get(usize::from(slot)).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = UdpSocket::from(own.try_clone()?);
        let (endpoint, deaf) = {
            let _within = leader.enter();
            open(socket, slot, &self.shared)?
        };
        let shaking = Arc::clone(&self.shaking);
        let ended = Notify::new();
        let listening =
            Arc::new(Listening { address, sockets, slot, endpoint, deaf, ended, shaking });
        self.remove(address);
        self.listening().push(Arc::clone(&listening));
        self.shared.speaks_http3.store(true, Ordering::Relaxed);
        leader.send(Job::ListenQuic { listening, workers: Arc::clone(&self.workers) });
        Ok(())
    }

    /// Lets an address go, and every connection with it: others may want to bind it.
    pub(crate) fn remove(&self, address: SocketAddr) {
        self.finish(|one| one == address);
        let mut finishing = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        finishing.retain(|(one, endpoint, deaf)| {
            if *one == address {
                // At once: the socket may be the next edge's before the last goodbye is said.
                deaf.store(true, Ordering::Release);
                endpoint.close(http3_no_error(), b"");
            }
            *one != address
        });
    }

    /// Takes no new connections anywhere; those that are there go on.
    pub(crate) fn drain(&self) {
        self.finish(|_| true);
    }

    fn finish(&self, ends: impl Fn(SocketAddr) -> bool) {
        let mut all = self.listening();
        let mut finishing = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        for one in all.extract_if(.., |one| ends(one.address)) {
            one.endpoint.set_server_config(None);
            one.ended.notify_one();
            finishing.push((one.address, one.endpoint.clone(), Arc::clone(&one.deaf)));
        }
        self.shared.speaks_http3.store(!all.is_empty(), Ordering::Relaxed);
    }

    /// Copies of all sockets: the address, and the group's by slot. And the slot of this edge.
    pub(crate) fn all(&self) -> io::Result<(Vec<Sockets>, u8)> {
        let all = self.listening();
        let slot = all.first().map_or(0, |one| one.slot);
        let copies = |one: &Arc<Listening>| {
            let each = one.sockets.iter().map(|socket| socket.as_fd().try_clone_to_owned());
            Ok((one.address, each.collect::<io::Result<Vec<_>>>()?))
        };
        Ok((all.iter().map(copies).collect::<io::Result<_>>()?, slot))
    }
}

/// An endpoint on the socket in that slot, read by the runtime that is entered; and what makes it read no more.
pub(crate) fn open(
    socket: UdpSocket,
    slot: u8,
    shared: &Shared,
) -> io::Result<(Endpoint, Arc<AtomicBool>)> {
    let socket = Arc::new(Socket::new(socket)?);
    let deaf = socket.deaf();
    let endpoint = Endpoint::new_with_abstract_socket(
        endpoint_config(shared, slot),
        Some(server_config(shared)),
        socket,
        Arc::new(TokioRuntime),
    )?;
    Ok((endpoint, deaf))
}

/// Accepts until the address is taken away. Runs on the leader.
pub(crate) async fn run(local: Rc<Local>, listening: Arc<Listening>, workers: Arc<[Worker]>) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = listening.ended.notified() => return,
            incoming = listening.endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        deal(&local, &workers, &listening, incoming);
    }
}

fn deal(local: &Rc<Local>, workers: &[Worker], listening: &Listening, incoming: Incoming) {
    let under_way = listening.shaking.load(Ordering::Relaxed);
    if under_way >= CROWD {
        return incoming.ignore();
    }
    if under_way >= UNPROVEN && !incoming.remote_address_validated() {
        // It can be asked, since it has proved nothing yet.
        return drop(incoming.retry());
    }
    let fewest = workers.iter().enumerate().min_by_key(|(_, worker)| worker.load());
    let Some((place, worker)) = fewest else { return };
    let greeted = Greeted::new(incoming, listening.address.port(), &listening.shaking);
    let open: Open = worker.open(&local.shared);
    if place == 0 {
        worker::greet(local, greeted, open);
    } else {
        worker.send(Job::Quic(Box::new(greeted), open));
    }
}

/// Nothing is wrong (RFC 9114 § 8.1).
fn http3_no_error() -> VarInt {
    VarInt::from_u32(0x100)
}

/// Ids of 8 bytes, random but for the slot.
struct Ids(u8);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes: [u8; 8] = rand::random();
        bytes[0] = datagram::with_slot(bytes[0], self.0);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// What proves to a client that its connection is gone (RFC 9000 § 10.3). All edges have the same, so that the
/// next one can say it of those that died with the last.
struct Resets(hmac::Key);

impl HmacKey for Resets {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let tag = hmac::sign(&self.0, data);
        signature.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

fn endpoint_config(shared: &Shared, slot: u8) -> EndpointConfig {
    // The key that signs cookies signs nothing else: this one is made from it.
    let common = hmac::Key::new(hmac::HMAC_SHA256, &shared.signing().0);
    let own = hmac::sign(&common, b"stateless reset");
    let key = hmac::Key::new(hmac::HMAC_SHA256, own.as_ref());
    let mut config = EndpointConfig::new(Arc::new(Resets(key)));
    config.cid_generator(move || Box::new(Ids(slot)));
    // Version 1 only (RFC 9000); drafts are older than any client that is safe to use.
    config.supported_versions(vec![1]);
    config
}

fn server_config(shared: &Shared) -> ServerConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(OWN_STREAMS.into())
        .stream_receive_window(WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(SILENCE))))
        .keep_alive_interval(Some(ASKED));
    let mut config = ServerConfig::with_crypto(Arc::new(Choosing(Arc::clone(&shared.tls))));
    config
        .transport_config(Arc::new(transport))
        .migration(false)
        .max_incoming(CROWD)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(16 << 20);
    config
}
