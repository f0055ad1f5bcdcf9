//! A patch gives back the page it was made of; whatever else is applied as one ends.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use rewound::delta::{Decoder, Encoder};

#[derive(Arbitrary, Debug)]
struct Input {
    old: Vec<u8>,
    /// What the new page differs by: where, and in what.
    edits: Vec<(u16, u8)>,
    /// Bytes moved from one place to another, as an engine does that compacts a page.
    moved: Option<(u16, u16, u8)>,
    hostile: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let size = 512 << (input.old.len() % 4);
    let mut old = input.old;
    old.resize(size, 0x5a);
    let mut new = old.clone();
    if let Some((from, to, len)) = input.moved {
        let len = usize::from(len);
        let (from, to) = (usize::from(from) % (size - len), usize::from(to) % (size - len));
        new.copy_within(from..from + len, to);
    }
    for (at, value) in input.edits {
        new[usize::from(at) % size] = value;
    }
    let (mut encoder, mut decoder) = (Encoder::new().unwrap(), Decoder::new().unwrap());
    let (mut patch, mut out) = (Vec::new(), vec![0; size]);
    encoder.patch(&new, &old, &mut patch).unwrap();
    decoder.apply(&patch, &old, &mut out).unwrap();
    assert!(out == new);

    let mut image = Vec::new();
    if encoder.compress(&new, &mut image).unwrap().is_some() {
        decoder.decompress(&image, &mut out).unwrap();
        assert!(out == new);
    }
    let _ = decoder.apply(&input.hostile, &old, &mut out);
    let _ = decoder.decompress(&input.hostile, &mut out);
});
