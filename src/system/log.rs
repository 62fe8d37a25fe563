//! The log: one event a line on stderr, `level thread: event key=value`. journald adds the time.
//!
//! Writing never waits. A full pipe or a stopped terminal would otherwise stop every thread that logs. Lines that do not
//! fit are dropped and counted, and the next line that fits says how many there were. So are the lines of clients' threads
//! beyond some hundreds a second: whoever connects thousands of times must not fill the disk.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use std::{panic, thread};

use log::{Level, LevelFilter, Log, Metadata, Record, error};
use parking_lot::Mutex;
use socket2::SockRef;

use super::os;

/// A pipe with room for anything takes so many bytes at once (PIPE_BUF).
const PIECE: usize = 4096;

/// The name of each thread that serves a client.
pub const CLIENT: &str = "client";
/// Most lines a second, below errors and above debugging, of all clients' threads together: enough for every viewer of a
/// full server to leave at once.
const CLIENT_LINES: u64 = 200;

static LOGGER: Logger = Logger(Mutex::new(Output { rest: Vec::new(), dropped: 0 }));
static QUOTA: Mutex<Quota> = Mutex::new(Quota { second: 0, lines: 0 });

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

/// Logs how many lines were left out in a second that is over.
pub fn note_left_out() {
    let note = QUOTA.lock().begin(os::monotonic().as_secs());
    if let Some(note) = note {
        print(&note);
    }
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
            let is_limited = thread.name() == Some(CLIENT) && matches!(record.level(), Level::Info | Level::Warn);
            note_left_out();
            if is_limited && !QUOTA.lock().take() {
                return;
            }
            print(&format!("{level} {}: {}", thread.name().unwrap_or("-"), record.args()));
        }
    }

    /// Writes the rest of the last line, and how many lines were left out or dropped.
    fn flush(&self) {
        if let Some(note) = QUOTA.lock().end() {
            print(&note);
        }
        self.0.lock().add("", write);
    }
}

/// How many lines clients' threads have logged in this second.
struct Quota {
    second: u64,
    lines: u64,
}

impl Quota {
    /// Begins this second, if it has not begun, and says how many lines were left out in the one before.
    fn begin(&mut self, second: u64) -> Option<String> {
        if std::mem::replace(&mut self.second, second) == second { None } else { self.end() }
    }

    /// Counts a line of a client; `false` if it is to be left out.
    fn take(&mut self) -> bool {
        self.lines += 1;
        self.lines <= CLIENT_LINES
    }

    /// Ends the second, and says how many lines were left out in it.
    fn end(&mut self) -> Option<String> {
        let left_out = std::mem::take(&mut self.lines).saturating_sub(CLIENT_LINES);
        let note = format!("info log: {left_out} lines of clients left out: more than {CLIENT_LINES} in a second");
        (left_out > 0).then_some(note)
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
    fn many_lines_in_a_second_are_counted() {
        let mut quota = Quota { second: 0, lines: 0 };
        let mut take = |second, is_limited: bool| {
            let note = quota.begin(second);
            (!is_limited || quota.take()).then(|| note.unwrap_or_default())
        };
        assert!((0..CLIENT_LINES).all(|_| take(7, true) == Some(String::new())));
        assert!((0..1000).all(|_| take(7, true).is_none()));
        assert_eq!(take(7, false), Some(String::new()), "other threads' lines");
        assert!(take(8, false).unwrap().contains(" 1000 lines"), "the next line of any thread says so");
        assert!((0..CLIENT_LINES).all(|_| take(8, true) == Some(String::new())));
        assert_eq!((take(8, true), take(9, true)), (None, Some(quota_note(1))));
        assert_eq!(quota.end(), None);
    }

    fn quota_note(lines: u64) -> String {
        format!("info log: {lines} lines of clients left out: more than {CLIENT_LINES} in a second")
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
