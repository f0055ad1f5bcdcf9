use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const SIZES: [usize; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

fn page_size() -> impl Strategy<Value = usize> {
    prop::sample::select(&SIZES[..])
}

/// Bytes of a page: noise, text of few letters, or zero.
fn image(size: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), size), vec(b'a'..b'f', size), Just(vec![0; size])]
}

/// A page and what became of it.
fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    page_size().prop_flat_map(image).prop_flat_map(|old| {
        let size = old.len();
        let edits = vec((any::<Index>(), vec(any::<u8>(), 1..40)), 0..24);
        let new = prop_oneof![
            4 => edits.prop_map({
                let old = old.clone();
                move |edits| {
                    let mut new = old.clone();
                    for (at, bytes) in edits {
                        let at = at.index(size);
                        let n = bytes.len().min(size - at);
                        new[at..at + n].copy_from_slice(&bytes[..n]);
                    }
                    new
                }
            }),
            2 => (any::<Index>(), 1..200usize).prop_map({
                let old = old.clone();
                move |(at, by)| {
                    let mut new = old.clone();
                    let at = at.index(size);
                    new[at..].rotate_right(by % (size - at));
                    new
                }
            }),
            1 => image(size),
            1 => Just(old.clone()),
        ];
        (new, Just(old))
    })
}

fn patch(new: &[u8], old: &[u8]) -> Vec<u8> {
    let mut out = b"before".to_vec();
    let length = Encoder::new().unwrap().patch(new, old, &mut out).unwrap();
    let patch = out.strip_prefix(b"before").unwrap().to_vec();
    assert_eq!(patch.len(), length);
    patch
}

fn applied(patch: &[u8], old: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut out = vec![0xEE; length];
    Decoder::new().unwrap().apply(patch, old, &mut out).map(|()| out)
}

/// Reads a patch the way any zstd decoder would: streaming, `old` as its prefix.
fn read_elsewhere(patch: &[u8], old: &[u8]) -> Vec<u8> {
    use std::io::Read;
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(patch, old).unwrap();
    decoder.set_parameter(DParameter::Format(FrameFormat::Magicless)).unwrap();
    let mut out = Vec::new();
    decoder.read_to_end(&mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn patches_restore_the_page((new, old) in pair()) {
        let patch = patch(&new, &old);
        prop_assert_eq!(&applied(&patch, &old, new.len()).unwrap(), &new);
        prop_assert_eq!(read_elsewhere(&patch, &old), new);
    }

    #[test]
    fn patches_work_between_any_lengths(
        new in vec(any::<u8>(), 0..3000),
        old in vec(any::<u8>(), 0..3000),
        shared in any::<bool>(),
    ) {
        let old = if shared { [&old[..], &new[new.len() / 3..]].concat() } else { old };
        prop_assert_eq!(applied(&patch(&new, &old), &old, new.len()).unwrap(), new);
    }

    #[test]
    fn damaged_patches_never_panic(
        (new, old) in pair(),
        flips in vec((any::<Index>(), 0..8u32), 1..4),
        cut in any::<Index>(),
        noise in vec(any::<u8>(), 0..300),
    ) {
        let patch = patch(&new, &old);
        let mut decoder = Decoder::new().unwrap();
        let mut out = vec![0; new.len()];

        let cut = &patch[..cut.index(patch.len())];
        prop_assert!(decoder.apply(cut, &old, &mut out).is_err());
        let mut flipped = patch.clone();
        for (at, bit) in flips {
            let at = at.index(flipped.len());
            flipped[at] ^= 1 << bit;
        }
        let _ = decoder.apply(&flipped, &old, &mut out);
        let _ = decoder.decompress(&flipped, &mut out);
        let _ = decoder.apply(&noise, &old, &mut out);
        let _ = decoder.decompress(&noise, &mut out);

        // What came before must not show.
        decoder.apply(&patch, &old, &mut out).unwrap();
        prop_assert_eq!(out, new);
    }

    #[test]
    fn a_wrong_previous_image_never_panics((new, old) in pair(), other in vec(any::<u8>(), 0..5000)) {
        let _ = applied(&patch(&new, &old), &other, new.len());
    }

    #[test]
    fn a_wrong_length_is_an_error((new, old) in pair(), wrong in 0..70_000usize) {
        prop_assume!(wrong != new.len());
        prop_assert!(applied(&patch(&new, &old), &old, wrong).is_err());
    }

    #[test]
    fn images_survive_compression(plain in page_size().prop_flat_map(image)) {
        let mut out = b"before".to_vec();
        match Encoder::new().unwrap().compress(&plain, &mut out).unwrap() {
            None => prop_assert_eq!(out, b"before"),
            Some(length) => {
                prop_assert!(length < plain.len());
                let bytes = out.strip_prefix(b"before").unwrap();
                prop_assert_eq!(bytes.len(), length);
                let mut back = vec![0; plain.len()];
                Decoder::new().unwrap().decompress(bytes, &mut back).unwrap();
                prop_assert_eq!(back, plain);
            }
        }
    }

    /// Edits in place agree with the general path, down to every length code.
    #[test]
    fn edits_in_place_are_zstd_frames(
        size in 4..=frame::MAX_CONTENT,
        lengths in vec((0..40_000usize, 1..3000usize), 1..16),
    ) {
        let old = vec![7; size];
        let mut new = old.clone();
        let mut at = 0;
        for (gap, run) in lengths {
            let from = (at + gap).min(size);
            at = (from + run).min(size);
            new[from..at].fill(9);
        }
        let Some(edits) = Edits::between(&new, &old, 4095) else { return Ok(()) };
        let mut out = Vec::new();
        prop_assert_eq!(frame::write(&new, &edits, &mut out), Some(out.len()));
        prop_assert_eq!(applied(&out, &old, size).unwrap(), new);
    }
}

#[test]
fn one_context_serves_patches_images_and_errors_in_any_order() {
    let mut encoder = Encoder::new().unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut noise = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        usize::try_from(noise >> 40).unwrap()
    };
    for round in 0..3000 {
        let size = SIZES[next() % SIZES.len()];
        // Freed at the end of each round, so that a pointer kept would dangle.
        let old: Vec<u8> = match round % 3 {
            0 => (0..size).map(|_| next().to_le_bytes()[0]).collect(),
            1 => (0..size).map(|i| (i / 50).to_le_bytes()[0]).collect(),
            _ => vec![0; size],
        };
        let mut new = old.clone();
        for _ in 0..next() % 40 {
            new[next() % size] ^= 0x55;
        }
        new.rotate_left(if next() % 2 == 0 { 0 } else { next() % 100 });

        let mut out = Vec::new();
        let patched = encoder.patch(&new, &old, &mut out).unwrap();
        let whole = encoder.compress(&new, &mut out).unwrap();
        let (patch, image) = out.split_at(patched);
        let mut back = vec![0; size];
        if round % 5 == 0 {
            assert!(decoder.apply(&patch[..patched - 1], &old, &mut back).is_err());
            assert!(decoder.apply(patch, &old, &mut back[1..]).is_err());
        }
        decoder.apply(patch, &old, &mut back).unwrap();
        assert_eq!(back, new);
        if whole.is_some() {
            back.fill(0);
            decoder.decompress(image, &mut back).unwrap();
            assert_eq!(back, new);
        }
    }
}

