//! Every flood ends, with ENHANCE_YOUR_CALM, and is counted.

use std::sync::atomic::Ordering;

use super::*;

/// Sends `begin`, then a piece again and again until the edge has enough.
fn flood(name: &str, begin: &[u8], piece: impl Fn(u32) -> Vec<u8>) {
    simulate(async {
        let edge = fixed(100);
        let client = raw(&edge.local);
        let (mut reader, mut writer) = tokio::io::split(client.pipe);
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, b""), begin].concat();
        let pieces: Vec<Vec<u8>> = (0..30_000).map(piece).collect();
        tokio::task::spawn_local(async move {
            writer.write_all(&begin).await.ok();
            for piece in pieces {
                if writer.write_all(&piece).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.ok();
        let mut rest = &bytes[..];
        let mut last = None;
        while let Some(length) = rest.first_chunk::<3>() {
            let size = HEAD + u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
            last = Some(rest[..size].to_vec());
            rest = &rest[size..];
        }
        let last = last.unwrap();
        assert_eq!((last[3], &last[13..17]), (GOAWAY, &number(Code::Calm as u32)[..]), "{name}");
        assert_eq!(edge.local.shared.flooded.load(Ordering::Relaxed), 1, "{name}");
    });
}

#[test]
fn frames_that_carry_nothing() {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    flood("PING", b"", |_| frame(PING, 0, 0, &[0; 8]));
    flood("PING answers", b"", |_| frame(PING, ACK, 0, &[0; 8]));
    flood("SETTINGS", b"", |_| frame(SETTINGS, 0, 0, b""));
    flood("SETTINGS answers", b"", |_| frame(SETTINGS, ACK, 0, b""));
    flood("PRIORITY", b"", |_| frame(PRIORITY, 0, 1, &[0; 5]));
    flood("WINDOW_UPDATE", b"", |_| frame(WINDOW, 0, 0, &number(1)));
    flood("WINDOW_UPDATE of a stream", &open, |_| frame(WINDOW, 0, 1, &number(1)));
    flood("empty DATA", &open, |_| frame(DATA, 0, 1, b""));
    flood("padding", &open, |_| frame(DATA, 8, 1, b"\x02\0\0"));
    flood("unknown frames", b"", |_| frame(0xee, 0, 0, b"x"));
}

#[test]
fn what_is_no_request_again_and_again_however_slowly_it_is_read() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        client.send(&frame(WINDOW, 0, 0, &number(1 << 24))).await;
        let ended = async {
            for nth in 0..1_000 {
                client.send(&frame(HEADERS, WHOLE, 2 * nth + 1, b"\x82")).await;
                let (kind, code) = client.fault().await;
                if kind == GOAWAY {
                    return code;
                }
            }
            panic!("it goes on")
        };
        assert_eq!(ended.await, Code::Calm as u32);
    });
}

#[test]
fn heads_without_end() {
    let first = frame(HEADERS, END_STREAM, 1, GET);
    flood("CONTINUATION", &first, |_| frame(CONTINUATION, 0, 1, &[0x82; 1000]));
    flood("empty CONTINUATION", &first, |_| frame(CONTINUATION, 0, 1, b""));
}

#[test]
fn requests_that_are_taken_back() {
    let id = |nth: u32| 2 * nth + 1;
    flood("rapid reset", b"", |nth| {
        let head = frame(HEADERS, WHOLE, id(nth), GET);
        [head, frame(RESET, 0, id(nth), &number(8))].concat()
    });
    flood("made you reset", b"", |nth| {
        let head = frame(HEADERS, END_HEADERS, id(nth), POST);
        [head, frame(WINDOW, 0, id(nth), &number(0))].concat()
    });
    flood("malformed", b"", |nth| frame(HEADERS, WHOLE, id(nth), b"\x82"));
    let nothing = frame(SETTINGS, 0, 0, &setting(4, 0));
    flood("more than may be", &nothing, |nth| frame(HEADERS, WHOLE, id(nth), GET));
    let mut bomb = [GET, &[0x40, 1, b'x', 0x7f, 0xa1, 0x1e]].concat();
    bomb.extend(vec![b'y'; 4_000]);
    bomb.extend(vec![0xbe; 100]);
    flood("HPACK", b"", |nth| {
        if nth > 1_000 { Vec::new() } else { frame(HEADERS, WHOLE, id(nth), &bomb) }
    });
}
