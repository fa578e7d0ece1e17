//! The check against a second, simpler reading of the same bytes, and against every way of cutting them.

use proptest::prelude::*;
use tokio::io::ReadBuf;

use super::*;

/// Hands out bytes in given pieces, then the end.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    sizes: Vec<usize>,
    next: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self
            .sizes
            .get(self.next % self.sizes.len().max(1))
            .copied()
            .unwrap_or(usize::MAX)
            .max(1);
        let end = self.bytes.len().min(self.at.saturating_add(size.min(out.remaining())));
        out.put_slice(&self.bytes[self.at..end]);
        (self.at, self.next) = (end, self.next + 1);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn wire<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Wire<S> {
    Wire::new(stream, &Rc::default(), Rc::default())
}

/// What was read as requests and bodies, and whether the rest was refused.
fn passed(bytes: &[u8], sizes: &[usize]) -> (Vec<u8>, bool) {
    let mut wire = wire(Pieces { bytes: bytes.to_vec(), at: 0, sizes: sizes.to_vec(), next: 0 });
    let mut context = Context::from_waker(std::task::Waker::noop());
    let taken = |wire: &Wire<Pieces>| wire.stream.at - wire.bytes.len();
    let mut out = Vec::new();
    loop {
        let before = taken(&wire);
        match wire.poll_request(&mut context) {
            Poll::Ready(Next::Request(_)) => {
                let read = &bytes[before..taken(&wire)];
                out.extend_from_slice(read.strip_prefix(b"\r\n").unwrap_or(read));
            }
            Poll::Ready(Next::Refused(_)) => return (out, true),
            Poll::Ready(Next::End) => return (out, false),
            Poll::Pending => panic!("this stream never waits"),
        }
        loop {
            let before = taken(&wire);
            // Nobody waits for a 100 here.
            wire.go_on = b"";
            let polled = wire.poll_data(&mut context);
            let read = &bytes[before..taken(&wire)];
            match polled {
                Poll::Ready(Some(Ok(_))) => out.extend_from_slice(read),
                Poll::Ready(None) => {
                    out.extend_from_slice(read);
                    break;
                }
                Poll::Ready(Some(Err(Bad::CutOff))) => {
                    out.extend_from_slice(read);
                    return (out, false);
                }
                Poll::Ready(Some(Err(Bad::Refused(_)))) => return (out, true),
                Poll::Pending => panic!("this stream never waits"),
            }
        }
    }
}

/// How many requests somebody lenient finds: lines may end in LF, sizes may have spaces, the last length
/// wins. Where this reader and ours agree on everything that passed, nobody is led astray.
fn lenient_count(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = lenient_head(bytes) {
        count += 1;
        let text = String::from_utf8_lossy(head).to_ascii_lowercase();
        let value = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .filter(|(key, _)| key.trim() == name)
                .map(|(_, value)| value.trim().to_owned())
                .next_back()
        };
        bytes = if value("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            lenient_chunks(rest)
        } else {
            let length: usize =
                value("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            &rest[length.min(rest.len())..]
        };
    }
    count
}

fn lenient_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let feed = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes[..feed].strip_suffix(b"\r").unwrap_or(&bytes[..feed]), &bytes[feed + 1..]))
}

fn lenient_head(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    let mut begun = false;
    while let Some((line, after)) = lenient_line(rest) {
        if line.is_empty() && begun {
            return Some((&bytes[..bytes.len() - after.len()], after));
        }
        begun |= !line.is_empty();
        rest = after;
    }
    None
}

fn lenient_chunks(mut bytes: &[u8]) -> &[u8] {
    while let Some((line, rest)) = lenient_line(bytes) {
        let digits =
            String::from_utf8_lossy(line.split(|byte| *byte == b';').next().unwrap_or_default())
                .trim()
                .to_owned();
        let Ok(size) = usize::from_str_radix(&digits, 16) else { return &[] };
        if size == 0 {
            bytes = rest;
            while let Some((line, rest)) = lenient_line(bytes) {
                bytes = rest;
                if line.is_empty() {
                    return bytes;
                }
            }
            return &[];
        }
        bytes = lenient_line(&rest[size.min(rest.len())..]).map_or(&[], |(_, rest)| rest);
    }
    &[]
}

