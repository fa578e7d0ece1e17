//! Clients that ask for a server name that is none, over sockets.

use rustls::crypto::aws_lc_rs::DEFAULT_KX_GROUPS;
use rustls::{HandshakeKind, SupportedProtocolVersion, version};

use super::*;
use crate::tls::misnamed::liar::{ELSEWHERE, HONEST, Pair, SAID, pair, rename, suites};
use crate::tls::opening::tests::records;

impl Pair {
    /// One visit with the name changed on the way, by somebody who sees each flight of the client: how the server
    /// shook hands where it did, and the flights that held a name. `room`: the bytes that the socket takes.
    async fn visit(
        &self,
        room: usize,
        mut change: impl FnMut(usize, &mut Vec<u8>),
    ) -> (io::Result<HandshakeKind>, usize) {
        let client = TlsConnector::from(Arc::new(self.client.clone()));
        let ((near, between), (beyond, far)) = (duplex(room), duplex(64 << 10));
        let visitor = async {
            let name = ServerName::try_from(HONEST).unwrap();
            let Ok(mut stream) = client.connect(name, far).await else { return };
            stream.write_all(b"ping").await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.unwrap();
            assert_eq!(said, b"pong");
        };
        let served = async {
            let mut stream = TlsStream::accept(near, &self.server).await?;
            assert_eq!(stream.session().server_name(), None);
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).await?;
            assert_eq!(&asked, b"ping");
            stream.write_all(b"pong").await?;
            stream.shutdown().await?;
            Ok(stream.session().handshake_kind().unwrap())
        };
        let between = async {
            let (mut answers, mut to_server) = tokio::io::split(between);
            let (mut from_client, mut to_client) = tokio::io::split(beyond);
            let there = async {
                let (mut named, mut flight) = (0, vec![0; 64 << 10]);
                loop {
                    let read = from_client.read(&mut flight).await.unwrap();
                    let mut sent = flight[..read].to_vec();
                    if rename(&mut sent, HONEST, SAID) > 0 {
                        change(named, &mut sent);
                        named += 1;
                    }
                    if read == 0 || to_server.write_all(&sent).await.is_err() {
                        to_server.shutdown().await.ok();
                        return named;
                    }
                }
            };
            let back = async {
                tokio::io::copy(&mut answers, &mut to_client).await.ok();
                to_client.shutdown().await.ok();
            };
            tokio::join!(there, back).0
        };
        let ((), served, named) = tokio::join!(visitor, served, between);
        (served, named)
    }
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

#[test]
fn they_are_served_as_if_they_had_named_nobody_and_come_back_with_their_tickets() {
    run(async {
        for version in VERSIONS {
            for (nth, suite) in suites(version).enumerate() {
                let pair = pair(suite, DEFAULT_KX_GROUPS);
                let room = [64 << 10, 1, 1000][nth % 3];
                for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
                    let (served, named) = pair.visit(room, |_, _| {}).await;
                    assert_eq!((served.unwrap(), named), (kind, 1), "{suite:?}");
                }
                assert_eq!(pair.server.misnamed(), 3);
            }
        }
    });
}

#[test]
fn they_are_asked_a_second_time_like_others() {
    run(async {
        for suite in suites(&version::TLS13) {
            let pair = pair(suite, &ELSEWHERE);
            for (room, kind) in [
                (64 << 10, HandshakeKind::FullWithHelloRetryRequest),
                (1, HandshakeKind::Resumed),
                (64 << 10, HandshakeKind::Resumed),
            ] {
                let (served, named) = pair.visit(room, |_, _| {}).await;
                assert_eq!((served.unwrap(), named), (kind, 2), "{suite:?}");
            }
            assert_eq!(pair.server.misnamed(), 3);
        }
    });
}

#[test]
fn a_hello_in_several_records_is_read_like_one() {
    run(async {
        for version in VERSIONS {
            let pair = pair(suites(version).next().unwrap(), DEFAULT_KX_GROUPS);
            let split = |_, sent: &mut Vec<u8>| {
                let body = sent.split_off(5);
                *sent = records(&body, body.len() / 3);
            };
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                assert_eq!(pair.visit(64 << 10, split).await.0.unwrap(), kind);
            }
        }
    });
}

#[test]
fn whoever_changes_a_name_on_the_way_ends_the_handshake() {
    run(async {
        for version in VERSIONS {
            for suite in suites(version) {
                for (groups, last) in [(DEFAULT_KX_GROUPS, 0), (&ELSEWHERE[..], 1)] {
                    let pair = pair(suite, groups);
                    let last = if *version == version::TLS13 { last } else { 0 };
                    // Another name that is none, in all hellos or in the last.
                    let all = |_, sent: &mut Vec<u8>| {
                        rename(sent, SAID, "b.example:443");
                    };
                    let one = |nth, sent: &mut Vec<u8>| {
                        if nth == last {
                            rename(sent, SAID, "b.example:443");
                        }
                    };
                    // Out of sight, as we would do it.
                    let hidden = |nth, sent: &mut Vec<u8>| {
                        let listed = [&[0, 0, 13][..], SAID.as_bytes()].concat();
                        let at = sent.windows(16).position(|part| part == listed).unwrap();
                        if nth == last {
                            sent[at - 6..at - 4].copy_from_slice(&[0xfa, 0xfa]);
                        }
                    };
                    pair.visit(64 << 10, all).await.0.unwrap_err();
                    pair.visit(64 << 10, one).await.0.unwrap_err();
                    pair.visit(64 << 10, hidden).await.0.unwrap_err();
                    // Untouched, the same two get on.
                    pair.visit(64 << 10, |_, _| {}).await.0.unwrap();
                }
            }
        }
    });
}
