//! Writes the zstd frame (RFC 8878) of a page that was edited in place.
//!
//! Such a patch is a handful of matches at one distance, so there is nothing to
//! search and no statistics to gather: one compressed block, its literals raw, its
//! sequences coded with the tables that the RFC predefines. Any zstd decoder reads it.
//! Writing it here takes a tenth of the time that the general compressor needs, most
//! of which goes into indexing the previous image.

use super::in_place::Edits;

/// Largest content of one zstd block, and so of the frames written here.
pub const MAX_CONTENT: usize = 128 << 10;

/// Bytes before the first block: descriptor and window.
pub const HEADER: usize = 2;

/// A frame header without content size, checksum or dictionary id, for a window
/// that holds `content` bytes. `None` beyond what a window of one mantissa-free byte describes.
pub fn header(content: usize) -> Option<[u8; HEADER]> {
    // RFC 8878, 3.1.1.1.2: the window is 2^(10 + exponent), the exponent in the upper five bits.
    let log = content.checked_next_power_of_two()?.ilog2().max(10);
    let exponent = u8::try_from(log - 10).ok().filter(|&e| e <= 21)?;
    Some([0, exponent << 3])
}

/// zstd's magic number, which nothing stored carries.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Puts our header in place of that of a frame of `content` bytes, written by zstd's one-shot
/// call, which names a content size and thus is the longer one. Returns where the frame begins
/// now; `None` where its header is not of the kind that call writes.
pub fn exchange_header(frame: &mut [u8], content: usize) -> Option<usize> {
    let descriptor = *frame.strip_prefix(&MAGIC)?.first()?;
    // A single segment, so no window; no checksum; no dictionary id (3.1.1.1.1).
    let size = match descriptor {
        0x20 => 1,
        0x60 => 2,
        0xA0 => 4,
        _ => return None,
    };
    let blocks = MAGIC.len() + 1 + size;
    let start = blocks - HEADER;
    frame.get_mut(start..blocks)?.copy_from_slice(&header(content)?);
    Some(start)
}

/// A run of bytes taken from the patch, then one copied from the previous image.
#[derive(Clone, Copy, Default)]
struct Sequence {
    literals: u32,
    matched: u32,
}

/// Appends the frame that makes `new` out of an equally long previous image which
/// differs from it within `edits` only. `None`, with nothing appended, where this
/// form cannot hold it.
pub fn write(new: &[u8], edits: &Edits, out: &mut Vec<u8>) -> Option<usize> {
    let start = out.len();
    let written = write_inner(new, edits, out);
    if written.is_none() {
        out.truncate(start);
    }
    written.map(|()| out.len() - start)
}

fn write_inner(new: &[u8], edits: &Edits, out: &mut Vec<u8>) -> Option<()> {
    if new.len() > MAX_CONTENT {
        return None;
    }
    let mut sequences = [Sequence::default(); Edits::MAX + 1];
    let mut count = 0;
    let mut literals = 0;
    let mut end = 0;
    for edit in edits.iter() {
        if edit.start > end {
            *sequences.get_mut(count)? = Sequence { literals, matched: edit.start - end };
            count += 1;
            literals = 0;
        }
        literals += edit.end - edit.start;
        end = edit.end;
    }
    let length = u32::try_from(new.len()).ok()?;
    if length > end {
        *sequences.get_mut(count)? = Sequence { literals, matched: length - end };
        count += 1;
    }
    let sequences = sequences.get(..count)?;

    out.extend_from_slice(&header(new.len())?);
    let block = out.len();
    out.extend_from_slice(&[0; 3]);
    // Raw literals: the length in five bits, or in twelve (3.1.1.3.1.1).
    let total = edits.literals();
    if total < 32 {
        out.push(u8::try_from(total << 3).ok()?);
    } else {
        let [low, high, ..] = u32::to_le_bytes(total << 4 | 1 << 2);
        if total >= 1 << 12 {
            return None;
        }
        out.extend_from_slice(&[low, high]);
    }
    for edit in edits.iter() {
        out.extend_from_slice(new.get(edit.start as usize..edit.end as usize)?);
    }
    // The number of sequences in one byte, then "predefined" for all three tables (3.1.1.3.2.1).
    out.extend_from_slice(&[u8::try_from(count).ok().filter(|&n| n > 0 && n < 128)?, 0]);
    write_sequences(sequences, length, out)?;

    let size = u32::try_from(out.len() - block - 3).ok()?;
    // Last block, of type "compressed" (3.1.1.2).
    let [a, b, c, _] = u32::to_le_bytes(size << 3 | 2 << 1 | 1);
    out.get_mut(block..block + 3)?.copy_from_slice(&[a, b, c]);
    Some(())
}

