//! test kit
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::exit, reason = "test code: a broken assumption is to end the test, loudly and on the spot")]
pub mod fakeapp;
