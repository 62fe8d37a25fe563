//! Clients of the three delivery modes: light readers that look at the numbers of frames, not at every byte (the
//! golden format has its own tests), so that many of them fit beside the server on a small machine.
#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Stamp, TestServer, is_long_run, narrow_connection, request, stamp_of, sys};

/// A receive buffer so small that the server soon feels how slowly we read.
pub const NARROW: usize = 16 * 1024;

/// The full time in the long run, a tenth of it otherwise.
pub fn duration(long: Duration) -> Duration {
    if is_long_run() { long } else { long / 10 }
}

/// What a reader noted of one frame.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// `X-Frame-Seq`, which only `all` and `lockstep` clients are sent.
    pub number: Option<u64>,
    /// The synthetic camera's own.
    pub stamp: Stamp,
    /// From its capture to its last byte's arrival here.
    pub age: Duration,
}

/// Reads a stream's parts.
pub struct Parts<R = TcpStream> {
    reader: BufReader<R>,
    body: Vec<u8>,
}

impl Parts<TcpStream> {
    /// Opens `target` on an ordinary connection.
    #[track_caller]
    pub fn open(server: &TestServer, target: &str) -> Self {
        Self::over(Client::connect(server.address()), target)
    }

    /// The same on a connection with a small receive buffer.
    #[track_caller]
    pub fn open_narrow(address: SocketAddr, target: &str) -> Self {
        Self::over(Client::over(narrow_connection(address, NARROW)), target)
    }

    #[track_caller]
    fn over(mut client: Client, target: &str) -> Self {
        client.send(request("GET", target));
        let response = client.response();
        assert_eq!(response.status, 200, "{target}: {}", response.head);
        Self::new(client.into_reader())
    }
}

impl<R: Read> Parts<R> {
    pub fn new(reader: BufReader<R>) -> Self {
        Self { reader, body: Vec::new() }
    }

    pub fn into_reader(self) -> BufReader<R> {
        self.reader
    }

    /// The next frame; an error at whatever else comes, such as the end.
    pub fn next(&mut self) -> io::Result<Seen> {
        let (mut number, mut length) = (None, None);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line == "--boundarydonotcross--" {
                let mut rest = String::new();
                self.reader.read_to_string(&mut rest)?;
                return Err(io::Error::other(format!("ended: {rest}")));
            }
            match line.split_once(": ") {
                Some(("X-Frame-Seq", value)) => number = value.parse().ok(),
                Some(("Content-Length", value)) => length = value.parse::<usize>().ok(),
                Some(_) => {}
                None if line.is_empty() && length.is_some() => break,
                None => {}
            }
        }
        self.body.resize(length.unwrap_or(0), 0);
        self.reader.read_exact(&mut self.body)?;
        let stamp = stamp_of(&self.body).map_err(io::Error::other)?;
        let age = Duration::from_nanos(sys::monotonic_ns().saturating_sub(stamp.mono_ns));
        Ok(Seen { number, stamp, age })
    }

    /// Frames for this time, each taken no sooner than `period` after the one before. Ends early with the stream.
    pub fn take_for(&mut self, time: Duration, period: Duration) -> Vec<Seen> {
        self.take_to_end(time, period).0
    }

    /// The same, and how the stream ended if it did.
    pub fn take_to_end(&mut self, time: Duration, period: Duration) -> (Vec<Seen>, Option<io::Error>) {
        let start = Instant::now();
        let (mut seen, mut due) = (Vec::new(), start);
        while start.elapsed() < time {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due = (due + period).max(Instant::now() - period);
            match self.next() {
                Ok(frame) => seen.push(frame),
                Err(end) => return (seen, Some(end)),
            }
        }
        (seen, None)
    }
}

/// Tells readers in other threads that it is over; also when the test fails, or they would never end.
#[derive(Default)]
pub struct Over(AtomicBool);

impl Over {
    pub fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It is over when this is dropped.
    pub fn when_dropped(&self) -> impl Drop {
        OverWhenDropped(self)
    }
}

struct OverWhenDropped<'a>(&'a Over);

impl Drop for OverWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// How many frames the camera made from the first to the last of these: what could have been seen.
pub fn captured(seen: &[Seen]) -> u64 {
    seen[seen.len() - 1].stamp.seq - seen[0].stamp.seq + 1
}

/// The `X-Frame-Seq` of each.
#[track_caller]
pub fn numbers(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|frame| frame.number.expect("X-Frame-Seq")).collect()
}

/// Asserts that no number is missing and none comes twice.
#[track_caller]
pub fn assert_no_gap(who: &str, numbers: &[u64]) {
    assert!(numbers.len() > 1, "{who}: only {} frames", numbers.len());
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert!(gap.is_none(), "{who}: {gap:?} in {} frames", numbers.len());
}

pub fn median(mut values: Vec<Duration>) -> Duration {
    assert!(!values.is_empty(), "nothing was measured");
    values.sort();
    values[values.len() / 2]
}
