use super::*;
use crate::crypto::testing::{hex, run, unhex};

const ZERO_KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const KEY: &str = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
const IV: &str = "cafebabefacedbaddecaf888";
const PLAIN: &str = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                     1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
const CIPHER: &str = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                      8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";

struct Vector {
    key: &'static str,
    iv: &'static str,
    aad: &'static str,
    plain: &'static str,
    cipher: &'static str,
    tag: &'static str,
}

/// Test cases 13 to 16 of "The Galois/Counter Mode of Operation (GCM)", appendix B, the
/// submission to NIST. Cases 17 and 18 have nonces of other lengths.
fn vectors() -> [Vector; 4] {
    [
        Vector {
            key: ZERO_KEY,
            iv: "000000000000000000000000",
            aad: "",
            plain: "",
            cipher: "",
            tag: "530f8afbc74536b9a963b4f1c4cb738b",
        },
        Vector {
            key: ZERO_KEY,
            iv: "000000000000000000000000",
            aad: "",
            plain: "00000000000000000000000000000000",
            cipher: "cea7403d4d606b6e074ec5d3baf39d18",
            tag: "d0d1c8a799996bf0265b98b5d48ab919",
        },
        Vector {
            key: KEY,
            iv: IV,
            aad: "",
            plain: PLAIN,
            cipher: CIPHER,
            tag: "b094dac5d93471bdec1a502270e3cc6c",
        },
        Vector {
            key: KEY,
            iv: IV,
            aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            plain: &PLAIN[..120],
            cipher: &CIPHER[..120],
            tag: "76fc6ece0f4e1768cddf8853bb2d551b",
        },
    ]
}

fn key() -> SecretKey {
    SecretKey::from_bytes(run(1))
}

fn pairs() -> impl Iterator<Item = (FrameCipher, FrameCipher)> {
    Backend::available().iter().flat_map(|&sealer| {
        Backend::available().iter().map(move |&opener| {
            (FrameCipher::new(sealer, &key()), FrameCipher::new(opener, &key()))
        })
    })
}

#[test]
fn backends_are_what_the_features_say() {
    assert_eq!(Backend::available()[0], Backend::default());
    assert_eq!(Backend::available().len(), 1 + usize::from(cfg!(feature = "aws-lc")));
    assert_eq!(Backend::Portable.to_string(), "portable");
    #[cfg(feature = "aws-lc")]
    assert_eq!(Backend::default().to_string(), "aws-lc");
    for &backend in Backend::available() {
        assert_eq!(FrameCipher::new(backend, &key()).backend(), backend);
    }
}

#[test]
fn known_answers() {
    for &backend in Backend::available() {
        for (i, v) in vectors().iter().enumerate() {
            let case = format!("{backend}, test case {}", 13 + i);
            let key = SecretKey::from_bytes(unhex(v.key).try_into().unwrap());
            let cipher = FrameCipher::new(backend, &key);
            let iv: [u8; 12] = unhex(v.iv).try_into().unwrap();
            let (aad, plain) = (unhex(v.aad), unhex(v.plain));

            let mut buf = plain.clone();
            let tag = cipher.seal_in_place(&iv, &aad, &mut buf).unwrap();
            assert_eq!(hex(&buf), v.cipher, "{case}");
            assert_eq!(hex(&tag), v.tag, "{case}");

            let mut out = vec![0xEE; buf.len()];
            cipher.open_into(&iv, &aad, &buf, &tag, &mut out).unwrap();
            assert_eq!(out, plain, "{case}");
            cipher.open_in_place(&iv, &aad, &mut buf, &tag).unwrap();
            assert_eq!(buf, plain, "{case}");
        }
    }
}

#[test]
fn every_backend_opens_what_any_other_sealed() {
    let lengths = (0..=1_025).chain([4_096, 65_536, 1 << 20]);
    let ciphers: Vec<_> = pairs().collect();
    let plain: Vec<u8> =
        (0..1_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for len in lengths {
        let plain = &plain[..len];
        let nonce: [u8; 12] = run(u8::try_from(len % 256).unwrap());
        let aad = &plain[..len.min(60)];
        for (sealer, opener) in &ciphers {
            let mut sealed = plain.to_vec();
            let tag = sealer.seal_in_place(&nonce, aad, &mut sealed).unwrap();
            assert!(len < 16 || sealed != plain, "{sealer:?}: {len} bytes not encrypted");
            let mut out = vec![0xEE; len];
            opener.open_into(&nonce, aad, &sealed, &tag, &mut out).unwrap();
            assert!(out == plain, "{sealer:?} to {opener:?}: {len} bytes, apart");
            opener.open_in_place(&nonce, aad, &mut sealed, &tag).unwrap();
            assert!(sealed == plain, "{sealer:?} to {opener:?}: {len} bytes, in place");
        }
    }
}

/// Flips each bit of `bytes` in turn.
fn each_flip(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        check(&flipped);
    }
}

