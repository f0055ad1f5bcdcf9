//! What the tests of this module share.

use std::fmt::Write;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::env::Rng;
use crate::error::{Error, Result};

/// Counts upwards from a start: predictable, and no two keys are the same.
#[derive(Debug, Default)]
pub(crate) struct Counting(AtomicU8);

impl Counting {
    pub(crate) fn from(start: u8) -> Counting {
        Counting(AtomicU8::new(start))
    }
}

impl Rng for Counting {
    fn fill(&self, buf: &mut [u8]) -> Result<()> {
        for byte in buf {
            *byte = self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Has no randomness to give.
#[derive(Debug)]
pub(crate) struct Broken;

impl Rng for Broken {
    fn fill(&self, _: &mut [u8]) -> Result<()> {
        Err(Error::KeyProvider { message: "no randomness".to_owned() })
    }
}

/// `N` bytes that count upwards from `start`.
pub(crate) fn run<const N: usize>(start: u8) -> [u8; N] {
    std::array::from_fn(|i| start.wrapping_add(u8::try_from(i % 256).unwrap()))
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2));
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}
