//! The operator's tool, apart from its arguments: what `wattctl` shows, asks, loads and reports.

pub mod http;
pub mod load;
pub mod record;
pub mod report;
pub mod status;
