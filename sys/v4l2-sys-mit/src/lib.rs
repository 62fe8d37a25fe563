//! The part of the kernel's `linux/videodev2.h` that `v4l` 0.14 and framehub use, as Rust declarations.
//!
//! It takes the place of the crates.io crate of the same name, whose build script runs bindgen
//! and so needs libclang and kernel headers at every build. `scripts/generate-v4l2-bindings`
//! makes both files; README.md says what holds them true.
#![no_std]

// These two align 64-bit integers in another way than the ARM layout recorded here.
#[cfg(all(target_pointer_width = "32", any(target_arch = "x86", target_arch = "x86_64")))]
compile_error!("no V4L2 bindings for 32-bit x86: build for x86_64, aarch64 or arm");

#[cfg(target_pointer_width = "32")]
mod bindings_32_time64;
#[cfg(target_pointer_width = "64")]
mod bindings_64;

#[cfg(target_pointer_width = "32")]
pub use bindings_32_time64::*;
#[cfg(target_pointer_width = "64")]
pub use bindings_64::*;
