//! All integration tests, as one binary.

mod basic;
mod support;
