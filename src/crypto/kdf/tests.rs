//! The pinned values were computed once by another implementation (Python, `cryptography` 48,
//! over OpenSSL):
//!
//! ```python
//! r = lambda a, n: bytes(range(a, a + n))
//! hk = lambda ikm, salt, info, n: HKDF(SHA256(), n, salt, info).derive(ikm)
//! data, salt, archive, header = r(0, 32), r(0x20, 32), r(0x80, 32), r(0, 192)
//! okm = hk(data, salt, b"rewound file v1" + header, 64)          # frame key, commitment
//! wk = hk(archive, salt, b"rewound wrap v1" + header, 32)
//! wrapped = AESGCM(wk).encrypt(bytes(12), data, header)
//! ```
//!
//! They are part of the format: if one of these tests fails, the code is wrong, not the test.

use super::*;
use crate::crypto::testing::{hex, run, unhex};

const FRAME_KEY: &str = "25e2a2a236caf0892661cca97a4be26b9806ca504c447aac7f964d8801b40bb2";
const COMMITMENT: &str = "3ef4b1090fcd33cd1fcb189405e03f7101beb82d406d7a5b4f3b15c29b1cebc2";
const WRAPPED: &str = "fb69041df7caaca45642a55bd7f158f127f9c9d7fe89d94f487666b1c2b8e9e6\
                       64be271edac4ca146b89ebdb7d6a8f80";

fn data_key() -> SecretKey {
    SecretKey::from_bytes(run(0))
}

fn archive_key() -> SecretKey {
    SecretKey::from_bytes(run(0x80))
}

fn salt() -> [u8; 32] {
    run(0x20)
}

fn header() -> [u8; 192] {
    run(0)
}

/// RFC 5869, appendix A.1 to A.3.
#[test]
fn hkdf_known_answers() {
    let mut okm = [0; 42];
    hkdf_sha256(&[0x0B; 22], &run::<13>(0), &[&run::<10>(0xF0)], &mut okm);
    assert_eq!(
        hex(&okm),
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    );
    let mut okm = [0; 82];
    // The info in two parts: the same as in one.
    let info: [u8; 80] = run(0xB0);
    hkdf_sha256(&run::<80>(0), &run::<80>(0x60), &[&info[..33], &info[33..]], &mut okm);
    assert_eq!(
        hex(&okm),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c\
         59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71\
         cc30c58179ec3e87c14c01d5c1f3434f1d87"
    );
    let mut okm = [0; 42];
    hkdf_sha256(&[0x0B; 22], &[], &[], &mut okm);
    assert_eq!(
        hex(&okm),
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    );
}

/// FIPS 180-2, appendix B.1.
#[test]
fn sha256_known_answer() {
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(&sha256(&[b"abc"])), expected);
    assert_eq!(hex(&sha256(&[b"a", b"", b"bc"])), expected);
}

#[test]
fn file_keys_are_pinned() {
    let keys = derive_file_keys(&data_key(), &salt(), &header());
    assert_eq!(hex(keys.frame_key.expose()), FRAME_KEY);
    assert_eq!(hex(&keys.commitment), COMMITMENT);
}

#[test]
fn file_keys_depend_on_every_bit_of_every_input() {
    let base = derive_file_keys(&data_key(), &salt(), &header());
    let differs = |keys: &FileKeys, what: &str| {
        assert_ne!(base.frame_key, keys.frame_key, "{what}");
        assert!(!commitment_matches(&base.commitment, &keys.commitment), "{what}");
    };
    for bit in 0..192 * 8 {
        let mut header = header();
        header[bit / 8] ^= 1 << (bit % 8);
        differs(&derive_file_keys(&data_key(), &salt(), &header), "header");
    }
    for bit in 0..256 {
        let mut salt = salt();
        salt[bit / 8] ^= 1 << (bit % 8);
        differs(&derive_file_keys(&data_key(), &salt, &header()), "salt");
        let mut key = *data_key().expose();
        key[bit / 8] ^= 1 << (bit % 8);
        differs(&derive_file_keys(&SecretKey::from_bytes(key), &self::salt(), &header()), "key");
    }
}

#[test]
fn wrapped_data_keys_are_pinned_on_every_backend() {
    for &backend in Backend::available() {
        let wrapped =
            wrap_data_key(backend, &archive_key(), &salt(), &header(), &data_key()).unwrap();
        assert_eq!(hex(&wrapped), WRAPPED, "{backend}");
        let key = unwrap_data_key(backend, &archive_key(), &salt(), &header(), &wrapped).unwrap();
        assert_eq!(key, data_key(), "{backend}");
    }
}

#[test]
fn unwrapping_refuses_every_altered_bit() {
    let wrapped: [u8; WRAPPED_LEN] = unhex(WRAPPED).try_into().unwrap();
    for &backend in Backend::available() {
        let refused = |archive: &SecretKey, salt: &[u8; 32], header: &[u8], wrapped: &[u8; 48]| {
            let result = unwrap_data_key(backend, archive, salt, header, wrapped);
            assert_eq!(result.unwrap_err(), TagMismatch, "{backend}");
        };
        for bit in 0..wrapped.len() * 8 {
            let mut altered = wrapped;
            altered[bit / 8] ^= 1 << (bit % 8);
            refused(&archive_key(), &salt(), &header(), &altered);
        }
        for bit in 0..256 {
            let mut salt = salt();
            salt[bit / 8] ^= 1 << (bit % 8);
            refused(&archive_key(), &salt, &header(), &wrapped);
            let mut key = *archive_key().expose();
            key[bit / 8] ^= 1 << (bit % 8);
            refused(&SecretKey::from_bytes(key), &self::salt(), &header(), &wrapped);
        }
        for bit in 0..192 * 8 {
            let mut header = header();
            header[bit / 8] ^= 1 << (bit % 8);
            refused(&archive_key(), &salt(), &header, &wrapped);
        }
        refused(&archive_key(), &salt(), &header()[..191], &wrapped);
        refused(&data_key(), &salt(), &header(), &wrapped);
    }
}

#[test]
fn commitments_match_only_in_every_bit() {
    let a: [u8; 32] = run(0);
    assert!(commitment_matches(&a, &a.clone()));
    for bit in 0..256 {
        let mut b = a;
        b[bit / 8] ^= 1 << (bit % 8);
        assert!(!commitment_matches(&a, &b));
    }
}

#[test]
fn debug_shows_no_key() {
    let keys = derive_file_keys(&data_key(), &salt(), &header());
    let shown = format!("{keys:?}");
    assert!(shown.contains("SecretKey([redacted])"), "{shown}");
    // The first bytes of the frame key, as `Debug` would show them.
    assert!(!shown.contains("37, 226, 162"), "{shown}");
}
