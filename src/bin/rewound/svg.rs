//! wip
use crate::commands::Facts;
use crate::moment::Zone;
pub fn draw(_: &Facts, _: &Zone) -> String { String::new() }
