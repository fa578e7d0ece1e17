//! The `Date` header (RFC 9110 § 6.6.1), made once a second and thread.

use std::cell::{RefCell, RefMut};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// What stands before the value, and behind it.
const NAME: &str = "date: ";
const END: &str = "\r\n";

/// What was written last.
#[derive(Debug, Default)]
pub(crate) struct Date(RefCell<(u64, Vec<u8>)>);

impl Date {
    /// Writes the whole line.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.line());
    }

    /// The value alone.
    pub(crate) fn value(&self) -> HeaderValue {
        let line = self.line();
        let value = line.get(NAME.len()..line.len() - END.len()).unwrap_or_default();
        HeaderValue::from_bytes(value).unwrap_or(HeaderValue::from_static(""))
    }

    fn line(&self) -> RefMut<'_, [u8]> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last = self.0.borrow_mut();
        if last.0 != now || last.1.is_empty() {
            let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            *last = (now, format!("{NAME}{text}{END}").into_bytes());
        }
        RefMut::map(last, |last| last.1.as_mut_slice())
    }
}
