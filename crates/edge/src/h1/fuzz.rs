//! What must hold of any request's head.

use bytes::Bytes;

use super::framing::Framing;
use super::head::{Search, read};
use crate::rooms::Rooms;

/// Whole or in two pieces it is found at the same place; a head that passes is the one that another reader
/// finds, has one framing, and holds nothing that could be taken for two lines.
pub(crate) fn head(input: &[u8]) {
    let mut search = Search::default();
    let whole = search.end(input);
    let mut pieces = Search::default();
    for cut in [input.len() / 3, input.len() / 2] {
        match pieces.end(&input[..cut]) {
            Ok(None) => {}
            Ok(Some(end)) => return assert_eq!(whole, Ok(Some(end))),
            Err(_) => return assert!(whole.is_err(), "more bytes make it good"),
        }
    }
    assert_eq!(pieces.end(input).map_err(drop), whole.map_err(drop));
    let Ok(Some(end)) = whole else { return };
    let Ok(head) = read(&Bytes::copy_from_slice(&input[..end]), search.lines(), &Rooms::default())
    else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut fields);
    let status = other.parse(&input[..end]);
    assert_eq!(status, Ok(httparse::Status::Complete(end)), "another reader sees no such head");
    assert_eq!(other.method, Some(head.parts.method.as_str()));
    assert_eq!(other.headers.len(), head.parts.headers.len());
    for field in other.headers.iter() {
        let mut values = head.parts.headers.get_all(field.name).iter();
        assert!(values.any(|value| value.as_bytes() == field.value), "{}", field.name);
        assert!(!field.value.contains(&b'\r') && !field.value.contains(&b'\n'));
    }
    let count = |name: &str| head.parts.headers.get_all(name).iter().count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    assert!(lengths + codings <= 1 && count("host") <= 1);
    assert_eq!(codings == 1, matches!(head.shape.framing, Framing::Chunked(_)));
    assert_ne!(head.shape.framing, Framing::ToEnd, "no request ends with its connection");
}