/// The bit stream, written from the last sequence to the first because it is read backwards.
fn write_sequences(sequences: &[Sequence], distance: u32, out: &mut Vec<u8>) -> Option<()> {
    let mut bits = Bits { out, value: 0, filled: 0 };
    let mut states: Option<[u32; 3]> = None;
    for (index, sequence) in sequences.iter().enumerate().rev() {
        let (ll, ll_bits) = literals_code(sequence.literals);
        let (ml, ml_bits) = match_code(sequence.matched.checked_sub(3)?);
        // Offsets are written plus three; 1 means "as last time", which holds as
        // there is a literal before every match but the first.
        let offset = if index == 0 { distance + 3 } else { 1 };
        let of = offset.ilog2();
        states = Some(match states {
            None => [MATCHES.first(ml)?, OFFSETS.first(of)?, LITERALS.first(ll)?],
            Some([m, o, l]) => {
                let o = OFFSETS.next(o, of, &mut bits)?;
                let m = MATCHES.next(m, ml, &mut bits)?;
                [m, o, LITERALS.next(l, ll, &mut bits)?]
            }
        });
        bits.push(sequence.literals, ll_bits);
        bits.push(sequence.matched - 3, ml_bits);
        bits.push(offset, of);
    }
    let [m, o, l] = states?;
    bits.push(m, MATCH_LOG);
    bits.push(o, OFFSET_LOG);
    bits.push(l, LITERAL_LOG);
    bits.finish();
    Some(())
}

/// Code and number of extra bits of a literals length (3.1.1.3.2.1.1). The extra
/// bits are the low ones of the value, as every baseline is a multiple of its range.
fn literals_code(n: u32) -> (u32, u32) {
    match n {
        0..16 => (n, 0),
        16..24 => (16 + (n - 16) / 2, 1),
        24..32 => (20 + (n - 24) / 4, 2),
        32..48 => (22 + (n - 32) / 8, 3),
        48..64 => (24, 4),
        _ => (n.ilog2() + 19, n.ilog2()),
    }
}

/// Code and number of extra bits of a match length less three.
fn match_code(n: u32) -> (u32, u32) {
    match n {
        0..32 => (n, 0),
        32..40 => (32 + (n - 32) / 2, 1),
        40..48 => (36 + (n - 40) / 4, 2),
        48..64 => (38 + (n - 48) / 8, 3),
        64..96 => (40 + (n - 64) / 16, 4),
        96..128 => (42, 5),
        _ => (n.ilog2() + 36, n.ilog2()),
    }
}

/// Gathers bits, lowest first.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    value: u64,
    filled: u32,
}

impl Bits<'_> {
    /// Appends the low `count` bits of `value`; at most 31.
    #[inline]
    fn push(&mut self, value: u32, count: u32) {
        debug_assert!(count < 32, "a field of the sequence stream has at most 31 bits");
        self.value |= (u64::from(value) & ((1 << count) - 1)) << self.filled;
        self.filled += count;
        if self.filled >= 32 {
            let [a, b, c, d, ..] = self.value.to_le_bytes();
            self.out.extend_from_slice(&[a, b, c, d]);
            self.value >>= 32;
            self.filled -= 32;
        }
    }

    /// Ends the stream with the one bit by which a decoder finds its end.
    fn finish(mut self) {
        self.push(1, 1);
        let bytes = self.value.to_le_bytes();
        self.out.extend(bytes.iter().take(self.filled.div_ceil(8) as usize));
    }
}

