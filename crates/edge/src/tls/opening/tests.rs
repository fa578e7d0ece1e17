//! Hellos in pieces: of the socket's making, and of the client's.

use super::super::misnamed::tests::named;
use super::*;

/// A message in records of at most such a size.
pub(crate) fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let header = [HANDSHAKE, 3, 1, (part.len() >> 8) as u8, part.len() as u8];
        [&header[..], part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

/// A socket that has so many bytes at a time, and nothing in between.
struct Slow<'a>(&'a [u8], usize, bool);

impl Read for Slow<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.2 = !self.2;
        if self.2 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let read = self.1.min(self.0.len()).min(bytes.len());
        bytes[..read].copy_from_slice(&self.0[..read]);
        self.0 = &self.0[read..];
        Ok(read)
    }
}

/// All that rustls reads of what was sent in such pieces, and the most that lay here.
fn read(opening: &mut Opening, sent: &[u8], piece: usize) -> (Vec<u8>, usize) {
    let (mut all, mut most) = (Vec::new(), 0);
    let mut socket = Slow(sent, piece, true);
    loop {
        let mut bytes = [0; 100];
        match opening.of(&mut socket).read(&mut bytes) {
            Ok(0) => return (all, most),
            Ok(read) => all.extend_from_slice(&bytes[..read]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        most = most.max(opening.held.capacity());
    }
}

#[test]
fn a_name_that_is_none_is_found_in_whatever_pieces_the_hello_comes() {
    let hello = named(b"a.example:443");
    let mut changed = hello.clone();
    Misnamed::hide(&mut changed, None).unwrap();
    let second = [&[CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1][..], &records(&hello, 16 << 10)].concat();
    let second_changed = [&second[..6], &records(&changed, 16 << 10)].concat();
    for size in [hello.len(), hello.len() - 1, hello.len() / 2, hello.len() / 4 + 1] {
        // Within the two bytes of the number, too.
        for size in [size, 52] {
            for piece in 1..=hello.len() + 40 {
                let mut opening = Opening::new();
                let sent = records(&hello, size);
                let (all, _) = read(&mut opening, &sent, piece);
                assert_eq!(all, records(&changed, size), "records of {size}, {piece} at a time");
                assert!(opening.misnamed().is_some());
                opening.may_come_again();
                assert_eq!(read(&mut opening, &second, piece).0, second_changed);
                assert!(opening.misnamed().is_some() && !opening.holds());
            }
        }
    }
}

#[test]
fn everything_else_passes_as_it_is_and_a_whole_hello_without_being_kept() {
    let (good, bad) = (named(b"a.example"), named(b"a:1"));
    let whole = records(&good, 16 << 10);
    let mut opening = Opening::new();
    let mut bytes = [0; 1000];
    assert_eq!(opening.of(&mut whole.as_slice()).read(&mut bytes).unwrap(), whole.len());
    assert_eq!((&bytes[..whole.len()], opening.held.capacity()), (&whole[..], 0));
    // After a hello that was not changed nothing is looked for.
    opening.may_come_again();
    assert_eq!(read(&mut opening, &records(&bad, 16 << 10), 1).0, records(&bad, 16 << 10));
    let long = [&[CLIENT_HELLO, 0, 0x80, 0][..], &vec![0; 0x8000]].concat();
    let idle = [CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1].repeat(5000);
    for (why, sent) in [
        ("too many records", records(&bad, bad.len() / 5)),
        ("hardly anything in the first", records(&bad, 3)),
        ("records of nothing", [HANDSHAKE, 3, 1, 0, 0].repeat(5000)),
        ("too long", records(&long, 16 << 10)),
        ("no hello", b"GET / HTTP/1.1\r\n\r\n".repeat(5000)),
        ("another message", records(&[&[2][..], &bad[1..]].concat(), 16 << 10)),
        ("another record", [&[21, 3, 3, 0, 2, 2, 40][..], &records(&bad, 16 << 10)].concat()),
        ("what means nothing, without end", idle),
        ("half a hello", records(&bad, 16 << 10)[..50].to_vec()),
    ] {
        for piece in [1, 7, 90, 1000] {
            let mut opening = Opening::new();
            let (all, most) = read(&mut opening, &sent, piece);
            assert_eq!(all, sent, "{why}, {piece} at a time");
            assert!(opening.misnamed().is_none() && !opening.holds(), "{why}");
            assert!(most <= 256, "{why}: {most} bytes were kept");
        }
    }
}

#[test]
fn a_hello_that_never_ends_is_kept_up_to_its_bound() {
    // It says that it is as long as may be, and comes a byte at a time.
    let hello = [&[CLIENT_HELLO, 0, 0x3f, 0xfc][..], &[0; 0x3ffc]].concat();
    let mut opening = Opening::new();
    let (all, most) = read(&mut opening, &records(&hello, 5000), 1);
    assert_eq!(all, records(&hello, 5000));
    assert!((LONGEST..2 * LONGEST + 4096).contains(&most), "{most}");
}
