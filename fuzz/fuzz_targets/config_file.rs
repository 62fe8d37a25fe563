//! A JSON configuration file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::config_file(data));
