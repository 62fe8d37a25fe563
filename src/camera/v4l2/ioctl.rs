//! Calls of ioctls that the crate `v4l` does not have, has wrongly, or has without a limit.
#![allow(unsafe_code)]

use std::io;

use v4l::device::Handle;
use v4l::v4l_sys::{
    v4l2_capability, v4l2_ext_control, v4l2_ext_controls, v4l2_fmtdesc, v4l2_frmivalenum, v4l2_frmsizeenum,
    v4l2_query_ext_ctrl, v4l2_querymenu,
};
use v4l::v4l2::vidioc::_IOC_TYPE;

/// A C struct that ioctls fill: all zeroes are a value of it, and any bytes that a driver writes are.
///
/// # Safety
/// Both must be true of the type.
pub unsafe trait Plain: Sized {
    /// A value of zeroes.
    fn zeroed() -> Self {
        // SAFETY: this is what the trait promises.
        unsafe { std::mem::zeroed() }
    }
}
// SAFETY: integers, arrays and unions of integers, and pointers, which may be null.
unsafe impl Plain for v4l2_capability {}
// SAFETY: as above.
unsafe impl Plain for v4l2_fmtdesc {}
// SAFETY: as above.
unsafe impl Plain for v4l2_frmsizeenum {}
// SAFETY: as above.
unsafe impl Plain for v4l2_frmivalenum {}
// SAFETY: as above.
unsafe impl Plain for v4l2_query_ext_ctrl {}
// SAFETY: as above.
unsafe impl Plain for v4l2_querymenu {}
// SAFETY: as above.
unsafe impl Plain for v4l2_ext_control {}
// SAFETY: as above.
unsafe impl Plain for v4l2_ext_controls {}

/// Calls an ioctl, again if a signal interrupts it.
///
/// # Safety
/// `request` must be an ioctl that takes a `T`, and the pointers in `argument` must be valid.
pub unsafe fn call<T: Plain>(handle: &Handle, request: _IOC_TYPE, argument: &mut T) -> io::Result<()> {
    loop {
        // SAFETY: as the caller promises; the handle keeps the descriptor open.
        match unsafe { v4l::v4l2::ioctl(handle.fd(), request, std::ptr::from_mut(argument).cast()) } {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
