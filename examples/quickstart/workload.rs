//! A small shop's database: the work that SQLite does while it is archived. The same seed gives the
//! same work.

use rusqlite::{Connection, Result, params};

pub const ACCOUNTS: u64 = 5_000;

/// A generator of numbers that look random (`SplitMix64`), so that the example needs no crate for
/// it.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    /// A number for SQLite, whose integers are signed.
    fn value(&mut self, bound: u64) -> i64 {
        self.below(bound).cast_signed()
    }

    /// Text of letters, about so long: it compresses about as well as notes that people write.
    fn text(&mut self, length: u64) -> String {
        const WORDS: [&str; 12] = [
            "paid", "order", "for", "late", "refund", "thanks", "to", "again", "blue", "box",
            "shipped", "on",
        ];
        let mut text = String::new();
        while (text.len() as u64) < length {
            text.push_str(
                WORDS
                    .get(usize::try_from(self.below(12)).unwrap_or(0))
                    .copied()
                    .unwrap_or_default(),
            );
            text.push_str(&[" ", &self.below(1_000).to_string(), " "].concat());
        }
        text
    }

    fn blob(&mut self, length: u64) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.below(u64::MAX).to_le_bytes()).collect()
    }
}

/// The first few transactions: schema and stock. Each element commits by itself.
pub fn setup(db: &mut Connection, numbers: &mut Numbers, step: u64) -> Result<()> {
    match step {
        0 => db.execute_batch(
            "CREATE TABLE account (id INTEGER PRIMARY KEY, name TEXT NOT NULL, balance INTEGER NOT NULL DEFAULT 0)",
        ),
        1 => db.execute_batch(
            "CREATE TABLE entry (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, amount INTEGER NOT NULL, note TEXT)",
        ),
        2 => db.execute_batch("CREATE TABLE picture (id INTEGER PRIMARY KEY, account INTEGER, bytes BLOB NOT NULL)"),
        _ => {
            let transaction = db.transaction()?;
            for id in 1..=ACCOUNTS {
                let name = format!("customer {id}: {}", numbers.text(60));
                transaction
                    .prepare_cached("INSERT INTO account (id, name) VALUES (?1, ?2)")?
                    .execute(params![id.cast_signed(), name])?;
            }
            transaction.commit()
        }
    }
}

/// The ordinary transaction, as in TPC-B: moves an amount to an account and notes it.
pub fn payment(db: &mut Connection, numbers: &mut Numbers) -> Result<()> {
    let (account, amount) = (1 + numbers.value(ACCOUNTS), numbers.value(10_000) - 5_000);
    let note = numbers.text(20);
    let transaction = db.transaction()?;
    transaction
        .prepare_cached("UPDATE account SET balance = balance + ?1 WHERE id = ?2")?
        .execute([amount, account])?;
    transaction
        .prepare_cached("INSERT INTO entry (account, amount, note) VALUES (?1, ?2, ?3)")?
        .execute(params![account, amount, note])?;
    transaction.commit()
}

/// Stores a picture of up to 40 KB: pages that do not compress.
pub fn picture(db: &Connection, numbers: &mut Numbers) -> Result<()> {
    let (account, length) = (1 + numbers.value(ACCOUNTS), 1_000 + numbers.below(39_000));
    let bytes = numbers.blob(length);
    db.execute("INSERT INTO picture (account, bytes) VALUES (?1, ?2)", params![account, bytes])
        .map(drop)
}

/// Deletes entries and pictures of one account in fifty, so that pages become free and are used
/// again.
pub fn tidy(db: &mut Connection, numbers: &mut Numbers) -> Result<()> {
    let remainder = numbers.value(50);
    let transaction = db.transaction()?;
    transaction.execute("DELETE FROM entry WHERE account % 50 = ?1", [remainder])?;
    transaction.execute("DELETE FROM picture WHERE account % 50 = ?1", [remainder])?;
    transaction.commit()
}
