//! Trees shaped as real boards, every fault a sensor or an actuator can show.

mod actuate;
mod boards;
mod faults;
pub(crate) mod tree;
