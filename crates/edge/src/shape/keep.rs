//! Copies a body that passes by, to be kept when it is whole.
//!
//! Invariants: only what came to its proper end is kept, and nothing larger than it may be; what all answers that are
//! still coming take up is counted in [`Cache`], and beyond its bound one passes by without being kept.

use std::sync::Arc;

use super::Onlooker;
use crate::cache::{Cache, Kept, Key, Moment, now_ms};

/// What is needed to keep an answer.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(crate) cache: Arc<Cache>,
    pub(crate) key: Key,
    /// Without its body; none when it grew too large.
    pub(crate) kept: Option<Kept>,
    pub(crate) body: Vec<u8>,
    pub(crate) max: usize,
    /// What the answer said of its length: nobody asks for more than that.
    pub(crate) length: Option<usize>,
    /// When it was asked for.
    pub(crate) moment: Moment,
}

impl Onlooker for Keeping {
    fn see(&mut self, data: &[u8]) {
        if self.kept.is_none() {
            return;
        }
        if self.body.len() + data.len() > self.max {
            return self.let_go();
        }
        let before = self.body.capacity();
        self.body.extend_from_slice(data);
        if !self.cache.hold(self.body.capacity() - before) {
            self.let_go();
            self.cache.give_up(&self.key, now_ms());
        }
    }

    fn end(&mut self) {
        if self.length.is_none_or(|length| length == self.body.len()) {
            self.finish();
        }
    }
}

impl Keeping {
    fn finish(&mut self) {
        if let Some(kept) = self.kept.take() {
            let body = std::mem::take(&mut self.body);
            self.cache.release(body.capacity());
            // Without the room that it grew into, which counts nowhere.
            let body = body.into_boxed_slice().into();
            self.cache.keep(&self.key, kept.with_body(body), self.moment);
        }
    }

    /// It is not kept.
    fn let_go(&mut self) {
        self.kept = None;
        self.cache.release(std::mem::take(&mut self.body).capacity());
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if self.length == Some(self.body.len()) {
            self.finish();
        }
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, StatusCode};
    use seaworthy_base::policy::Cache as Rule;

    use super::*;
    use crate::cache::{Part, Use, asked, may_keep};

    fn keeping(cache: &Arc<Cache>, target: &str) -> Keeping {
        let (request, mut headers) = (HeaderMap::new(), HeaderMap::new());
        headers.insert("cache-control", HeaderValue::from_static("max-age=60"));
        let asked = asked(&Method::GET, &request);
        let answer = (StatusCode::OK, &headers);
        Keeping {
            cache: Arc::clone(cache),
            key: Key::for_tests(target),
            kept: may_keep(&Rule::default(), asked, &request, answer, now_ms()),
            body: Vec::new(),
            max: 100,
            length: None,
            moment: cache.moment(&Key::for_tests(target)),
        }
    }

    fn is_kept(cache: &Cache, target: &str) -> bool {
        matches!(cache.find(&Key::for_tests(target), &HeaderMap::new(), now_ms()), Use::Fresh(_))
    }

    #[test]
    fn answers_that_come_have_a_bound_together_and_give_back_what_they_took() {
        let cache = Arc::new(Cache::new());
        let mut whole = keeping(&cache, "/whole");
        whole.see(b"0123");
        whole.end();
        let mut broken = keeping(&cache, "/broken");
        broken.see(b"0123");
        drop(broken);
        let mut large = keeping(&cache, "/large");
        large.see(b"0123");
        large.see(&[0; 97]);
        assert!(is_kept(&cache, "/whole") && !is_kept(&cache, "/broken"));
        // All of it is there again; then nothing is.
        let most = 64 << 20;
        assert!(cache.hold(most) && !cache.hold(1));
        cache.release(1);
        let Part::Leader(_leader) = cache.join(&Key::for_tests("/late"), now_ms()) else {
            panic!("first")
        };
        let Part::Follower(follower) = cache.join(&Key::for_tests("/late"), now_ms()) else {
            panic!("next")
        };
        let mut late = keeping(&cache, "/late");
        late.see(b"0123");
        // Who waits is told before its end, and who comes asks for itself.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(!runtime.block_on(follower.wait()));
        assert!(matches!(cache.join(&Key::for_tests("/late"), now_ms()), Part::Alone));
        late.see(b"4567");
        late.end();
        assert!(!is_kept(&cache, "/late"));
        cache.release(most);
        assert!(cache.hold(most), "what was not kept is counted still");
    }
}
