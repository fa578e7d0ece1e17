//! Where in its frames a request's stream is.
//!
//! Why: h3 takes a stream that ends in the middle of a frame of DATA for whole, and panics where it then looks for
//! trailers. Who reads the stream therefore keeps count, and knows when an end is none (RFC 9114 § 7.1). Not here:
//! what the frames mean.

/// Kind and length of a frame: two numbers of eight bytes at most.
const LONGEST_HEAD: usize = 16;

/// How far a stream is.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// Bytes of a head that are here.
    filled: usize,
    /// Bytes of the payload that are not.
    left: u64,
}

/// A number (RFC 9000 § 16), and how many bytes it takes.
fn number(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = 1 << (first >> 6);
    let (_, rest) = bytes.get(..size)?.split_first()?;
    let begin = u64::from(first & 0x3f);
    Some((rest.iter().fold(begin, |so_far, byte| so_far << 8 | u64::from(*byte)), size))
}

impl Frames {
    /// Takes note of what was read.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let passed = self.left.min(bytes.len() as u64);
                self.left -= passed;
                bytes = bytes.get(passed as usize..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.filled) {
                *place = *first;
            }
            self.filled += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                (self.left, self.filled) = (length, 0);
            }
        }
    }

    /// The length that the head names, once it is whole.
    fn length(&self) -> Option<u64> {
        let head = self.head.get(..self.filled)?;
        let (_, size) = number(head)?;
        number(head.get(size..)?).map(|(length, _)| length)
    }

    /// Whether it may end here.
    pub(super) fn is_between(&self) -> bool {
        self.left == 0 && self.filled == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_may_end_between_frames_and_nowhere_else() {
        // HEADERS of 3 bytes, an unknown kind in four bytes with nothing in it, DATA whose length takes eight.
        let mut stream = vec![1, 3, 9, 9, 9, 0x80, 0, 0, 0x21, 0];
        stream.extend([0, 0xc0, 0, 0, 0, 0, 0, 0, 2, 7, 7]);
        let ends = [0, 5, 10, stream.len()];
        for piece in [1, 3, stream.len()] {
            for length in 0..=stream.len() {
                let mut frames = Frames::default();
                stream[..length].chunks(piece).for_each(|bytes| frames.see(bytes));
                assert_eq!(frames.is_between(), ends.contains(&length), "{length} in {piece}");
            }
        }
    }
}
