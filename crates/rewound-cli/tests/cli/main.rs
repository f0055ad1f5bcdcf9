//! The command line, used as a person would use it: the real program, real files, a real terminal
//! where one matters.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what is wrong in a test shows as a panic; clippy.toml reaches only into functions marked as tests"
)]

mod commands;
mod errors;
mod estate;
mod live;
mod messages;
mod pictures;
mod replace;
mod retention;
mod signals;
mod terminal;
mod users;
