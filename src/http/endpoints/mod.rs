//! The endpoints: each file makes the responses of some URLs.

pub mod avi;
pub mod clip;
pub mod controls;
pub mod figures;
pub mod octolapse;
pub mod page;
pub mod picture;
pub mod stream;
