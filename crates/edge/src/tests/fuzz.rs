//! What reads bytes of strangers, fed with a corpus and with what mutations make of it.
//!
//! Each target says what must hold for any input. `cargo test` runs every file of `corpus/` and a few
//! thousand mutations, always the same ones; `cargo xtask fuzz` goes on for a time with fresh ones and says
//! which input broke a rule: put it into the corpus, then mend. On stable Rust and without a fuzzer's
//! run time, so that everybody runs it everywhere.

mod targets;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Mutations in an ordinary run of the tests.
const FEW: usize = 3_000;
/// Longer inputs show nothing new.
const LONGEST: usize = 4 << 10;

/// The inputs of one target, one after the other; says which one broke a rule.
struct Inputs {
    corpus: Vec<Vec<u8>>,
    words: &'static [&'static [u8]],
    next: usize,
    until: Option<Instant>,
    random: StdRng,
    current: Vec<u8>,
}

impl Inputs {
    /// Those of `corpus/NAME`; mutations put `words` in, too.
    fn of(name: &str, words: &'static [&'static [u8]]) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let corpus: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
        assert!(corpus.len() >= 5, "{name} has a corpus of {}", corpus.len());
        let seconds = std::env::var("SEAWORTHY_FUZZ_SECONDS").ok();
        let seconds = seconds.map(|text| Duration::from_secs_f64(text.parse().unwrap()));
        let seed = if seconds.is_some() { rand::random() } else { 0x5ea };
        Self {
            corpus,
            words,
            next: 0,
            until: seconds.map(|seconds| Instant::now() + seconds),
            random: StdRng::seed_from_u64(seed),
            current: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<&[u8]> {
        let nth = self.next;
        self.next += 1;
        self.current = match self.corpus.get(nth) {
            Some(input) => input.clone(),
            None if self.until.map_or(nth > FEW, |until| Instant::now() >= until) => return None,
            None => self.mutated(),
        };
        Some(&self.current)
    }

    fn mutated(&mut self) -> Vec<u8> {
        let mut bytes = self.corpus.choose(&mut self.random).cloned().unwrap_or_default();
        for _ in 0..self.random.random_range(1..6) {
            self.mutate(&mut bytes);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.random.random_range(0..=bytes.len());
        let end = (at + self.random.random_range(1..17)).min(bytes.len());
        match self.random.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = self.random.random(),
            2 => bytes.insert(at, self.random.random()),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let other = self.corpus.choose(&mut self.random).cloned().unwrap_or_default();
                let from = self.random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = self.words.choose(&mut self.random).copied().unwrap_or_default();
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }

    /// A number below so many, for targets that need more than the input.
    fn below(&mut self, most: usize) -> usize {
        self.random.random_range(0..most.max(1))
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input was: {}", self.current.escape_ascii());
        }
    }
}
