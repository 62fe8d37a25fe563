//! The server: listeners, connections, request heads, and limits on all of them.

pub mod client;
pub mod connection;
pub mod head;
pub mod limits;
pub mod listener;
pub mod memory;
pub mod occupancy;
mod unix;
