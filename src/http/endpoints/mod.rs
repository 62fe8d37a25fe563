//! One file an endpoint: what a request for it is answered with.

pub mod clip;
pub mod controls;
pub mod figures;
pub mod octolapse;
pub mod page;
pub mod picture;
pub mod stream;
