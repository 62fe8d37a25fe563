//! What std lacks: the operating system, resources and the log.

pub mod log;
pub mod os;
pub(crate) mod percent;
pub mod resources;
pub mod supervisor;
pub(crate) mod sync;
