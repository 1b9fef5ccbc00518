//! Trees shaped as real boards, every fault a sensor or an actuator can show.

mod actuate;
mod alike;
mod boards;
mod extras;
mod faults;
mod fuse;
mod others;
pub(crate) mod tree;
