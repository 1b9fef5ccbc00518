//! The operator's tool, apart from its arguments: what `wattctl` shows, asks, loads and reports.

pub mod ask;
pub mod board;
pub mod explain;
pub mod load;
pub mod man;
pub mod record;
pub mod report;
pub mod rollout;
pub mod rpc;
pub mod show;
pub mod simulate;
pub mod status;
pub mod whatif;
