//! What is in a page: a bucket of entries, one after the other (length of the key, length of the
//! value, key, value), then zeros. Nothing here knows of the archive.

use rewound::{Error, PageSize, Result};

pub const PAGE: PageSize = PageSize::KIB_4;
pub const BUCKETS: usize = 16;

/// The bucket that a key belongs in.
pub fn bucket_of(key: &str) -> usize {
    key.bytes().fold(7_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)))
        % BUCKETS
}

/// The entries of a bucket. An empty key ends them.
fn entries(page: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = page;
    std::iter::from_fn(move || {
        let ([key, value], tail) = rest.split_first_chunk()?;
        let (key, tail) = tail.split_at_checked(usize::from(*key))?;
        let (value, tail) = tail.split_at_checked(usize::from(*value))?;
        rest = tail;
        (!key.is_empty()).then_some((key, value))
    })
}

/// The value of a key in these pages.
pub fn look_up(pages: &[Vec<u8>], key: &str) -> Option<String> {
    let (_, value) = entries(pages.get(bucket_of(key))?).find(|(k, _)| *k == key.as_bytes())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The bucket with an entry set.
pub fn with_entry(page: &[u8], key: &str, value: &str) -> Result<Vec<u8>> {
    let others = entries(page).filter(|(k, _)| *k != key.as_bytes());
    let mut new = Vec::with_capacity(page.len());
    for (key, value) in others.chain([(key.as_bytes(), value.as_bytes())]) {
        new.push(u8::try_from(key.len()).map_err(Error::host)?);
        new.push(u8::try_from(value.len()).map_err(Error::host)?);
        new.extend_from_slice(key);
        new.extend_from_slice(value);
    }
    if new.len() > PAGE.bytes() {
        return Err(Error::host("the bucket is full"));
    }
    new.resize(PAGE.bytes(), 0);
    Ok(new)
}
