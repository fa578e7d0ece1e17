//! Handshakes over QUIC, message by message, without packets.

use rustls::HandshakeKind;
use rustls::crypto::aws_lc_rs::DEFAULT_KX_GROUPS;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Version};
use rustls::version::TLS13;

use super::*;
use crate::tls::misnamed::liar::{ELSEWHERE, HONEST, Pair, SAID, pair, rename, suites};

const V1: u32 = 1;

/// Shakes hands with a client whose messages arrive in pieces of such a size: how it did, and how many of its
/// flights held a name.
fn shake(pair: &Pair, by: &Arc<Choosing>, piece: usize) -> (HandshakeKind, usize) {
    let mut config = pair.client.clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let name = ServerName::try_from(HONEST).unwrap();
    let mut client =
        ClientConnection::new(Arc::new(config), Version::V1, name, Vec::new()).unwrap();
    let params = TransportParameters::read(Side::Client, &mut &[][..]).unwrap();
    let mut server = Arc::clone(by).start_session(V1, &params);
    let mut named = 0;
    // A full handshake takes three flights, one of a client that is asked twice five; tickets come last.
    for _ in 0..8 {
        loop {
            let mut sent = Vec::new();
            let next = client.write_hs(&mut sent);
            named += rename(&mut sent, HONEST, SAID);
            for part in sent.chunks(piece) {
                server.read_handshake(part).unwrap();
            }
            if next.is_none() && sent.is_empty() {
                break;
            }
        }
        loop {
            let mut answer = Vec::new();
            let next = server.write_handshake(&mut answer);
            client.read_hs(&answer).unwrap();
            if next.is_none() && answer.is_empty() {
                break;
            }
        }
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    let data = server.handshake_data().unwrap();
    let data = data.downcast::<crypto::rustls::HandshakeData>().unwrap();
    assert_eq!((data.server_name, data.protocol), (None, Some(b"h3".to_vec())));
    (client.handshake_kind().unwrap(), named)
}

#[test]
fn a_client_that_asks_for_a_name_that_is_none_is_served_as_if_it_named_nobody() {
    for suite in suites(&TLS13) {
        for (groups, first, named) in [
            (DEFAULT_KX_GROUPS, HandshakeKind::Full, 1),
            (&ELSEWHERE[..], HandshakeKind::FullWithHelloRetryRequest, 2),
        ] {
            let mut pair = pair(suite, groups);
            let none = Settings::new(Arc::default(), Arc::default());
            let by = Arc::new(Choosing(Arc::new(std::mem::replace(&mut pair.server, none))));
            for (kind, piece) in
                [(first, 4096), (HandshakeKind::Resumed, 4096), (HandshakeKind::Resumed, 1)]
            {
                assert_eq!(shake(&pair, &by, piece), (kind, named), "{suite:?}");
            }
            assert_eq!(by.0.misnamed(), 3);
        }
    }
}
