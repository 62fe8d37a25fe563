//! Runs a command so that none of its processes outlives this program, whatever ends it, SIGKILL included.
//!
//! This program starts itself once more, as the command's supervisor. Standard input of the supervisor is a pipe of which
//! this program holds the other end: when that closes, the supervisor ends the command's process group, and then whatever
//! else the command has started, of which it is the reaper.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM};

use super::os::{self, Event};

/// The argument that makes this program a supervisor; the command follows.
pub const ARGUMENT: &str = "--supervise";
/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// Time between two looks at what is left of a command.
const LOOK: Duration = Duration::from_millis(20);
/// Exit code where the command could not be started.
const NOT_STARTED: u8 = 126;

/// Starts a command with `/bin/sh` under a supervisor. Its output and error output are pipes; it reads `/dev/null`. It ends
/// when standard input of the returned process is closed, and the returned process after that.
///
/// # Errors
/// When the process cannot be started.
pub fn spawn(command: &str) -> io::Result<Child> {
    let mut supervisor = Command::new("/proc/self/exe");
    // Not for its eyes: credentials, and what systemd says to this program.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["FRAMEHUB_", "NOTIFY_", "WATCHDOG_", "LISTEN_"].iter().any(|prefix| name.starts_with(prefix)) {
            supervisor.env_remove(&*name);
        }
    }
    supervisor
        .arg0("command-supervisor")
        .args([ARGUMENT, command])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// The supervisor: runs the command until it ends or standard input closes. Returns the command's exit code, 128 and the
/// signal's number more where a signal ended it.
pub fn supervise(command: &str) -> u8 {
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            super::log::print(&format!("cannot run the command: {error}"));
            NOT_STARTED
        }
    }
}

fn run(command: &str) -> io::Result<u8> {
    let pipe = |signals: &[i32]| -> io::Result<UnixStream> {
        let (pipe, end) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, end.try_clone()?)?;
        }
        Ok(pipe)
    };
    let (stop, mut child_ended) = (pipe(&[SIGTERM, SIGINT, SIGHUP])?, pipe(&[SIGCHLD])?);
    os::adopt_orphans()?;
    let child = Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).process_group(0).spawn()?.id();
    // Else nobody would see the command close them.
    os::close_descriptor(1);
    os::close_descriptor(2);
    let mut code = None;
    let mut reap = || {
        while let Some((ended, with)) = os::reap() {
            if ended == child {
                code = Some(with);
            }
        }
        code
    };
    let input = io::stdin();
    loop {
        let [closed, stopped, _] = os::poll([input.as_fd(), stop.as_fd(), child_ended.as_fd()], None)?;
        let _ = io::Read::read(&mut child_ended, &mut [0; 64]);
        if closed != Event::Nothing || stopped != Event::Nothing || reap().is_some() {
            break;
        }
    }
    let deadline = Instant::now() + GRACE;
    os::kill_group(child, SIGTERM);
    os::children().into_iter().for_each(|other| os::kill(other, SIGTERM));
    while Instant::now() < deadline && (os::kill_group(child, 0) || !os::children().is_empty()) {
        std::thread::sleep(LOOK);
        reap();
    }
    // A process that is killed leaves its children to this one.
    let deadline = deadline + GRACE;
    while Instant::now() < deadline && (os::kill_group(child, SIGKILL) || !os::children().is_empty()) {
        os::children().into_iter().for_each(|other| os::kill(other, SIGKILL));
        std::thread::sleep(LOOK);
        reap();
    }
    Ok(reap().unwrap_or(0))
}
