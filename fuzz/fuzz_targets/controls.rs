//! Requests that set controls, on the synthetic camera's.
#![no_main]

use std::sync::LazyLock;

static PANEL: LazyLock<framehub::fuzzing::Controls> = LazyLock::new(framehub::fuzzing::Controls::default);

libfuzzer_sys::fuzz_target!(|data: &[u8]| PANEL.update(data));
