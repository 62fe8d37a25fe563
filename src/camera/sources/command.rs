//! The pictures that a command writes to its standard output, or that come on standard input.
//!
//! The command runs while somebody wants pictures, under a supervisor that ends it (`system/supervisor.rs`). It comes from
//! the command line or the configuration file, never from a request.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::info;
use parking_lot::{Condvar, Mutex};

use super::device::{Arrivals, Backoff, Input, Limited, SourceDevice, Started, absent, failed, without_credentials};
use crate::camera::{CameraError, Device, Mode, RawFrame, Source};
use crate::system::os::{self, Event};
use crate::system::supervisor;

const READ: usize = 64 << 10;
/// Lines of the command's error output in the log, in 10 s.
const LOG_LINES: u32 = 20;
/// What is logged of a longer line.
const LOG_LINE: usize = 300;
/// How long a command may take for its first picture: it may hang, and the next one may not. `--stall-timeout` gives more.
const FIRST: Duration = Duration::from_secs(8);
/// How long the end of the command before may take: longer than its supervisor needs.
const END: Duration = Duration::from_secs(5);
/// How long to wait for the exit status of a command that has closed its output.
const STATUS: Duration = Duration::from_millis(500);

/// A command, or standard input.
pub struct CommandSource {
    command: Option<String>,
    backoff: Arc<Backoff>,
}

impl CommandSource {
    /// A source that runs this command; `None` reads standard input.
    pub fn new(command: Option<String>) -> Self {
        Self { command, backoff: Arc::default() }
    }
}

impl Source for CommandSource {
    fn open(&self) -> Result<Box<dyn Device>, CameraError> {
        let backoff = self.backoff.clone();
        let Some(command) = self.command.clone() else {
            let begin = move |want: Mode| {
                let is_first = backoff.begin();
                Ok::<Started, _>((want.fps, Box::new(StandardInput::new(is_first)?)))
            };
            return Ok(SourceDevice::open(["-", "standard input", "command"].map(String::from), begin));
        };
        let node = without_credentials(&format!("exec:{command}"));
        let card = command.split_whitespace().next().unwrap_or_default().to_owned();
        let begin = move |want: Mode| {
            backoff.begin();
            Ok::<Started, _>((want.fps, Box::new(Run::start(&command)?)))
        };
        Ok(SourceDevice::open([node, card, "command".into()], begin))
    }

    fn longest_start(&self) -> Option<Duration> {
        Some(FIRST)
    }

    fn retry(&self, failures: u32) -> Duration {
        self.backoff.left(failures)
    }
}

/// The commands that run for this program's one camera, which one of them at a time can open.
static RUNS: Runs = Runs { running: Mutex::new(0), ended: Condvar::new() };

struct Runs {
    running: Mutex<u32>,
    ended: Condvar,
}

impl Runs {
    /// Counts one more, when all before have ended.
    fn begin(&self) -> Result<(), CameraError> {
        let deadline = Instant::now() + END;
        let mut running = self.running.lock();
        while *running > 0 {
            if self.ended.wait_until(&mut running, deadline).timed_out() {
                return Err(failed("the command that ran before has not ended yet"));
            }
        }
        *running += 1;
        Ok(())
    }

    fn end(&self) {
        *self.running.lock() -= 1;
        self.ended.notify_all();
    }
}

/// A command that runs, from its start to the end of its last process.
pub struct Run {
    child: Option<Child>,
    arrivals: Arrivals,
    log: LineLog,
}

impl Run {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started, or the one before has not ended.
    pub fn start(command: &str) -> Result<Self, CameraError> {
        RUNS.begin()?;
        let child = supervisor::spawn(command).inspect_err(|_| RUNS.end());
        let child = child.map_err(|error| failed(format!("cannot start the command: {error}")))?;
        Ok(Self { child: Some(child), arrivals: Arrivals::new("the command"), log: LineLog::new() })
    }

    /// Reads what has come by `deadline`; `false` where the output has ended.
    fn read(&mut self, deadline: Instant) -> io::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        let Some(output) = &mut child.stdout else { return Ok(false) };
        let left = Some(deadline.saturating_duration_since(Instant::now()));
        let mut fds = vec![output.as_fd()];
        fds.extend(child.stderr.as_ref().map(AsFd::as_fd));
        let events = os::poll_all(&fds, left)?;
        if events.get(1).is_some_and(|event| *event != Event::Nothing)
            && let Some(errors) = &mut child.stderr
            && !self.log.read(errors)?
        {
            child.stderr = None;
        }
        match events[0] {
            Event::Nothing => Ok(true),
            _ => read_some(output, &mut self.arrivals),
        }
    }

    /// Why it gives no more pictures.
    fn end(&mut self) -> CameraError {
        let status = self.child.as_mut().and_then(status);
        if let Some(errors) = self.child.as_mut().and_then(|child| child.stderr.as_mut()) {
            // Whoever holds it would hold the output too.
            while self.log.read(errors).unwrap_or(false) {}
        }
        let status = status.map_or("it still runs".into(), |status| match status.code() {
            Some(code @ 129..) => format!("signal {}", code - 128),
            Some(code) => format!("exit status {code}"),
            None => status.to_string(),
        });
        let last = self.log.last();
        failed(format!("the command has ended its output ({status}){last}"))
    }
}

