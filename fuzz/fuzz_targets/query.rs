//! A URL and its parameters.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::query(data));
