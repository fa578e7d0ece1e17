//! What must hold of any page on its way.

use super::nonce::Page;
use super::{Step, nonce, tests};

fn through(pieces: &[&[u8]]) -> Option<Vec<u8>> {
    let (mut step, mut out): (Box<dyn Step>, Vec<u8>) = (nonce::nonce("N", Page::Html), Vec::new());
    for piece in pieces {
        step.push(piece, &mut out).ok()?;
        step.flush(&mut out).ok()?;
    }
    step.end(&mut out).ok()?;
    Some(out)
}

/// Outside of foreign content the same tags are found as `lol_html` finds.
fn agrees(input: &[u8], size: usize) {
    let lower = input.to_ascii_lowercase();
    let has = |word: &[u8]| memchr::memmem::find(&lower, word).is_some();
    // Their content is `lol_html`'s; what these change needs the tree.
    if has(b"<svg") || has(b"<math") || has(b"<select") || has(b"<frameset") {
        return;
    }
    // Behind a tag whose last value is missing (`<title a=>`) it forgets that what follows is text (HTML § 13.2.5.35 goes on in
    // whichever state the tree has set).
    let mut behind = lower.split(|byte| *byte == b'=').skip(1);
    if behind.any(|rest| rest.trim_ascii_start().first().is_none_or(|byte| *byte == b'>')) {
        return;
    }
    let (mut found, is_in_tag) = tests::ours(input, size);
    let Some(theirs) = tests::elements(input) else { return };
    if is_in_tag && found.len() == theirs.len() + 1 {
        found.pop();
    }
    assert_eq!(found, theirs, "another one sees other tags");
}

/// However it is cut it becomes the same; nothing is lost or made up but nonces.
pub(crate) fn html(input: &[u8], cut: usize) {
    let whole = through(&[input]);
    let (one, two) = input.split_at(cut);
    assert_eq!(through(&[one, two]), whole, "it depends on where it is cut");
    agrees(input, cut.max(1));
    let Some(out) = whole else { return };
    // Without a nonce of its own, and in valid text, taking ours away gives the page back.
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.to_ascii_lowercase().contains("nonce") || text.contains('\0') {
        return;
    }
    let out = String::from_utf8(out).unwrap();
    let tags =
        ["script", "style", "link"].map(|tag| text.to_ascii_lowercase().matches(tag).count());
    assert!(out.matches(" nonce=\"N\"").count() <= tags.iter().sum::<usize>());
    if tags == [0; 3] {
        assert_eq!(out, text, "a page without scripts was changed");
    }
    let letters = |text: &str| {
        text.chars().filter(|c| c.is_alphanumeric() && c.is_lowercase()).collect::<String>()
    };
    assert_eq!(letters(&out.replace(" nonce=\"N\"", "")), letters(text));
}