impl Input for Run {
    fn wait(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        loop {
            if self.arrivals.next()? {
                return Ok(true);
            }
            match self.read(deadline) {
                Ok(true) if Instant::now() >= deadline => return self.arrivals.next(),
                Ok(true) => {}
                Ok(false) => return Err(self.end()),
                Err(error) => return Err(failed(format!("cannot read from the command: {error}"))),
            }
        }
    }

    fn picture(&self) -> RawFrame<'_> {
        self.arrivals.picture()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop((child.stdin.take(), child.stdout.take(), child.stderr.take()));
        let reap = move || {
            let _ = child.wait();
            RUNS.end();
        };
        let reaper = thread::Builder::new().name("reaper".into()).spawn(reap);
        // The child is lost to us then, but its supervisor ends it.
        if reaper.is_err() {
            RUNS.end();
        }
    }
}

/// How a supervisor ended, which follows soon upon the end of the output.
fn status(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + STATUS;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            ended => return ended.ok().flatten(),
        }
    }
    None
}

/// Reads once; `false` at the end.
fn read_some(from: &mut impl Read, into: &mut Arrivals) -> io::Result<bool> {
    let mut bytes = vec![0; READ];
    let length = from.read(&mut bytes)?;
    into.splitter.push(&bytes[..length]);
    Ok(length > 0)
}

/// What a command writes to its error output, in the log.
struct LineLog {
    line: Vec<u8>,
    last: String,
    limit: Limited,
}

impl LineLog {
    fn new() -> Self {
        Self { line: Vec::new(), last: String::new(), limit: Limited::new(LOG_LINES) }
    }

    /// Reads once; `false` at the end.
    fn read(&mut self, from: &mut impl Read) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let length = from.read(&mut bytes)?;
        for byte in &bytes[..length] {
            match byte {
                b'\n' | b'\r' => self.end_line(),
                _ if self.line.len() < LOG_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        if length == 0 {
            self.end_line();
        }
        Ok(length > 0)
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim().to_owned();
        if line.is_empty() {
            return;
        }
        let line: String = without_credentials(&line).chars().filter(|letter| !letter.is_control()).collect();
        if let Some(more) = self.limit.permits() {
            info!("command: {line}{more}");
        }
        self.last = line;
    }

    /// The last line, to end a message with.
    fn last(&self) -> String {
        if self.last.is_empty() { String::new() } else { format!(": {}", self.last) }
    }
}

/// Standard input, which can be read only once: what came while nobody watched is passed over.
struct StandardInput {
    file: File,
    arrivals: Arrivals,
}

impl StandardInput {
    fn new(is_first: bool) -> Result<Self, CameraError> {
        let own = || Ok::<_, io::Error>(File::from(io::stdin().as_fd().try_clone_to_owned()?));
        let file = own().map_err(|error| absent(format!("cannot read standard input: {error}")))?;
        let mut input = Self { file, arrivals: Arrivals::new("standard input") };
        if !is_first {
            // A pipe holds as much.
            input.read(Instant::now())?;
            input.arrivals = Arrivals::new("standard input");
        }
        Ok(input)
    }

    /// Whether anything has come by `deadline`.
    fn read(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        let left = Some(deadline.saturating_duration_since(Instant::now()));
        let read = os::poll([self.file.as_fd()], left).and_then(|[event]| match event {
            Event::Nothing => Ok(None),
            _ => read_some(&mut self.file, &mut self.arrivals).map(Some),
        });
        match read.map_err(|error| failed(format!("cannot read standard input: {error}")))? {
            Some(false) => Err(absent("standard input has ended")),
            read => Ok(read.is_some()),
        }
    }
}

impl Input for StandardInput {
    fn wait(&mut self, deadline: Instant) -> Result<bool, CameraError> {
        loop {
            if self.arrivals.next()? {
                return Ok(true);
            }
            if !self.read(deadline)? {
                return Ok(false);
            }
        }
    }

    fn picture(&self) -> RawFrame<'_> {
        self.arrivals.picture()
    }
}
