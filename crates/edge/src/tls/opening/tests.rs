//! Hellos in pieces: of the socket's making, and of the client's.

use super::super::fuzz::accepted;
use super::super::misnamed::tests::{hello, list, named};
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
        // Within the two bytes of the number, too, and within the message's own header.
        for size in [size, 52, 5, 4, 3, 2, 1] {
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
    let long = [&[CLIENT_HELLO, 1, 0, 0][..], &vec![0; 0x10000]].concat();
    let idle = [CHANGE_CIPHER_SPEC, 3, 3, 0, 1, 1].repeat(5000);
    for (why, sent) in [
        ("records of nothing", [HANDSHAKE, 3, 1, 0, 0].repeat(5000)),
        (
            "nothing in its third record",
            [&records(&bad[..18], 9)[..], &[HANDSHAKE, 3, 1, 0, 0], &records(&bad[18..], 9)]
                .concat(),
        ),
        ("too long", records(&long, 16 << 10)),
        ("too long, said in three records", records(&long, 2)),
        ("more in its record", records(&[&bad[..], &[0]].concat(), 16 << 10)),
        ("more in its last record", records(&[&bad[..], &[0]].concat(), 50)),
        (
            "a record that is longer",
            [HANDSHAKE, 3, 1, 1, 0].into_iter().chain(bad.clone()).collect(),
        ),
        ("no hello", b"GET / HTTP/1.1\r\n\r\n".repeat(5000)),
        ("another message", records(&[&[2][..], &bad[1..]].concat(), 16 << 10)),
        ("another record", [&[21, 3, 3, 0, 2, 2, 40][..], &records(&bad, 16 << 10)].concat()),
        ("what means nothing, without end", idle),
        (
            "what means nothing, and more",
            [&[20, 3, 3, 0, 2, 1, 1][..], &records(&bad, 99)].concat(),
        ),
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
    for (size, length) in [(5000, 0xff00), (1, 0x2000)] {
        let hello = [&[CLIENT_HELLO, 0, (length >> 8) as u8, 0][..], &vec![0; length - 1]].concat();
        let sent = records(&hello, size);
        assert!((MOST / 4 * 3..MOST).contains(&sent.len()), "{}", sent.len());
        let mut opening = Opening::new();
        let (all, most) = read(&mut opening, &sent, 1);
        assert_eq!(all, sent);
        assert!((sent.len()..MOST / 4 * 5).contains(&most), "{most}");
    }
}

/// A hello that rustls takes if it takes the name.
fn long(name: &[u8], padding: usize) -> Vec<u8> {
    let signed = (13, vec![0, 2, 4, 3]);
    hello(&[signed, (21, vec![0; padding]), (0, list(&[(0, name)])), (43, vec![2, 3, 4])])
}

#[test]
fn a_hello_is_looked_into_wherever_rustls_would_take_it() {
    // What goes in at most: so many records of such a size, and what is left of the last one.
    let fill = |size: usize| {
        let (whole, rest) = (MOST / (RECORD + size), MOST % (RECORD + size));
        whole * size + rest.saturating_sub(RECORD)
    };
    let bare = long(b"a.example", 0).len();
    for size in [1, 2, 3, 4, 5, 50, 1000, 16_000] {
        for (padding, is_taken) in
            [(0, true), (fill(size) - bare, true), (fill(size) - bare + 1, false)]
        {
            let good = accepted(&records(&long(b"a.example", padding), size));
            assert_eq!(good.is_ok_and(|taken| taken.is_some()), is_taken, "{size}, {padding}");
            let sent = records(&long(b"a.exam:le", padding), size);
            for piece in [sent.len(), 1000] {
                let mut opening = Opening::new();
                let (all, _) = read(&mut opening, &sent, piece);
                assert_eq!(opening.misnamed().is_some(), is_taken, "{size}, {padding}");
                assert_eq!(all == sent, !is_taken, "{size}, {padding}");
                let read = accepted(&all);
                let named = read
                    .map(|taken| taken.map(|taken| taken.client_hello().server_name().is_some()));
                assert_eq!(named == Ok(Some(false)), is_taken, "{size}, {padding}");
            }
        }
    }
}
