//! Finds the bytes of a page that changed where they stand.

/// Matches shorter than this are not worth a sequence: it takes two to three bytes.
const MIN_MATCH: u32 = 4;

/// Changed bytes `start..end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    pub start: u32,
    pub end: u32,
}

/// The changed places of a page, in order and at least [`MIN_MATCH`] bytes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    list: [Edit; Edits::MAX],
    count: usize,
    literals: u32,
}

impl Edits {
    /// More places than this are left to the general compressor.
    pub const MAX: usize = 16;

    /// Compares two images of the same length. `None` where they differ in more
    /// than `limit` bytes (counting short matches between edits), or in too many
    /// places, or have no four bytes in common.
    pub fn between(new: &[u8], old: &[u8], limit: u32) -> Option<Edits> {
        let length = u32::try_from(new.len()).ok().filter(|_| new.len() == old.len())?;
        let mut edits = Edits::default();
        let mut open = Edit::default();
        let mut at = 0;
        let (new_words, new_rest) = new.as_chunks::<32>();
        let (old_words, old_rest) = old.as_chunks::<32>();
        for (a, b) in new_words.iter().zip(old_words) {
            if a != b {
                edits.compare(a, b, at, limit, &mut open)?;
            }
            at += 32;
        }
        edits.compare(new_rest, old_rest, at, limit, &mut open)?;
        if open.end > 0 {
            if length - open.end < MIN_MATCH {
                open.end = length;
            }
            edits.push(open, limit)?;
        }
        (edits.literals < length).then_some(edits)
    }

    /// Extends `open` by what differs here; an edit that ends is taken up.
    #[inline]
    fn compare(
        &mut self,
        new: &[u8],
        old: &[u8],
        at: u32,
        limit: u32,
        open: &mut Edit,
    ) -> Option<()> {
        for (i, (a, b)) in (at..).zip(new.iter().zip(old)) {
            if a == b {
                continue;
            }
            // Zero is where a page begins too: a change near it joins the first literals.
            if i - open.end >= MIN_MATCH {
                if open.end > 0 {
                    self.push(*open, limit)?;
                }
                open.start = i;
            }
            open.end = i + 1;
        }
        Some(())
    }

    fn push(&mut self, edit: Edit, limit: u32) -> Option<()> {
        *self.list.get_mut(self.count)? = edit;
        self.count += 1;
        self.literals += edit.end - edit.start;
        (self.literals <= limit).then_some(())
    }

    /// The changed places.
    pub fn iter(&self) -> impl Iterator<Item = Edit> + '_ {
        self.list.iter().take(self.count).copied()
    }

    /// How many bytes they hold together.
    pub fn literals(&self) -> u32 {
        self.literals
    }
}
