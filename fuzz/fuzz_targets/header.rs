//! What stands in a picture's header, when the time and the camera's name are added.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::header(data));
