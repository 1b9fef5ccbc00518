//! The operator's tool: arguments and exit codes; the work is in the library.

fn main() {}
