//! The examples of RFC 7541 appendix C, and what must hold of any fields.

use http::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

type Pairs = Vec<(String, String)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter_map(|digit| char::from(digit).to_digit(16))
        .map(|one| one as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn text(entry: &Entry) -> (String, String) {
    let name = match &entry.name {
        Name::Pseudo(pseudo) => format!(":{}", format!("{pseudo:?}").to_lowercase()),
        Name::Header(name, _) => name.to_string(),
        Name::Wrong => "wrong".to_owned(),
    };
    let value = match &entry.value {
        Value::Raw(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Header(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        Value::Wrong => "wrong".to_owned(),
    };
    (name, value)
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Pairs, Broken> {
    let mut all = Vec::new();
    decoder.decode(block, |entry| all.push(text(&entry)))?;
    Ok(all)
}

fn pairs(all: &[(&str, &str)]) -> Pairs {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const FIRST: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];

/// C.3 and C.4: three requests on one connection, plain and coded, and how large the table is by then.
#[test]
fn the_requests_of_appendix_c_are_read() {
    let blocks = [
        (["828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff"], 57),
        (["828684be58086e6f2d6361636865", "828684be5886a8eb10649cbf"], 110),
        (
            [
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            164,
        ),
    ];
    let expected = [
        pairs(&FIRST),
        [pairs(&FIRST), pairs(&[("cache-control", "no-cache")])].concat(),
        pairs(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ]),
    ];
    for way in 0..2 {
        let mut decoder = Decoder::new();
        for ((block, size), expected) in blocks.iter().zip(&expected) {
            assert_eq!(decode(&mut decoder, &hex(block[way])).as_ref(), Ok(expected));
            assert_eq!(decoder.size(), *size);
        }
    }
}

/// C.6: coded responses, in a table of 256 bytes.
#[test]
fn the_responses_of_appendix_c_are_read_and_what_does_not_fit_is_forgotten() {
    let mut decoder = Decoder::new();
    let mut block = vec![0x3f, 0xe1, 0x01];
    block.extend(hex(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    ));
    let date = "Mon, 21 Oct 2013 20:13:21 GMT";
    let place = "https://www.example.com";
    let all = |status: &'static str| {
        pairs(&[
            (":other", status),
            ("cache-control", "private"),
            ("date", date),
            ("location", place),
        ])
    };
    assert_eq!(decode(&mut decoder, &block), Ok(all("302")));
    assert_eq!(decoder.size(), 222);
    assert_eq!(decode(&mut decoder, &hex("4883640effc1c0bf")), Ok(all("307")));
    assert_eq!(decoder.size(), 222);
    let third = hex(
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    );
    let read = decode(&mut decoder, &third).unwrap();
    assert_eq!(read[2].1, "Mon, 21 Oct 2013 20:13:22 GMT");
    assert_eq!(read[5].1, "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
    assert_eq!(decoder.size(), 215);
}

#[test]
fn what_cannot_be_decoded_says_why() {
    for (block, cause) in [
        (&[0x80][..], "no field has that index"),
        (&[0xbe], "no field has that index"),
        (&[0x40], "a block ends within a field"),
        (&[0x00, 0x05, b'a'], "a block ends within a field"),
        (&[0x3f, 0xe2, 0x1f], "a table is larger than was allowed"),
        (&[0x82, 0x20], "a table is resized within a block"),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f], "a number is too large"),
        (&[0x00, 0x81, 0xff, 0x00], "a string is padded wrongly"),
    ] {
        assert_eq!(decode(&mut Decoder::new(), block), Err(Broken(cause)), "{block:x?}");
    }
}

#[test]
fn a_field_that_http_does_not_allow_is_marked_and_breaks_no_table() {
    let mut decoder = Decoder::new();
    let literal = |name: &str, value: &str| {
        let mut block = vec![0x40, name.len() as u8];
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
        block
    };
    for (name, value, expected) in [
        ("Upper", "x", ("wrong", "wrong")),
        ("with space", "x", ("wrong", "wrong")),
        ("", "x", ("wrong", "wrong")),
        ("x", " x", ("x", "wrong")),
        ("x", "x\t", ("x", "wrong")),
        ("x", "a\nb", ("x", "wrong")),
        ("x", "", ("x", "")),
        (":made-up", "x", (":other", "x")),
    ] {
        let expected = Ok(pairs(&[expected]));
        assert_eq!(decode(&mut decoder, &literal(name, value)), expected);
        assert_eq!(decode(&mut decoder, &[0xbe]), expected);
    }
    // The name of a wrong value is as good as any.
    decode(&mut decoder, &literal("y", " ")).unwrap();
    assert_eq!(decode(&mut decoder, &[0x7e, 1, b'z']), Ok(pairs(&[("y", "z")])));
}

fn encode(encoder: &mut Encoder, fields: &[(String, String, bool)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value, sensitive) in fields {
        let mut value = HeaderValue::from_str(value).unwrap();
        value.set_sensitive(*sensitive);
        encoder.field(&mut out, &HeaderName::from_bytes(name.as_bytes()).unwrap(), &value);
    }
    out
}

#[test]
fn a_name_of_the_static_table_is_sent_as_its_index() {
    for (nth, (name, _)) in table::FIXED.iter().enumerate().skip(14) {
        let fields = [((*name).to_owned(), "secret".to_owned(), true)];
        let block = encode(&mut Encoder::new(), &fields);
        assert_eq!(block[..2], [0x1f, nth as u8 - 14]);
        assert_eq!(decode(&mut Decoder::new(), &block), Ok(pairs(&[(name, "secret")])));
    }
}

#[test]
fn what_recurs_is_a_byte_and_what_is_secret_or_another_each_time_is_not_remembered() {
    let mut encoder = Encoder::new();
    let field = |name: &str, value: &str, secret| vec![(name.to_owned(), value.to_owned(), secret)];
    let kind = field("content-type", "text/html; charset=utf-8", false);
    assert!(encode(&mut encoder, &kind).len() > 10);
    assert_eq!(encode(&mut encoder, &kind), [0xbe]);
    let secret = field("x-request-id", "0123", true);
    for _ in 0..2 {
        let block = encode(&mut encoder, &secret);
        assert!(block[0] == 0x10 && block.ends_with(b"0123"), "{block:x?}");
    }
    for nth in 0..100 {
        encode(&mut encoder, &field("x-runtime", &format!("0.{nth:09}"), false));
    }
    assert_eq!(encode(&mut encoder, &kind).len(), 1, "what varies pushed it out");
    // A smaller table is said before it is used.
    encoder.resize(100);
    assert_eq!(encode(&mut encoder, &kind)[..3], [0x20, 0x3f, 69]);
    assert_eq!(encode(&mut encoder, &kind), [0xbe]);
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        blocks in prop::collection::vec(
            prop::collection::vec(("[a-c]{1,2}|date|server|vary", "[!-~]{0,40}|[a-b]", any::<bool>()), 0..12),
            1..12,
        ),
        sizes in prop::collection::vec(prop::option::weighted(0.2, 0usize..5000), 12),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (fields, size) in blocks.iter().zip(sizes) {
            if let Some(size) = size {
                encoder.resize(size);
            }
            let block = encode(&mut encoder, fields);
            let expected: Pairs =
                fields.iter().map(|(name, value, _)| (name.clone(), value.clone())).collect();
            prop_assert_eq!(decode(&mut decoder, &block), Ok(expected));
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_the_table_too_large(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
    ) {
        let mut decoder = Decoder::new();
        for block in blocks {
            decode(&mut decoder, &block).ok();
            prop_assert!(decoder.size() <= TABLE);
        }
    }
}
