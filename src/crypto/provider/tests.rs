use super::*;
use crate::crypto::KeyFile;
use crate::crypto::testing::{Counting, run};
use crate::env::SystemRng;

/// A provider that does what a test asks of it.
#[derive(Debug, Default)]
struct Fake {
    id: u8,
    wrapped_len: usize,
    gives_back: Option<[u8; 32]>,
}

impl KeyProvider for Fake {
    fn recipient(&self) -> RecipientId {
        RecipientId::from_bytes([self.id; 16])
    }

    fn describe(&self) -> String {
        format!("fake {}", self.id)
    }

    fn wrap(&self, _: &SecretKey, _: &[u8], _: &dyn Rng) -> Result<Vec<u8>> {
        Ok(vec![self.id; self.wrapped_len])
    }

    fn unwrap(&self, _: &[u8], _: &[u8]) -> Result<SecretKey> {
        self.gives_back
            .map(SecretKey::from_bytes)
            .ok_or(Error::KeyProvider { message: format!("fake {} is out of reach", self.id) })
    }
}

fn archive_key() -> SecretKey {
    SecretKey::from_bytes(run(0x80))
}

fn key_file(n: u8) -> KeyFile {
    KeyFile::from_bytes([n; 32])
}

fn borrow(stanzas: &[(RecipientId, Vec<u8>)]) -> Vec<(RecipientId, &[u8])> {
    stanzas.iter().map(|(recipient, wrapped)| (*recipient, wrapped.as_slice())).collect()
}

fn wrap(keys: &Keyring) -> Vec<(RecipientId, Vec<u8>)> {
    keys.wrap(&archive_key(), b"context", &SystemRng).unwrap()
}

#[test]
fn any_recipient_opens_what_was_sealed_for_all() {
    let keys = Keyring::new(key_file(1)).with(key_file(2)).with(Arc::new(key_file(3)));
    let stanzas = wrap(&keys);
    let recipients: Vec<_> = stanzas.iter().map(|(recipient, _)| *recipient).collect();
    assert_eq!(recipients, keys.recipients().collect::<Vec<_>>());
    for n in 1..=3 {
        let alone = Keyring::from(key_file(n));
        let key = alone.unwrap("f", &borrow(&stanzas), b"context").unwrap();
        assert_eq!(key, archive_key());
        assert!(alone.unwrap("f", &borrow(&stanzas), b"another context").is_err());
    }
}

#[test]
fn a_stranger_is_told_for_whom_it_is_sealed() {
    let stanzas = wrap(&Keyring::new(key_file(1)).with(key_file(2)));
    let error =
        Keyring::new(key_file(9)).unwrap("a.seg", &borrow(&stanzas), b"context").unwrap_err();
    let Error::WrongKey { path, recipients, offered } = &error else { panic!("{error}") };
    assert_eq!(path, "a.seg");
    assert_eq!(recipients, &format!("{}, {}", key_file(1).recipient(), key_file(2).recipient()));
    assert!(offered.contains(&key_file(9).recipient().to_string()), "{offered}");
    assert!(matches!(
        Keyring::new(key_file(9)).unwrap("a.seg", &[], b"context"),
        Err(Error::WrongKey { .. })
    ));
}

#[test]
fn where_one_provider_fails_the_next_is_asked() {
    let stanzas = wrap(&Keyring::new(key_file(1)).with(Fake { id: 7, ..Fake::default() }));
    let stanzas = borrow(&stanzas);
    let out_of_reach = || Fake { id: 7, ..Fake::default() };

    let key = Keyring::new(out_of_reach()).with(key_file(1)).unwrap("f", &stanzas, b"context");
    assert_eq!(key.unwrap(), archive_key());

    let error = Keyring::new(out_of_reach()).unwrap("f", &stanzas, b"context").unwrap_err();
    assert_eq!(error.to_string(), "key provider: fake 7 is out of reach");

    // Also where an altered stanza for the same recipient stands before the good one.
    let recipient = key_file(1).recipient();
    let doubled = [(recipient, b"rot".as_slice()), stanzas[0]];
    assert!(Keyring::new(key_file(1)).unwrap("f", &doubled, b"context").is_ok());
}

#[test]
fn sixteen_providers_are_the_limit() {
    let keys = |n: u8| (2..=n).fold(Keyring::new(key_file(1)), |keys, i| keys.with(key_file(i)));
    assert_eq!(wrap(&keys(16)).len(), 16);
    let error = keys(17).wrap(&archive_key(), b"", &SystemRng).unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { limit: 16, found: 17, .. }), "{error}");
}

#[test]
fn one_key_twice_is_refused() {
    let keys = Keyring::new(key_file(1)).with(key_file(2)).with(key_file(1));
    let error = keys.check().unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
    assert!(error.contains(&key_file(1).recipient().to_string()), "{error}");
}

#[test]
fn a_primary_that_does_not_give_back_the_key_is_refused() {
    let wrap = |keys: Keyring| keys.wrap(&archive_key(), b"", &Counting::default());
    let right = Fake { id: 1, wrapped_len: 1, gives_back: Some(run(0x80)) };
    let wrong = Fake { id: 2, wrapped_len: 1, gives_back: Some(run(0x81)) };
    let only_wraps = || Fake { id: 3, wrapped_len: 1, gives_back: None };

    let error = wrap(wrong.into()).unwrap_err().to_string();
    assert!(error.contains("fake 2 does not give back the key"), "{error}");
    assert!(wrap(only_wraps().into()).is_err());
    // A recovery recipient may have the unwrapping half of its key elsewhere.
    assert_eq!(wrap(Keyring::new(right).with(only_wraps())).unwrap().len(), 2);
}

#[test]
fn a_wrapped_key_has_at_most_4096_bytes() {
    let provider = |wrapped_len| Fake { id: 1, wrapped_len, gives_back: Some(run(0x80)) };
    let wrap = |len| Keyring::new(provider(len)).wrap(&archive_key(), b"", &Counting::default());
    assert!(wrap(4_096).is_ok());
    let error = wrap(4_097).unwrap_err().to_string();
    assert!(error.contains("4097 bytes"), "{error}");
}

#[test]
fn debug_shows_descriptions_only() {
    let keys = Keyring::new(key_file(0xAB)).with(Fake { id: 7, ..Fake::default() });
    let shown = format!("{keys:?}");
    assert_eq!(shown, format!("Keyring(key {}, fake 7)", key_file(0xAB).recipient()));
}
