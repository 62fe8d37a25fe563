//! A camera whose driver writes any bytes into the structs of all ioctls, and fails where it likes.
//!
//! The node is a memory file, so that the driver's buffers can be mapped. The crate `v4l` calls ioctls by `syscall`, which
//! is defined here again: V4L2's ioctls are played by the input, all other calls go to the kernel.
#![no_main]

use std::arch::asm;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::sync::{LazyLock, Once};

/// Bytes of the memory file. A kernel maps no more of a buffer than there is.
const FILE: usize = 64 * 1024;
/// `_IOC_NR` of the ioctls in which some bytes are the kernel's own word, not the driver's.
const REQBUFS: u64 = 8;
const QUERYBUF: u64 = 9;
const DQBUF: u64 = 17;
const STREAMON: u64 = 18;
const STREAMOFF: u64 = 19;

thread_local! {
    static SCRIPT: RefCell<(Vec<u8>, usize, u32)> = const { RefCell::new((Vec::new(), 0, 0)) };
    static IS_STOPPED: Cell<bool> = const { Cell::new(false) };
}

fn next(count: usize) -> Vec<u8> {
    SCRIPT.with_borrow_mut(|(bytes, at, _)| {
        let end = bytes.len().min(*at + count);
        let taken = bytes[*at..end].to_vec();
        *at = end;
        taken
    })
}

/// # Safety
/// As the system call's.
unsafe fn kernel(number: i64, args: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: as the caller promises.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5], lateout("rcx") _, lateout("r11") _);
    }
    result
}

fn fail(errno: i32) -> i64 {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// # Safety
/// As that of the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: i64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
    if number == libc::SYS_ioctl && (b >> 8) & 0xFF == u64::from(b'V') {
        // SAFETY: V4L2's ioctls have the size of what they point to in their number.
        return unsafe { play(b, c as *mut u8) };
    }
    // SAFETY: as the caller promises.
    match unsafe { kernel(number, [a, b, c, d, e, f]) } {
        error @ -4095..=-1 => fail(-error as i32),
        result => result,
    }
}

/// # Safety
/// `argument` must point to what the ioctl takes.
unsafe fn play(request: u64, argument: *mut u8) -> i64 {
    let (number, size) = (request & 0xFF, (request >> 16) as usize & 0x3FFF);
    let is_read = request >> 31 & 1 == 1;
    let fate = match next(1).first() {
        None => return fail(libc::EINVAL),
        Some(fate) => *fate,
    };
    match fate {
        // A stream that was stopped can be stopped again: videobuf2 sees to that.
        _ if number == STREAMOFF && IS_STOPPED.get() => return 0,
        0xF8..=0xFF => {
            let errors = [libc::EINVAL, libc::EIO, libc::EBUSY, libc::ENOTTY, libc::ENODEV, libc::EAGAIN, libc::ENOSPC];
            return fail(errors.get(usize::from(fate - 0xF8)).copied().unwrap_or(libc::EPIPE));
        }
        _ if !is_read || argument.is_null() => {
            IS_STOPPED.set(number == STREAMOFF || IS_STOPPED.get() && number != STREAMON);
            return 0;
        }
        _ => {}
    }
    // SAFETY: as the caller promises.
    let argument = unsafe { std::slice::from_raw_parts_mut(argument, size) };
    // VIDIOC_G_EXT_CTRLS and its kin hold a pointer, which no driver changes.
    if size == 32 && (number == 71 || number == 72) {
        return 0;
    }
    // Half of the calls leave the struct as it was but for one run of bytes: else nothing is understood ever.
    match fate & 1 {
        0 => {
            let at = usize::from(fate) * 4 % size.max(1);
            let bytes = next(usize::from(fate >> 4) + 1);
            let end = size.min(at + bytes.len());
            argument[at..end].copy_from_slice(&bytes[..end - at]);
        }
        _ => {
            let bytes = next(size);
            argument[..bytes.len()].copy_from_slice(&bytes);
        }
    }
    let mut set = |at: usize, value: u32| argument[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    match number {
        // The kernel grants at most 32 buffers.
        REQBUFS => {
            let granted = u32::from(fate) % 33;
            set(0, granted);
            SCRIPT.with_borrow_mut(|script| script.2 = granted);
        }
        // Where a buffer lies is the kernel's word; a mapping of more than there is would fail.
        QUERYBUF => {
            set(64, 0);
            set(72, u32::from(fate) * 256 + 1);
        }
        // Mostly a buffer that was granted, or nothing is ever taken.
        DQBUF if fate < 0xE0 => {
            let granted = SCRIPT.with_borrow(|script| script.2);
            set(0, u32::from(fate >> 1) % granted.max(1));
        }
        _ => {}
    }
    0
}

static NODE: LazyLock<(File, PathBuf)> = LazyLock::new(|| {
    // SAFETY: the name ends with a NUL.
    let fd = unsafe { libc::memfd_create(c"camera".as_ptr(), 0) };
    assert!(fd >= 0, "a memory file");
    // SAFETY: nobody else has this descriptor.
    let mut file = unsafe { File::from_raw_fd(fd) };
    let picture = include_bytes!("../seeds/jpeg/small.jpg");
    file.write_all(&picture.repeat(FILE / picture.len() + 1)[..FILE]).expect("room in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
    (file, path)
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [buffers, script @ ..] = data else { return };
    static QUIET: Once = Once::new();
    // The fuzzer's hook ends the process at any panic; but framehub catches those that `v4l` is known for. One that is not
    // caught still is a find.
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            if std::env::var_os("FUZZ_PANICS").is_some() {
                eprintln!("{panic}");
            }
        }))
    });
    SCRIPT.set((script.to_vec(), 0, 0));
    IS_STOPPED.set(false);
    framehub::fuzzing::device(&NODE.1, u32::from(buffers % 8));
});