/// How many requests we count in what passed.
fn strict_count(bytes: &[u8]) -> usize {
    let mut wire = wire(Pieces { bytes: bytes.to_vec(), at: 0, sizes: vec![], next: 0 });
    let mut context = Context::from_waker(std::task::Waker::noop());
    let mut count = 0;
    while let Poll::Ready(Next::Request(_)) = wire.poll_request(&mut context) {
        count += 1;
        wire.go_on = b"";
        while let Poll::Ready(Some(Ok(_))) = wire.poll_data(&mut context) {}
    }
    count
}

/// Pieces that smugglers put together.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "Host: a\r\n",
        "Host: a\r\n\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: 38\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "\r\n",
        "\n",
        "\r",
        " ",
        "\t",
        ":",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\n",
        "a;x=y\r\n",
        "hello",
        "X: y\r\n",
        "X: y\n",
        "\r\n\r\n",
        "Connection: close\r\n",
        "\0",
        "Expect: 100-continue\r\n",
        "1f\r\n",
        "GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    ]);
    let word = prop_oneof![12 => known.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..6)];
    prop::collection::vec(word, 0..14).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_passes_is_read_alike_by_somebody_lenient(bytes in words()) {
        let (out, _) = passed(&bytes, &[]);
        prop_assert_eq!(strict_count(&out), lenient_count(&out), "{:?}", String::from_utf8_lossy(&out));
    }

    #[test]
    fn how_the_bytes_are_cut_changes_nothing(bytes in words(), sizes in prop::collection::vec(1usize..40, 1..8)) {
        let ((whole, refused), (cut, also)) = (passed(&bytes, &[]), passed(&bytes, &sizes));
        prop_assert_eq!(refused, also);
        // Of a body that turns out bad, more or less may have been handed out by then; never other bytes.
        prop_assert!(whole == cut || (refused && (whole.starts_with(&cut) || cut.starts_with(&whole))));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), sizes in prop::collection::vec(1usize..9, 1..4)) {
        let (out, _) = passed(&bytes, &sizes);
        prop_assert!(out.len() <= bytes.len());
    }
}

#[test]
fn what_is_in_order_passes_as_it_is() {
    for bytes in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost:a\r\ncontent-length:5\r\n\r\nhelloGET http://a/x?y=%20 HTTP/1.1\r\nHost: a\r\nX:\r\nY: \u{e9}\tb \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n00\r\nX: y\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(passed(bytes.as_bytes(), &[]), (bytes.as_bytes().to_vec(), false), "{bytes}");
    }
}

#[test]
fn one_empty_line_before_a_request_is_dropped() {
    let (out, refused) = passed(
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        &[1],
    );
    assert_eq!(
        (String::from_utf8_lossy(&out).as_ref(), refused),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", false)
    );
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_refused_after_its_time() {
    let (mut client, edge) = tokio::io::duplex(1024);
    let watch = Rc::new(Watch::default());
    let mut wire = Wire::new(edge, &watch, Rc::default());
    tokio::io::AsyncWriteExt::write_all(&mut client, b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let begun = tokio::time::Instant::now();
    let next = tokio::select! {
        next = std::future::poll_fn(|context| wire.poll_request(context)) => next,
        () = watch.run() => unreachable!("it runs for ever"),
    };
    assert!(matches!(next, Next::Refused(refusal) if refusal == TOO_SLOW));
    let late = begun.elapsed().saturating_sub(HEAD_TIME);
    assert!(begun.elapsed() >= HEAD_TIME && late <= 2 * crate::watch::TICK, "{late:?}");
}
