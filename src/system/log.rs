//! The logger: one event a line on stderr, `level thread: event key=value`. journald adds the time.

use std::io::Write;
use std::thread;

use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_ascii_lowercase();
        let thread = thread::current();
        // One write a line, so that threads do not mix. Somebody who closed our stderr does not want it.
        let line = format!("{level} {}: {}\n", thread.name().unwrap_or("-"), record.args());
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// Starts logging at `level` and above. Only the first call counts.
pub fn start(level: LevelFilter) {
    log::set_max_level(level);
    // An error means that a logger is set already, as in tests.
    let _ = log::set_logger(&Stderr);
}
