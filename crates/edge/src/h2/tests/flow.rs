//! Flow control, both ways.

use super::*;

async fn data(client: &mut Raw) -> Seen {
    client.find(&[DATA, RESET, GOAWAY]).await.unwrap()
}

#[test]
fn no_more_is_sent_than_the_windows_allow_and_a_smaller_one_may_go_below_zero() {
    simulate(async {
        let edge = fixed(100);
        let mut client = raw(&edge.local);
        client.begin(&setting(4, 10)).await;
        client.send(&frame(HEADERS, WHOLE, 1, GET)).await;
        assert_eq!(data(&mut client).await.payload.len(), 10);
        // Ten bytes are out: a window of four is six below nothing.
        client.send(&frame(SETTINGS, 0, 0, &setting(4, 4))).await;
        client.send(&frame(WINDOW, 0, 1, &number(6))).await;
        client.send(&frame(PING, 0, 0, b"12345678")).await;
        assert_eq!(client.find(&[DATA, PING]).await.unwrap().kind, PING);
        client.send(&frame(WINDOW, 0, 1, &number(1))).await;
        assert_eq!(data(&mut client).await.payload.len(), 1);
        client.send(&frame(SETTINGS, 0, 0, &setting(4, 24))).await;
        assert_eq!(data(&mut client).await.payload.len(), 20);
        client.send(&frame(WINDOW, 0, 1, &number(1000))).await;
        let last = data(&mut client).await;
        assert_eq!((last.payload.len(), last.flags), (69, END_STREAM));
    });
}

#[test]
fn the_window_of_the_connection_is_shared_and_streams_take_turns() {
    simulate(async {
        let edge = fixed(80_000);
        let mut client = raw(&edge.local);
        client.begin(&setting(4, 1 << 20)).await;
        client.send(&frame(HEADERS, WHOLE, 1, GET)).await;
        client.send(&frame(HEADERS, WHOLE, 3, GET)).await;
        let mut sent = [0; 2];
        while sent.iter().sum::<usize>() < 65_535 {
            let seen = data(&mut client).await;
            sent[seen.stream as usize / 2] += seen.payload.len();
        }
        assert!(sent.iter().all(|sent| *sent > 30_000), "{sent:?}");
        client.send(&frame(PING, 0, 0, b"12345678")).await;
        assert_eq!(client.find(&[DATA, PING]).await.unwrap().kind, PING);
        client.send(&frame(WINDOW, 0, 0, &number(1 << 20))).await;
        let mut ended = 0;
        while ended < 2 {
            ended += usize::from(data(&mut client).await.flags == END_STREAM);
        }
    });
}

#[test]
fn settings_may_not_make_a_window_too_large() {
    simulate(async {
        let edge = fixed(100);
        let mut client = raw(&edge.local);
        client.begin(&setting(4, 0)).await;
        client.send(&frame(HEADERS, WHOLE, 1, GET)).await;
        client.send(&frame(WINDOW, 0, 1, &number(0x7fff_ffff))).await;
        client.send(&frame(SETTINGS, 0, 0, &setting(4, 200))).await;
        assert_eq!(client.fault().await, (GOAWAY, Code::FlowControl as u32));
    });
}

#[test]
fn more_than_our_windows_is_a_fault_and_nobody_s_body_takes_the_others_window() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        let piece = vec![0; 16 << 10];
        // Nobody reads these bodies: the answer does not need them.
        for id in [1, 3, 5, 7, 9, 11] {
            client.send(&frame(HEADERS, END_HEADERS, id, POST)).await;
            for _ in 0..16 {
                client.send(&frame(DATA, 0, id, &piece)).await;
            }
        }
        client.send(&frame(DATA, 0, 11, b"x")).await;
        let fault = client.find(&[RESET, GOAWAY]).await.unwrap();
        assert_eq!((fault.kind, fault.stream, fault.code()), (RESET, 11, Code::FlowControl as u32));
    });
}

#[test]
fn a_request_that_goes_on_behind_its_answer_is_ended_kindly() {
    simulate(async {
        let edge = fixed(3);
        let mut client = raw(&edge.local);
        client.begin(b"").await;
        client.send(&frame(HEADERS, END_HEADERS, 1, POST)).await;
        assert_eq!(data(&mut client).await.flags, END_STREAM);
        assert_eq!(client.fault().await, (RESET, Code::None as u32));
        // What was under way by then harms nobody.
        client.send(&frame(DATA, 0, 1, b"late")).await;
        client.send(&frame(HEADERS, WHOLE, 3, GET)).await;
        let head = client.find(&[HEADERS, RESET, GOAWAY]).await.unwrap();
        assert_eq!(head.status, "200");
    });
}
