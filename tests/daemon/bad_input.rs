//! What is wrong is named; what can go on goes on.

mod board;
mod files;
mod requests;
