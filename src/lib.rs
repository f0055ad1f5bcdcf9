//! `rewound`: point-in-time recovery for database engines.

pub mod env;
pub mod error;
mod format;
pub mod types;

pub use error::{Error, Result};
