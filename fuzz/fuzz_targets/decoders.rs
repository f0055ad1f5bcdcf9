//! Whatever the bytes, every decoder ends, with a value or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rewound::bench_support::decode_all(bytes));
