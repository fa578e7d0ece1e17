//! What must hold of any first bytes of a connection with TLS.

use std::io::Read as _;

use rustls::server::{Accepted, Acceptor};
use rustls::{Error, PeerMisbehaved};

use super::opening::Opening;

/// What rustls makes of some bytes; nothing if it wants more.
pub(super) fn accepted(bytes: &[u8]) -> Result<Option<Accepted>, Error> {
    let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
    loop {
        if let Some(accepted) = acceptor.accept().map_err(|(error, _)| error)? {
            return Ok(Some(accepted));
        }
        match acceptor.read_tls(&mut rest) {
            Ok(read) if read > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// In one piece or in two, rustls reads as many bytes as were sent, and the same ones, except where a hello names
/// what it refuses: then two bytes differ, it sees no name, and what is hashed is what was sent.
pub(crate) fn client_hello(sent: &[u8], cut: usize) {
    let mut opening = Opening::new();
    let mut read = Vec::new();
    let mut socket = sent;
    opening.of(&mut socket).read_to_end(&mut read).unwrap();
    let (mut pieces, mut again) = (Opening::new(), Vec::new());
    let (one, other) = sent.split_at(cut);
    pieces.of(&mut one.chain(other)).read_to_end(&mut again).unwrap();
    assert_eq!(read, again, "it depends on how the bytes come");
    assert_eq!(read.len(), sent.len());
    let Some(misnamed) = opening.misnamed() else { return assert_eq!(read, sent) };
    let Err(refused) = accepted(sent) else { panic!("a hello was changed that rustls would take") };
    if let Ok(Some(taken)) = accepted(&read) {
        let none = PeerMisbehaved::ServerNameMustContainOneHostName;
        assert_eq!(refused, Error::PeerMisbehaved(none), "refused for another reason");
        assert_eq!(taken.client_hello().server_name(), None);
    }
    assert!((1..=2).contains(&sent.iter().zip(&read).filter(|(one, other)| one != other).count()));
    let whole = misnamed.hashed();
    let restored = misnamed.sent(whole).unwrap().concat();
    assert_eq!(restored.iter().zip(whole).filter(|(one, other)| one != other).count(), 2);
}
