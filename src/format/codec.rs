//! Reading and writing integers, varints and byte strings with bounds.

use super::FormatError;
use crate::types::as_index;

type Result<T> = std::result::Result<T, FormatError>;

/// Walks over bytes; never reads past their end.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, offset: 0 }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// The next `n` bytes.
    #[inline]
    pub fn bytes(&mut self, what: &'static str, n: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.offset..).expect("no more was read than there is");
        let taken = rest
            .get(..n)
            .ok_or_else(|| FormatError::truncated(self.offset, what, n, rest.len()))?;
        self.offset += n;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(what, N)?);
        Ok(array)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// Two bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes.
    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Bytes that must be zero.
    pub fn zeros(&mut self, what: &'static str, n: usize) -> Result<()> {
        let at = self.offset;
        match self.bytes(what, n)?.iter().find(|&&b| b != 0) {
            None => Ok(()),
            Some(b) => Err(FormatError::structure(at, what, "zero", b)),
        }
    }

    /// A LEB128 integer in its shortest form.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64> {
        // Most are one byte.
        match self.bytes.get(self.offset) {
            Some(&byte) if byte < 0x80 => {
                self.offset += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(what),
        }
    }

    fn long_varint(&mut self, what: &'static str) -> Result<u64> {
        let at = self.offset;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(FormatError::structure(at, what, "at most 64 bits", "more"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(FormatError::structure(
                        at,
                        what,
                        "the shortest form",
                        "a longer one",
                    ));
                }
                return Ok(value);
            }
        }
        Err(FormatError::structure(at, what, "at most ten bytes", "more"))
    }

    /// A varint that must not be greater than `limit`.
    #[inline]
    pub fn varint_up_to(&mut self, what: &'static str, limit: u64) -> Result<u64> {
        let at = self.offset;
        let value = self.varint(what)?;
        if value > limit {
            return Err(FormatError::structure(at, what, format_args!("at most {limit}"), value));
        }
        Ok(value)
    }

    /// A varint length, at most `limit`, as an index.
    #[inline]
    pub fn length(&mut self, what: &'static str, limit: usize) -> Result<usize> {
        let value = self.varint_up_to(what, limit as u64)?;
        // At most `limit`, which is a usize.
        Ok(as_index(value))
    }

    /// A UTF-8 string with its length before it.
    pub fn text(&mut self, what: &'static str, limit: usize) -> Result<&'a str> {
        let n = self.length(what, limit)?;
        let at = self.offset;
        let bytes = self.bytes(what, n)?;
        std::str::from_utf8(bytes)
            .map_err(|e| FormatError::structure(at + e.valid_up_to(), what, "UTF-8", "other bytes"))
    }
}

/// Appends a LEB128 integer.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

fn low_byte(value: u64) -> u8 {
    let [low, ..] = value.to_le_bytes();
    low
}

/// Appends bytes with their length before them.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_round_trip_at_every_width() {
        for value in (0..64).flat_map(|s| [(1u64 << s) - 1, 1 << s, u64::MAX >> s]) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut r = Reader::new(&out);
            assert_eq!(r.varint("v").unwrap(), value);
            assert!(r.is_empty());
        }
    }

    #[test]
    fn varints_have_one_form() {
        for bad in [&[0x80, 0x00][..], &[0xff; 10], &[0x80; 11], &[0x80], &[]] {
            assert!(Reader::new(bad).varint("v").is_err(), "{bad:?}");
        }
    }
}
