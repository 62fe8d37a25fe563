//! The log: one event a line on stderr, `level thread: event key=value`. journald adds the time.
//!
//! Writing never waits. A full pipe or a stopped terminal would otherwise stop every thread that logs. Lines that do not
//! fit are dropped and counted, and the next line that fits says how many there were.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use std::{panic, thread};

use log::{LevelFilter, Log, Metadata, Record, error};
use parking_lot::Mutex;
use socket2::SockRef;

use super::os;

/// A pipe with room for anything takes so many bytes at once (PIPE_BUF).
const PIECE: usize = 4096;

static LOGGER: Logger = Logger(Mutex::new(Output { rest: Vec::new(), dropped: 0 }));

/// Starts logging at level info and above; [`log::set_max_level`] changes that. Panics are logged too.
pub fn start() {
    log::set_max_level(LevelFilter::Info);
    // An error means that a logger is set already, as in tests.
    let _ = log::set_logger(&LOGGER);
    // The standard hook would wait for a full pipe.
    panic::set_hook(Box::new(|info| {
        error!("{}", info.to_string().replace('\n', " "));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            error!("{trace}");
        }
    }));
}

/// Prints a line on stderr as it is, without level and thread. Never waits and never fails.
pub fn print(line: &str) {
    LOGGER.0.lock().add(&format!("{line}\n"), write);
}

struct Logger(Mutex<Output>);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            let thread = thread::current();
            print(&format!("{level} {}: {}", thread.name().unwrap_or("-"), record.args()));
        }
    }

    /// Writes the rest of the last line, and how many lines were dropped.
    fn flush(&self) {
        self.0.lock().add("", write);
    }
}

/// What stderr has not taken.
struct Output {
    /// The end of a line of which only the start was taken.
    rest: Vec<u8>,
    /// Lines dropped since the last one that was taken.
    dropped: u64,
}

impl Output {
    /// Writes what is due and then this text, or counts it as dropped. `write` returns how many bytes were taken.
    fn add(&mut self, text: &str, write: impl Fn(&[u8]) -> usize) {
        if !self.rest.is_empty() {
            let taken = write(&self.rest);
            self.rest.drain(..taken);
        }
        let note = match self.dropped {
            0 => String::new(),
            count => format!("warn log: {count} log lines dropped: nobody read stderr\n"),
        };
        let due = [note.as_bytes(), text.as_bytes()].concat();
        if due.is_empty() {
            return;
        }
        match if self.rest.is_empty() { write(&due) } else { 0 } {
            0 => self.dropped += u64::from(!text.is_empty()),
            taken => {
                self.dropped = 0;
                self.rest = due[taken..].to_vec();
            }
        }
    }
}

/// Writes to stderr what it takes at once. A stderr that is closed takes everything: nobody wants it.
fn write(bytes: &[u8]) -> usize {
    match try_write(bytes) {
        Ok(taken) => taken,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => bytes.len(),
    }
}

/// O_NONBLOCK would be set for every process that shares this stderr. So sockets are sent to without waiting, pipes
/// and terminals are opened once more, and where that is forbidden they are asked for room first.
fn try_write(bytes: &[u8]) -> io::Result<usize> {
    let mut stderr = io::stderr();
    match SockRef::from(&stderr).send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {}
        sent => return sent,
    }
    let path = "/proc/self/fd/2";
    if fs::metadata(path).is_ok_and(|stderr| stderr.is_file()) {
        return stderr.write(bytes);
    }
    let own: io::Result<File> =
        OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    match own {
        Ok(mut own) => own.write(bytes),
        Err(_) if os::is_writable(stderr.as_fd(), Duration::ZERO, None)? => {
            stderr.write(&bytes[..bytes.len().min(PIECE)])
        }
        Err(_) => Err(ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A stderr with room for so many bytes.
    struct Pipe(RefCell<(usize, Vec<u8>)>);

    impl Pipe {
        fn write(&self, bytes: &[u8]) -> usize {
            let (room, taken) = &mut *self.0.borrow_mut();
            let count = bytes.len().min(*room);
            *room -= count;
            taken.extend(&bytes[..count]);
            count
        }

        fn read(&self, room: usize) -> String {
            let mut pipe = self.0.borrow_mut();
            pipe.0 = room;
            String::from_utf8(std::mem::take(&mut pipe.1)).unwrap()
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_dropped_and_counted() {
        let pipe = Pipe(RefCell::new((13, Vec::new())));
        let mut output = Output { rest: Vec::new(), dropped: 0 };
        let mut add = |line: &str| output.add(line, |bytes| pipe.write(bytes));
        ["first\n", "second, cut\n", "third\n", "fourth\n"].into_iter().for_each(&mut add);
        assert_eq!(pipe.read(1000), "first\nsecond,");
        add("fifth\n");
        assert_eq!(pipe.read(1000), " cut\nwarn log: 2 log lines dropped: nobody read stderr\nfifth\n");
        add("sixth\n");
        add("");
        assert_eq!(pipe.read(0), "sixth\n", "nothing is due");
        add("seventh\n");
        add("");
        assert_eq!(pipe.read(1000), "");
        add("");
        assert_eq!(pipe.read(0), "warn log: 1 log lines dropped: nobody read stderr\n", "flushed without a line");
    }
}
