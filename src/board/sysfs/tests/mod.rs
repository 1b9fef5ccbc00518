//! Trees shaped as real boards, every fault a sensor or an actuator can show.

mod actuate;
mod boards;
mod faults;
mod fuse;
pub(crate) mod tree;
