//! Which hellos are changed, and that nothing else of them is.

use super::*;

/// A list of names (RFC 6066 § 3).
pub(crate) fn list(names: &[(u8, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (kind, name) in names {
        all.push(*kind);
        all.extend((name.len() as u16).to_be_bytes());
        all.extend_from_slice(name);
    }
    [&(all.len() as u16).to_be_bytes()[..], &all].concat()
}

/// A hello with these extensions.
pub(crate) fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut all = Vec::new();
    for (kind, holds) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend((holds.len() as u16).to_be_bytes());
        all.extend_from_slice(holds);
    }
    body.extend((all.len() as u16).to_be_bytes());
    body.extend(all);
    [&[CLIENT_HELLO, 0, (body.len() >> 8) as u8, body.len() as u8][..], &body].concat()
}

/// One that asks for such a name, between extensions that nobody knows.
pub(crate) fn named(name: &[u8]) -> Vec<u8> {
    hello(&[(0x0a0a, vec![]), (0, list(&[(0, name)])), (0x2a2a, vec![0]), (43, vec![2, 3, 4])])
}

#[test]
fn a_name_that_is_none_is_taken_out_of_sight_and_nothing_else_changes() {
    let long = [b'a'; 300];
    for name in [&b"a.example:443"[..], b"[a.example]", b"a b", b"a..b", b"\0", b"\xff\xfe", &long]
    {
        let sent = named(name);
        let mut read = sent.clone();
        let misnamed = Misnamed::hide(&mut read, None).unwrap();
        let changed: Vec<usize> = (0..sent.len()).filter(|at| sent[*at] != read[*at]).collect();
        // The first number that nobody knows and this client does not send.
        assert_eq!(
            (&changed[..], &read[changed[0]..changed[0] + 2]),
            (&[51, 52][..], &[0x1a, 0x1a][..])
        );
        assert_eq!(misnamed.sent(&read).unwrap().concat(), sent);
        for short in [53, 70, read.len() - 1] {
            assert_eq!(misnamed.sent(&read[..short]).unwrap().concat(), &sent[..short]);
        }
        // What is something else stays what it is.
        let mut other = read.clone();
        other[20] ^= 1;
        assert!(misnamed.sent(&other).is_none() && misnamed.sent(&sent).is_none());
        assert!(misnamed.sent(&[&read[..], &[0]].concat()).is_none());
        assert!(misnamed.sent(b"").is_none());
        assert!(Misnamed::hide(&mut read, None).is_none(), "once");
    }
}

#[test]
fn what_is_no_single_name_or_a_good_one_is_left_to_rustls() {
    let bad = list(&[(0, b"a:1")]);
    let greased = |nth: u16| (0x0a0a + nth * 0x1010, vec![]);
    let mut all_taken: Vec<_> = (0..16).map(greased).collect();
    all_taken.push((0, bad.clone()));
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    for (why, mut sent) in [
        ("a name", named(b"a.example")),
        ("an address", named(b"127.0.0.1")),
        ("another address", named(b"::1")),
        ("nothing", named(b"")),
        ("none", hello(&[(43, vec![2, 3, 4])])),
        ("no extension", hello(&[])),
        ("two names", hello(&[(0, list(&[(0, b"a:1"), (0, b"b.example")]))])),
        ("two names, the good one first", hello(&[(0, list(&[(0, b"b.example"), (0, b"a:1")]))])),
        ("a name of another kind", hello(&[(0, list(&[(1, b"a:1")]))])),
        ("one of another kind behind", hello(&[(0, list(&[(0, b"a:1"), (1, b"x")]))])),
        ("two extensions", hello(&[(0, bad.clone()), (0, list(&[(0, b"b.example")]))])),
        ("two bad ones", hello(&[(0, bad.clone()), (0, bad.clone())])),
        ("more behind the list", hello(&[(0, [&bad[..], &[0]].concat())])),
        ("less than the list says", hello(&[(0, cut(bad.clone()))])),
        ("no list", hello(&[(0, vec![])])),
        ("every number taken", hello(&all_taken)),
        ("a hello that is cut off", cut(named(b"a:1"))),
        ("more behind the hello", [named(b"a:1"), vec![0]].concat()),
        ("another message", [&[2][..], &named(b"a:1")[1..]].concat()),
    ] {
        let before = sent.clone();
        assert!(Misnamed::hide(&mut sent, None).is_none(), "{why}");
        assert_eq!(sent, before, "{why}");
    }
    all_taken.remove(3);
    assert!(Misnamed::hide(&mut hello(&all_taken), None).is_some(), "one number left");
}

#[test]
fn a_second_hello_has_to_repeat_what_the_first_one_asked_for() {
    let first = Misnamed::hide(&mut named(b"a:1"), None).unwrap();
    let again = hello(&[(51, vec![0]), (0, list(&[(0, b"a:1")]))]);
    assert!(Misnamed::hide(&mut again.clone(), Some(&first)).is_some());
    for other in [&b"a:2"[..], b"a:11", b"b.example"] {
        assert!(Misnamed::hide(&mut named(other), Some(&first)).is_none());
    }
}
