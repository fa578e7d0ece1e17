//! The targets, and what must hold for any input.

use std::net::SocketAddr;

use super::Inputs;
use crate::route::{CanonicalPath, canonical_host};

#[test]
fn request_head() {
    let words: &[&[u8]] = &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b": ",
        b" ",
        b"\t",
        b"Content-Length: 5\r\n",
        b"Content-Length: 6\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: a\r\n",
        b"Connection: close\r\n",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"Expect: 100-continue\r\n",
        b"GET ",
        b"http://",
        b"0\r\n\r\n",
    ];
    let mut inputs = Inputs::of("request_head", words);
    while let Some(input) = inputs.next() {
        crate::h1::fuzz::head(input);
    }
}

#[test]
fn path() {
    let words: &[&[u8]] = &[
        b"/", b"//", b"/../", b"/./", b"%2e", b"%2f", b"%5c", b"%00", b"%25", b"%252e", b";",
        b";x=1", b"\\", b"?", b"#", b"%c3%a9", b"%c0%af", b"%41", b"%", b"..;",
    ];
    let mut inputs = Inputs::of("path", words);
    while let Some(input) = inputs.next() {
        let Ok(text) = std::str::from_utf8(input) else { continue };
        let (host, _) = text.split_once('/').unwrap_or((text, ""));
        if let Ok(host) = canonical_host(host.as_bytes()) {
            assert_eq!(canonical_host(host.as_bytes()).as_deref(), Ok(host.as_str()));
        }
        let Ok(path) = CanonicalPath::parse(text) else { continue };
        let (spelt, decoded) = (path.as_str(), path.decoded());
        assert_eq!(CanonicalPath::parse(spelt).as_ref(), Ok(&path), "it is not canonical");
        assert!(spelt.bytes().all(|byte| byte.is_ascii_graphic()) && spelt.starts_with('/'));
        assert!(!decoded.contains(['\\', '\0']) && !decoded.chars().any(|c| c.is_ascii_control()));
        let segments = |text: &str| text.matches('/').count();
        assert_eq!(segments(decoded), segments(spelt), "decoding made a separator");
        let other = path.other_reading();
        for reading in [Some(decoded), other.as_deref()].into_iter().flatten() {
            let dots = reading.split('/').any(|one| matches!(one, "." | ".."));
            assert!(!dots && !reading.starts_with("//"), "{reading}");
        }
        // Decoded once more it still names no other folder.
        let twice = percent_encoding::percent_decode_str(decoded).collect::<Vec<u8>>();
        assert_eq!(memchr::memchr_iter(b'/', &twice).count(), segments(decoded));
    }
}

#[test]
fn html() {
    let words: &[&[u8]] = &[
        b"<script>",
        b"<script",
        b"</script>",
        b"<style>",
        b"<!--",
        b"-->",
        b"<textarea>",
        b" nonce=x",
        b" src='",
        b"<![CDATA[",
        b"]]>",
        b"<svg>",
        b"<math>",
        b"\"",
        b">",
        b"<link rel=stylesheet>",
        b"<noscript>",
        b"<template>",
        b"<plaintext>",
        b"\0",
        b"\xc3",
        b"=",
    ];
    let mut inputs = Inputs::of("html", words);
    while let Some(input) = inputs.next() {
        let input = input.to_vec();
        let cut = inputs.below(input.len());
        crate::shape::fuzz::html(&input, cut);
    }
}

#[test]
fn cache_key() {
    let words: &[&[u8]] = &[
        b"\n",
        b"a.example",
        b"/x",
        b"?",
        b"de",
        b"en",
        b",",
        b";q=0",
        b"gzip",
        b"*",
        b"https",
        b" ",
        b"identity",
    ];
    let mut inputs = Inputs::of("cache_key", words);
    let mut before: Vec<u8> = Vec::new();
    while let Some(input) = inputs.next() {
        crate::cache::fuzz::key(&before, input);
        before = input.to_vec();
    }
}

#[test]
fn proxy_header() {
    let words: &[&[u8]] = &[
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"192.0.2.7 ",
        b"2001:db8::1 ",
        b"65536",
        b"\x21\x11\0\x0c",
        b"\x20\0\0\0",
        b"GET / HTTP/1.1\r\n",
    ];
    let mut inputs = Inputs::of("proxy_header", words);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    while let Some(input) = inputs.next() {
        let mut left = input;
        let read: Result<Option<SocketAddr>, _> =
            runtime.block_on(crate::proxy_header::read(&mut left));
        let taken = &input[..input.len() - left.len()];
        let Ok(found) = read else { continue };
        // Just the header, and nothing of what follows.
        if taken.starts_with(b"PROXY ") {
            assert!(taken.ends_with(b"\r\n") && taken.len() <= 107);
            let text = std::str::from_utf8(taken).unwrap().trim_end();
            let source = text.split(' ').nth(2);
            if let Some(found) = found {
                assert_eq!(source.unwrap().parse(), Ok(found.ip()));
            }
        } else {
            let length = usize::from(u16::from_be_bytes([taken[14], taken[15]]));
            assert_eq!(taken.len(), 16 + length);
        }
        let mut again = taken;
        assert_eq!(runtime.block_on(crate::proxy_header::read(&mut again)), read);
    }
}

#[test]
fn http2() {
    let words: &[&[u8]] = &[
        b"\0\0\x10\x01\x05\0\0\0\x01",
        b"\0\0\x05\x09\x04\0\0\0\x01",
        b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",
        b"\0\0\0\x04\0\0\0\0\0",
        b"\x82\x87\x84",
        b"\x01\x09a.example",
        b"\x40\x01x\x01y",
        b"\xbe",
        b"\x3f\xe1\x1f",
        b"\x20",
        b"\xff\xff\xff\xff\x0f",
        b"\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"content-length",
        b"host",
        b"te",
    ];
    let mut inputs = Inputs::of("http2", words);
    while let Some(input) = inputs.next() {
        let input = input.to_vec();
        let cut = inputs.below(input.len());
        crate::h2::fuzz::frames(&input, cut);
    }
}

#[test]
fn client_hello() {
    let words: &[&[u8]] = &[
        b"\0\0",
        b"\0\x0d\0\x0b\0\0\x08a.b:8443",
        b"\0\0\0\x08\0\x06\0\0\x03a:1",
        b"\0\0\0\x0e\0\x0c\0\0\x09a.example",
        b"a.example:443",
        b"127.0.0.1",
        b":",
        b"\x0a\x0a\0\0",
        b"\x1a\x1a\0\0",
        b"\x14\x03\x03\0\x01\x01",
        b"\x16\x03\x01\0\x04",
        b"\x16\x03\x01",
        b"\0\x2b\0\x03\x02\x03\x04",
    ];
    let mut inputs = Inputs::of("client_hello", words);
    while let Some(input) = inputs.next() {
        let input = input.to_vec();
        let cut = inputs.below(input.len());
        crate::tls::fuzz::client_hello(&input, cut);
    }
}
