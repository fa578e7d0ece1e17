//! Handshakes over QUIC (RFC 9001): the same choice by server name as over TCP.
//!
//! Why our own: quinn takes one configuration for all connections, and here the name that the client asks for
//! decides which certificates are demanded of it. So a session waits until the client's first message is
//! whole, reads it as a handshake over TCP would, and goes on as the session that was chosen. Invariant:
//! before the choice nothing is said. Not here: the choice ([`Settings`]).

use std::any::Any;
use std::sync::Arc;

use quinn_proto::crypto::{
    self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig as _,
    Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::server::{Accepted, Acceptor};

use super::Settings;
use super::misnamed::{CLIENT_HELLO, Misnamed, length};
use super::transcript::hashing;

/// The longest first message, in bytes: what one record holds (RFC 8446 § 5.1). quinn keeps no more of it either.
const LONGEST: usize = 16 << 10;
/// Alerts (RFC 8446 § 6) to what is no first message, and where we have nothing to offer.
const DECODE_ERROR: u8 = 50;
const INTERNAL_ERROR: u8 = 80;

/// Begins sessions that choose.
pub(crate) struct Choosing(pub(crate) Arc<Settings>);

impl crypto::ServerConfig for Choosing {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        // They depend on nothing that is chosen (RFC 9001 § 5.2).
        self.0.usual.quic().ok_or(UnsupportedVersion)?.initial_keys(version, dst_cid)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        let any = self.0.usual.quic();
        any.map_or([0; 16], |any| any.retry_tag(version, orig_dst_cid, packet))
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        Box::new(Chosen {
            by: self,
            version,
            params: *params,
            heard: Vec::new(),
            misnamed: None,
            session: None,
        })
    }
}

/// A session, once it is clear which.
struct Chosen {
    by: Arc<Choosing>,
    version: u32,
    params: TransportParameters,
    /// What was heard of the client's hello.
    heard: Vec<u8>,
    /// The hello that was read last, if it was changed.
    misnamed: Option<Arc<Misnamed>>,
    session: Option<Box<dyn Session>>,
}

fn alert(code: u8, reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::crypto(code),
        frame: None,
        reason: reason.to_owned(),
    }
}

/// A client's message, once it is whole. TLS would say the same of one that is too long.
fn whole(heard: &mut [u8]) -> Result<Option<&mut [u8]>, TransportError> {
    match length(heard) {
        Some(whole) if whole > LONGEST => Err(alert(DECODE_ERROR, "the first message is too long")),
        Some(whole) => Ok(heard.get_mut(..whole)),
        None => Ok(None),
    }
}

/// A first message as it is read.
fn hello(message: &[u8]) -> Result<Accepted, TransportError> {
    // As TCP carries it: one record.
    let mut record = vec![22, 3, 1, (message.len() >> 8) as u8, message.len() as u8];
    record.extend_from_slice(message);
    let (mut acceptor, mut rest) = (Acceptor::default(), record.as_slice());
    while !rest.is_empty() {
        let read = acceptor.read_tls(&mut rest);
        read.map_err(|error| alert(DECODE_ERROR, &error.to_string()))?;
    }
    match acceptor.accept() {
        Ok(Some(accepted)) => Ok(accepted),
        Ok(None) => Err(alert(DECODE_ERROR, "no first message")),
        Err((error, _)) => Err(alert(DECODE_ERROR, &error.to_string())),
    }
}

impl Session for Chosen {
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        if let Some(session) = &mut self.session {
            // A second hello may follow a first (RFC 8446 § 4.1.4), and nothing in between.
            let is_hello = bytes.first() == Some(&CLIENT_HELLO) || !self.heard.is_empty();
            if self.misnamed.is_none() || !is_hello {
                self.misnamed = None;
                return session.read_handshake(bytes);
            }
        }
        self.heard.extend_from_slice(bytes);
        let Some(message) = whole(&mut self.heard)? else { return Ok(false) };
        self.misnamed = Misnamed::hide(message, self.misnamed.as_deref()).map(Arc::new);
        if self.session.is_none() {
            let chosen = self.by.0.of(&hello(message)?.client_hello()).quic();
            self.by.0.note(self.misnamed.as_ref());
            let chosen = chosen.ok_or_else(|| alert(INTERNAL_ERROR, "no configuration"))?;
            self.session = Some(chosen.start_session(self.version, &self.params));
        }
        let heard = std::mem::take(&mut self.heard);
        let Some(session) = &mut self.session else { return Ok(false) };
        hashing(self.misnamed.as_ref(), || session.read_handshake(&heard))
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        #[expect(
            clippy::expect_used,
            reason = "a session begins only where the keys could be made"
        )]
        self.session.as_ref().map_or_else(
            || self.by.initial_keys(self.version, dst_cid).expect("made once before"),
            |session| session.initial_keys(dst_cid, side),
        )
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.session.as_ref()?.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.session.as_ref()?.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.session.as_ref()?.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.session.as_ref()?.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_handshaking())
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.session.as_ref().map_or(Ok(None), |session| session.transport_parameters())
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        self.session.as_mut()?.write_handshake(bytes)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.session.as_mut()?.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.is_valid_retry(orig_dst_cid, header, payload))
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let session = self.session.as_ref().ok_or(ExportKeyingMaterialError)?;
        session.export_keying_material(output, label, context)
    }
}

#[cfg(test)]
mod tests;
