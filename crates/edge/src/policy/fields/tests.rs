//! Ways to write a request that some application reads, each found or refused.

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use proptest::prelude::*;

use super::*;

fn read(kind: &str, query: &str, body: &[u8], key: Key) -> Result<Vec<String>, u16> {
    let mut headers = HeaderMap::new();
    if !kind.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
    }
    let read = Fields::read(&headers, Some(query), body, std::slice::from_ref(&key));
    read.map(|fields| fields.values(&key).to_vec()).map_err(|one| one.status.as_u16())
}

fn email(kind: &str, body: &[u8]) -> Result<Vec<String>, u16> {
    let found = read(kind, "", body, Key::Json("email".to_owned()));
    // Both words of the manifest mean the same field.
    assert_eq!(read(kind, "", body, Key::Form("Email".to_owned())), found);
    found
}

fn ok(values: &[&str]) -> Result<Vec<String>, u16> {
    Ok(values.iter().map(|value| (*value).to_owned()).collect())
}

const URLENCODED: &str = "application/x-www-form-urlencoded";

#[test]
fn a_json_field_is_found_at_any_depth_and_each_time() {
    for (body, expected) in [
        (r#"{"email":"a","password":"x"}"#, ok(&["a"])),
        (r#"{"json":{"email":"a"}}"#, ok(&["a"])),
        (r#"[{"email":"a"},{"email":"b"}]"#, ok(&["a", "b"])),
        (r#"{"email":"a","email":"b"}"#, ok(&["a", "b"])),
        (r#"{"em\u0061il":"\u0061"}"#, ok(&["a"])),
        // As Go, Jackson and Json.NET read names.
        (r#"{"EMAIL":"a","eMa\u0131l":"b"}"#, ok(&["a", "b"])),
        (r#"{"email":5}"#, ok(&["5"])),
        (r#"{"email":5.0}"#, ok(&["5"])),
        (r#"{"email":50e-1}"#, ok(&["5"])),
        (r#"{"email":["a","b"]}"#, ok(&["a", "b"])),
        (r#"{"email":{"$eq":"a"}}"#, ok(&["a"])),
        ("\u{feff} {\"email\":\"a\"}\r\n", ok(&["a"])),
        (r#"{"email":null}"#, ok(&[])),
        ("", ok(&[])),
    ] {
        for kind in
            ["application/json", "text/plain", "", "application/problem+json; charset=utf-8"]
        {
            assert_eq!(email(kind, body.as_bytes()), expected, "{kind}: {body}");
        }
    }
    let nested = Key::Json("user.email".to_owned());
    let body = br#"{"email":"no","user":{"email":"yes"},"x":{"user":{"email":"too"}}}"#;
    assert_eq!(read("application/json", "", body, nested.clone()), ok(&["yes", "too"]));
    assert_eq!(read(URLENCODED, "", b"email=no&user[email]=yes", nested), ok(&["yes"]));
}

#[test]
fn json_that_only_some_programs_take_is_refused() {
    let deep = format!("{{\"x\":{}{},\"email\":\"a\"}}", "[".repeat(200), "]".repeat(200));
    for body in [
        deep.as_str(),
        r#"{"x":NaN,"email":"a"}"#,
        r#"{"x":1e999,"email":"a"}"#,
        r#"{"x":"\ud800","email":"a"}"#,
        r#"{"x":1,/**/"email":"a"}"#,
        r#"/**/{"email":"a"}"#,
        r"{'email':'a'}",
        r#"{"email":"a""#,
        r#"{"x":1}{"email":"a"}"#,
        "{\"x\":\"\n\",\"email\":\"a\"}",
    ] {
        for kind in ["application/json", "text/plain", URLENCODED] {
            assert_eq!(email(kind, body.as_bytes()), Err(400), "{kind}: {body}");
        }
    }
    let utf16 = |order: fn(u16) -> [u8; 2], mark: &str| -> Vec<u8> {
        format!("{mark}{{\"email\":\"a\"}}").encode_utf16().flat_map(order).collect()
    };
    for body in [
        utf16(u16::to_le_bytes, ""),
        utf16(u16::to_be_bytes, ""),
        utf16(u16::to_le_bytes, "\u{feff}"),
        utf16(u16::to_be_bytes, "\u{feff}"),
        b"{\"x\":\"\xff\",\"email\":\"a\"}".to_vec(),
    ] {
        assert_eq!(email("application/json", &body), Err(400), "{body:?}");
        assert_eq!(email("", &body), Err(400), "{body:?}");
    }
    let batch = format!("[{}]", vec![r#"{"email":"a"}"#; 101].join(","));
    assert_eq!(email("application/json", batch.as_bytes()), Err(400));
}

#[test]
fn a_form_field_is_found_however_it_is_written() {
    for (body, expected) in [
        ("x=1&%65mail=a%40b+c&email=d", ok(&["a@b c", "d"])),
        ("email[]=a;EMAIL[0]=b&email[$eq]=c&email%00x=d", ok(&["a", "b", "c", "d"])),
        ("user[email]=a&user.email=b", ok(&["a", "b"])),
        ("emails=a&email", ok(&[])),
    ] {
        // A boundary makes no form in parts of it.
        for kind in [URLENCODED, "application/x-www-form-urlencoded; boundary=x", "text/plain", ""]
        {
            assert_eq!(email(kind, body.as_bytes()), expected, "{kind}: {body}");
        }
    }
    // What obeys the charset and what does not would read two accounts.
    let latin = "application/x-www-form-urlencoded; charset=ISO-8859-1";
    for (body, expected) in
        [("email=a", ok(&["a"])), ("email=%e4", Err(415)), ("email=%C3%A1", Err(415))]
    {
        assert_eq!(email(latin, body.as_bytes()), expected, "{body}");
    }
    // As PHP spells names.
    for body in ["user.name=a", "user+name=a", "user[name=a", "+user_name[]=a", "user_name=a"] {
        let key = Key::Form("user_name".to_owned());
        assert_eq!(read(URLENCODED, "", body.as_bytes(), key), ok(&["a"]), "{body}");
    }
    // Frameworks that mix query and body take the account from there, too.
    assert_eq!(
        read(URLENCODED, "a=1&Email=q", b"email=b", Key::Json("email".into())),
        ok(&["q", "b"])
    );
    assert_eq!(read("application/json", "email=q", b"{}", Key::Json("email".into())), ok(&["q"]));
    let many = "x=1&".repeat(1001);
    assert_eq!(email(URLENCODED, many.as_bytes()), Err(400));
}

/// A form of one part with these headers and value.
fn part(head: &str, value: &str) -> String {
    format!("--B\r\n{head}\r\n\r\n{value}\r\n--B--\r\n")
}

#[test]
fn a_form_in_parts_is_read_as_browsers_send_it_and_refused_otherwise() {
    let kind = "multipart/form-data; boundary=B";
    let name = "Content-Disposition: form-data; name=\"email\"";
    for (body, expected) in [
        (part(name, "a@b"), ok(&["a@b"])),
        (part(name, ""), ok(&[""])),
        (part("content-disposition: form-data; NAME=email", "a"), ok(&["a"])),
        (part(&format!("{name}; filename=\"x;y\"\r\nContent-Type: text/plain"), "a"), ok(&["a"])),
        (
            part(&format!("{name}\r\nContent-Length: 1\r\nContent-Transfer-Encoding: binary"), "a"),
            ok(&["a"]),
        ),
        (format!("--B\r\n{name}\r\n\r\na\r\n{}", part(name, "b")), ok(&["a", "b"])),
        (String::new(), ok(&[])),
        // What some readers would see, and others not.
        (part("Content-Disposition: form-data; x=\"; name=y\"; name=\"email\"", "a"), Err(415)),
        (part("Content-Disposition: form-data;\r\n name=\"email\"", "a"), Err(415)),
        (part("Content-Disposition: form-data; name=\"em\\ail\"", "a"), Err(415)),
        (part("Content-Disposition: form-data; name*=utf-8''email", "a"), Err(415)),
        (part("Content-Disposition: form-data; name=\"=?UTF-8?Q?email?=\"", "a"), Err(415)),
        (part("Content-Disposition: form-data; name=\"x\"; name=\"email\"", "a"), Err(415)),
        (part(&format!("{name}\r\nContent-Transfer-Encoding: base64"), "YQ=="), Err(415)),
        (part(&format!("{name}\r\nContent-Transfer-Encoding: quoted-printable"), "=61"), Err(415)),
        (part(&format!("{name}\r\nContent-Type: text/plain; charset=utf-16"), "a"), Err(415)),
        (part(&format!("{name}\r\nContent-Type: multipart/mixed; boundary=C"), "a"), Err(415)),
        (
            part("Content-Disposition: form-data; name=\"x\"", &format!("\n--B\n{name}\n\na")),
            Err(415),
        ),
        (part(name, "a").replace("\r\n", "\n"), Err(415)),
        (
            format!(
                "{{\"email\":\"a\"}}\r\n{}",
                part("Content-Disposition: form-data; name=\"x\"", "a")
            ),
            Err(415),
        ),
        (format!("{}email=a", part(name, "b")), Err(415)),
        ("--B\r\n".to_owned(), Err(415)),
        ("email=a".to_owned(), Err(415)),
    ] {
        let found = read(kind, "", body.as_bytes(), Key::Form("email".to_owned()));
        let refused_as_json = body.starts_with('{') && found == Err(400);
        assert!(found == expected || refused_as_json, "{body}\n{found:?}");
    }
    for kind in [
        "multipart/form-data",
        "multipart/form-data; boundary=B; boundary=C",
        "multipart/form-data; boundary*0=B",
        "multipart/mixed; boundary=B",
        "multipart/form-data; boundary=\"B",
        "multipart/form-data; xboundary=A; boundary=B",
        "multipart/form-data; x=\"boundary=A\"; boundary=B",
        "application/xml",
        "application/msgpack",
        "application/json, text/plain",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded; charset=ibm500",
        "application/x-www-form-urlencoded; charset=utf-8; charset=ibm037",
    ] {
        assert_eq!(email(kind, part(name, "a").as_bytes()), Err(415), "{kind}");
    }
    let mut headers = HeaderMap::new();
    headers.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.append(CONTENT_TYPE, HeaderValue::from_static(URLENCODED));
    assert!(Fields::read(&headers, None, b"", &[]).is_err());
    for kind in [
        "application/json;",
        "application/json;charset=UTF-8;",
        "multipart/form-data; boundary=\"B\"",
    ] {
        assert!(email(kind, b"").is_ok(), "{kind}");
    }
}

proptest! {
    #[test]
    fn no_body_makes_the_readers_panic(kind in "[ -~]{0,40}", query in "[ -~]{0,20}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for key in [Key::Json("a".into()), Key::Form("a".into())] {
            if let Ok(values) = read(&kind, &query, &body, key) {
                prop_assert!(values.len() <= MAX_VALUES);
            }
        }
    }

    /// However a form is cut into fields, its account is found by the name that stands there.
    #[test]
    fn a_form_in_parts_says_what_was_put_into_it(values in proptest::collection::vec("[a-z@ é\n]{0,12}", 1..5), boundary in "[A-Za-z0-9]{8,20}") {
        let mut body = String::new();
        for value in &values {
            body += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\n{value}\r\n");
        }
        body += &format!("--{boundary}--\r\n");
        let kind = format!("multipart/form-data; boundary={boundary}");
        prop_assert_eq!(read(&kind, "", body.as_bytes(), Key::Form("email".into())), Ok(values));
    }
}