#[test]
fn a_page_that_looks_like_a_dictionary_is_raw_content() {
    let mut old: Vec<u8> =
        (0..4096u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    old[..4].copy_from_slice(&DICTIONARY_MAGIC);
    for shift in [0, 5, 700] {
        let mut new = old.clone();
        new.rotate_left(shift);
        let patch = patch(&new, &old);
        assert!(patch.len() < 100, "{}", patch.len());
        assert_eq!(applied(&patch, &old, new.len()).unwrap(), new);
    }
}

#[test]
fn a_small_edit_makes_a_small_patch() {
    for size in SIZES {
        let old: Vec<u8> = (0..size).map(|i| (i * i / 7).to_le_bytes()[0]).collect();
        assert!(patch(&old, &old).len() <= 20);
        let mut new = old.clone();
        new[size / 2] ^= 1;
        new[size / 3] ^= 1;
        let patch = patch(&new, &old);
        assert!(patch.len() <= 26, "{size}: {}", patch.len());
    }
}

#[test]
fn no_frame_carries_more_header_than_it_needs() {
    let old: Vec<u8> = (0..4096u32).map(|i| (i * i / 7).to_le_bytes()[0]).collect();
    let mut moved = old.clone();
    moved[100..].rotate_left(9);
    let mut edited = old.clone();
    edited[9] ^= 1;
    for new in [moved, edited] {
        // No flags, and a window of 4 KiB.
        assert_eq!(patch(&new, &old)[..2], [0, 2 << 3]);
    }
}

#[test]
fn what_exceeds_the_bound_is_refused() {
    let long = vec![0; MAX_PLAIN + 1];
    let mut encoder = Encoder::new().unwrap();
    let mut out = Vec::new();
    assert_eq!(encoder.compress(&long, &mut out), Err(DeltaError::TooLong { found: long.len() }));
    assert_eq!(encoder.patch(&[], &long, &mut out), Err(DeltaError::TooLong { found: long.len() }));
    let plain = &long[1..];
    let length = encoder.compress(plain, &mut out).unwrap().unwrap();
    assert!(length < 10_000);
    let mut back = vec![1; MAX_PLAIN];
    Decoder::new().unwrap().decompress(&out, &mut back).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn a_frame_that_claims_a_huge_window_costs_no_memory() {
    // A window of 2 GiB, then one last, raw block of a byte.
    let frame = [0x00, 21 << 3, 1 | 1 << 3, 0, 0, b'x'];
    let mut decoder = Decoder::new().unwrap();
    let before = decoder.context.sizeof();
    let mut out = [0];
    decoder.decompress(&frame, &mut out).unwrap();
    decoder.apply(&frame, b"previous", &mut out).unwrap();
    assert_eq!(out, *b"x");
    assert_eq!(decoder.context.sizeof(), before);
}
