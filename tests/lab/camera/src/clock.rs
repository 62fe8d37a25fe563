//! The clock that the camera writes into its frames.

/// CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    unsafe extern "C" {
        fn clock_gettime(clock: i32, ts: *mut [isize; 2]) -> i32;
    }
    let mut ts = [0isize; 2];
    // SAFETY: musl and glibc fill two machine words under this name, on 32 bits too.
    unsafe { clock_gettime(1, &mut ts) };
    ts[0] as u64 * 1_000_000_000 + ts[1] as u64
}
