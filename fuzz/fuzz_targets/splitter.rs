//! A stream of bytes with pictures in it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::splitter(data));