/// How to encode one symbol of an FSE table.
#[derive(Clone, Copy)]
struct Symbol {
    /// Added to a state, gives in its upper half the number of bits to write.
    delta_bits: u32,
    /// Added to a state without these bits, gives the place of the next one.
    delta_state: i32,
}

/// An FSE encoding table, made from the distribution of its symbols.
struct Table<const STATES: usize, const SYMBOLS: usize> {
    states: [u16; STATES],
    symbols: [Symbol; SYMBOLS],
}

impl<const STATES: usize, const SYMBOLS: usize> Table<STATES, SYMBOLS> {
    /// Spreads the symbols as RFC 8878, 4.1.1 says, and inverts the result.
    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "runs at compile time only, over constants of this file, where a bad index does not compile"
    )]
    const fn new(distribution: &[i8; SYMBOLS]) -> Self {
        let log = STATES.ilog2();
        let mut first = [0usize; SYMBOLS];
        let mut symbol_at = [0usize; STATES];
        let mut high = STATES;
        let mut total = 0;
        let mut s = 0;
        while s < SYMBOLS {
            first[s] = total;
            if distribution[s] < 0 {
                high -= 1;
                symbol_at[high] = s;
                total += 1;
            } else {
                total += distribution[s] as usize;
            }
            s += 1;
        }
        assert!(total == STATES, "a distribution fills its table");

        let step = STATES / 2 + STATES / 8 + 3;
        let mut position = 0;
        let mut s = 0;
        while s < SYMBOLS {
            let mut left = distribution[s];
            while left > 0 {
                symbol_at[position] = s;
                position = (position + step) % STATES;
                while position >= high {
                    position = (position + step) % STATES;
                }
                left -= 1;
            }
            s += 1;
        }

        let mut table = Table {
            states: [0; STATES],
            symbols: [Symbol { delta_bits: 0, delta_state: 0 }; SYMBOLS],
        };
        let mut next = first;
        let mut state = 0;
        while state < STATES {
            let s = symbol_at[state];
            table.states[next[s]] = (STATES + state) as u16;
            next[s] += 1;
            state += 1;
        }
        let mut s = 0;
        while s < SYMBOLS {
            let share = distribution[s].unsigned_abs() as u32;
            let bits = if share <= 1 { log } else { log - (share - 1).ilog2() };
            table.symbols[s] = Symbol {
                delta_bits: (bits << 16) - (share << bits),
                delta_state: first[s] as i32 - share as i32,
            };
            s += 1;
        }
        table
    }

    /// The state that the stream ends in, so that its last symbol is this one.
    fn first(&self, symbol: u32) -> Option<u32> {
        let symbol = self.symbols.get(symbol as usize)?;
        let bits = (symbol.delta_bits + (1 << 15)) >> 16;
        self.state(((bits << 16) - symbol.delta_bits) >> bits, *symbol)
    }

    /// Writes what leads from the state before this symbol to `state`, and returns the former.
    #[inline]
    fn next(&self, state: u32, symbol: u32, bits: &mut Bits<'_>) -> Option<u32> {
        let symbol = self.symbols.get(symbol as usize)?;
        let count = (state + symbol.delta_bits) >> 16;
        bits.push(state, count);
        self.state(state >> count, *symbol)
    }

    #[inline]
    fn state(&self, reduced: u32, symbol: Symbol) -> Option<u32> {
        let place = reduced.checked_add_signed(symbol.delta_state)?;
        self.states.get(place as usize).map(|&s| u32::from(s))
    }
}

// The predefined distributions: RFC 8878, 3.1.1.3.2.2. -1 is "less than one".
const LITERAL_LOG: u32 = 6;
static LITERALS: Table<64, 36> = Table::new(&[
    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
    -1, -1, -1, -1,
]);
const MATCH_LOG: u32 = 6;
static MATCHES: Table<64, 53> = Table::new(&[
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
]);
const OFFSET_LOG: u32 = 5;
static OFFSETS: Table<32, 29> = Table::new(&[
    1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1,
]);