fn refused(cipher: &FrameCipher, nonce: &[u8], aad: &[u8], sealed: &[u8], tag: &[u8]) {
    let (nonce, tag) = (nonce.try_into().unwrap(), tag.try_into().unwrap());
    let mut buf = sealed.to_vec();
    assert_eq!(cipher.open_in_place(nonce, aad, &mut buf, tag), Err(TagMismatch));
    assert!(buf.iter().all(|&b| b == 0), "{cipher:?}: buffer not cleared");
    let mut out = vec![0xEE; sealed.len()];
    assert_eq!(cipher.open_into(nonce, aad, sealed, tag, &mut out), Err(TagMismatch));
    assert!(out.iter().all(|&b| b == 0), "{cipher:?}: output not cleared");
}

#[test]
fn every_flipped_bit_is_refused_and_the_buffer_cleared() {
    // Below a block, a few blocks, and enough for the wide code paths.
    for len in [0, 1, 19, 64, 300] {
        for (sealer, opener) in pairs() {
            let nonce: [u8; 12] = run(9);
            let aad: [u8; 7] = run(40);
            let mut sealed = run::<300>(77)[..len].to_vec();
            let tag = sealer.seal_in_place(&nonce, &aad, &mut sealed).unwrap();
            each_flip(&sealed, |s| refused(&opener, &nonce, &aad, s, &tag));
            each_flip(&tag, |t| refused(&opener, &nonce, &aad, &sealed, t));
            each_flip(&aad, |a| refused(&opener, &nonce, a, &sealed, &tag));
            each_flip(&nonce, |n| refused(&opener, n, &aad, &sealed, &tag));
            each_flip(key().expose(), |k| {
                let key = SecretKey::from_bytes(k.try_into().unwrap());
                refused(&FrameCipher::new(opener.backend(), &key), &nonce, &aad, &sealed, &tag);
            });
        }
    }
}

#[test]
fn cut_or_moved_bytes_are_refused() {
    for (sealer, opener) in pairs() {
        let nonce: [u8; 12] = run(0);
        let mut sealed: [u8; 48] = run(3);
        let tag = sealer.seal_in_place(&nonce, b"aad", &mut sealed).unwrap();
        for len in 0..sealed.len() {
            refused(&opener, &nonce, b"aad", &sealed[..len], &tag);
        }
        refused(&opener, &nonce, b"aad\0", &sealed, &tag);
        refused(&opener, &nonce, b"", &sealed, &tag);
        refused(&opener, &nonce, b"aad", &[&sealed[..], &[0]].concat(), &tag);
        // The boundary between additional data and ciphertext counts.
        refused(&opener, &nonce, &[b"aad", &sealed[..16]].concat(), &sealed[16..], &tag);
    }
}

#[test]
fn an_output_of_another_length_is_refused_and_cleared() {
    for &backend in Backend::available() {
        let cipher = FrameCipher::new(backend, &key());
        let mut sealed = [5; 32];
        let tag = cipher.seal_in_place(&[0; 12], b"", &mut sealed).unwrap();
        for len in [0, 31, 33, 64] {
            let mut out = vec![0xEE; len];
            assert_eq!(cipher.open_into(&[0; 12], b"", &sealed, &tag, &mut out), Err(TagMismatch));
            assert!(out.iter().all(|&b| b == 0), "{backend}: {len}");
        }
    }
}

#[test]
fn one_cipher_serves_many_threads() {
    for &backend in Backend::available() {
        let cipher = FrameCipher::new(backend, &key());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let cipher = &cipher;
                scope.spawn(move || {
                    for i in 0..200 {
                        let nonce: [u8; 12] = run(thread * 50 + i % 50);
                        let mut buf = [i; 500];
                        let tag = cipher.seal_in_place(&nonce, &[thread], &mut buf).unwrap();
                        cipher.open_in_place(&nonce, &[thread], &mut buf, &tag).unwrap();
                        assert_eq!(buf, [i; 500]);
                    }
                });
            }
        });
    }
}

#[test]
fn debug_shows_no_key() {
    for &backend in Backend::available() {
        let shown = format!("{:?}", FrameCipher::new(backend, &key()));
        assert_eq!(shown, format!("FrameCipher({backend}, [redacted])"));
    }
}

/// Prints speeds; for a look, not a check: `cargo test --release crypto -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::cast_precision_loss, reason = "rounded for print anyway")]
fn speed() {
    for &backend in Backend::available() {
        let cipher = FrameCipher::new(backend, &key());
        for len in [4_096_usize, 65_536, 1 << 20] {
            let mut sealed = vec![7; len];
            let mut out = vec![0; len];
            let rounds = (1 << 30) / len;
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                cipher.seal_in_place(&[0; 12], b"aad", &mut sealed).unwrap();
            }
            let seal = start.elapsed();
            let tag = cipher.seal_in_place(&[0; 12], b"aad", &mut sealed).unwrap();
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                cipher.open_into(&[0; 12], b"aad", &sealed, &tag, &mut out).unwrap();
            }
            let open = start.elapsed();
            let rate = |t: std::time::Duration| (rounds * len) as f64 / t.as_secs_f64() / 1e9;
            println!(
                "{backend:>8} {len:>8} B: seal {:.1} GB/s, open {:.1} GB/s",
                rate(seal),
                rate(open)
            );
        }
    }
}
