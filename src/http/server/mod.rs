//! From a listening socket to a request head, within limits.

pub mod client;
pub mod connection;
pub mod head;
pub mod limits;
pub mod listener;
mod unix;
