//! Where a WebSocket's frames begin and end (RFC 6455 § 5.2), without looking into them.
//!
//! Needed to put in a frame of our own: that is possible between two frames only. Invariant: whatever the
//! pieces in which bytes come, the same boundaries are found.

/// The close frame of a server that goes away: 1001, without a reason.
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

const CLOSE: u8 = 0x8;

/// One direction of a WebSocket.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What is here of a head that is not whole.
    head: [u8; 14],
    filled: usize,
    /// Bytes of the frame that are to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Takes note of what goes by.
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= taken as u64;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            let Some((byte, rest)) = bytes.split_first() else { return };
            if let Some(room) = self.head.get_mut(self.filled) {
                *room = *byte;
            }
            self.filled += 1;
            bytes = rest;
            if self.filled == self.head_length() {
                self.closed |= self.head[0] & 0x0f == CLOSE;
                self.left = self.payload();
                self.filled = 0;
            }
        }
    }

    /// Whether the next byte begins a frame.
    pub(super) fn between(&self) -> bool {
        self.left == 0 && self.filled == 0
    }

    /// Whether a close frame went by, to its end.
    pub(super) fn closed(&self) -> bool {
        self.closed && self.between()
    }

    /// Bytes of the head that is being read, as far as that is known.
    fn head_length(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        if self.head[1] & 0x80 == 0 { length } else { length + 4 }
    }

    fn payload(&self) -> u64 {
        let [_, short, rest @ ..] = self.head;
        match short & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => rest[..8].iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
            length => u64::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match length {
            0..=125 => bytes.push(mask | length as u8),
            126..=65535 => {
                bytes.push(mask | 0x7e);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 0x7f);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        // What looks like a close frame is none inside of another.
        bytes.extend(vec![0x88; length + if masked { 4 } else { 0 }]);
        bytes
    }

    #[test]
    fn boundaries_are_found_whatever_the_pieces() {
        let all: Vec<Vec<u8>> = [
            (1, false, 0),
            (2, false, 125),
            (1, true, 126),
            (2, false, 70_000),
            (9, true, 4),
            (1, false, 65_535),
        ]
        .map(|(opcode, masked, length)| frame(opcode, masked, length))
        .into();
        let ends: Vec<usize> = all
            .iter()
            .scan(0, |sum, one| {
                *sum += one.len();
                Some(*sum)
            })
            .collect();
        let bytes = all.concat();
        for size in [1, 2, 3, 7, 1000, 8192] {
            let (mut frames, mut at, mut found) = (Frames::default(), 0, Vec::new());
            for piece in bytes.chunks(size) {
                frames.see(piece);
                at += piece.len();
                if frames.between() {
                    found.push(at);
                }
            }
            let expected: Vec<usize> =
                ends.iter().copied().filter(|end| end % size == 0 || *end == bytes.len()).collect();
            assert_eq!(found, expected, "pieces of {size}");
            assert!(!frames.closed());
        }
    }

    #[test]
    fn a_close_frame_counts_when_it_is_whole() {
        let mut frames = Frames::default();
        frames.see(&GOING_AWAY[..3]);
        assert!(!frames.closed());
        frames.see(&GOING_AWAY[3..]);
        assert!(frames.closed());
    }
}
