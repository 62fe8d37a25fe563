//! What a camera sends as a picture.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::jpeg(data));
