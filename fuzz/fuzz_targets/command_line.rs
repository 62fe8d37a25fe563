//! Command lines of our own and of other programs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| framehub::fuzzing::command_line(data));
