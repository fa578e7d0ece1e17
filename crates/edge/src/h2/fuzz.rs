//! What must hold of any bytes.

use super::frame::{self, Frame};
use super::head::Fields;
use super::hpack::Decoder;

/// Frames are found at the same places however the bytes are cut, hold no more than they said, and what their
/// blocks say never panics; a request that is made has what a request needs.
pub(crate) fn frames(input: &[u8], cut: usize) {
    let mut decoder = Decoder::new();
    let (mut at, mut authority) = (0, None);
    while let Some(read) = frame::read(&input[at..]) {
        let end = at + read.size;
        if at < cut && cut < end {
            assert_eq!(
                frame::read(&input[at..cut.max(at)]).map(|read| read.size).filter(|size| *size > 9),
                None
            );
        }
        at = end;
        if let Ok(Frame::Headers { block, .. } | Frame::Continuation { block, .. }) = read.frame {
            let mut fields = Fields::default();
            if decoder.decode(block, |entry| fields.take(entry)).is_err() {
                return;
            }
            if let Ok(head) = fields.request(&mut authority) {
                let request = head.request;
                assert!(request.uri().path_and_query().is_some() || request.method() == "CONNECT");
                for (name, value) in request.headers() {
                    let name = name.as_str();
                    assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b':'));
                    assert!(!["connection", "transfer-encoding", "upgrade"].contains(&name));
                    let text = value.as_bytes();
                    assert!(!text.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                    assert_eq!(text, text.trim_ascii());
                }
            }
        }
    }
}
