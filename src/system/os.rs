//! What std lacks: raw clocks, poll, resource limits, passed descriptors, the allocator's thresholds, what this process
//! uses. One of two files with unsafe code.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// CLOCK_MONOTONIC, as V4L2 stamps its buffers. (`Instant` is the same clock but hides its value.)
pub fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(which: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill; these clocks exist on every Linux.
    unsafe { libc::clock_gettime(which, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// The processor time that this process has used (CLOCK_PROCESS_CPUTIME_ID).
pub fn processor_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CLOCK_REALTIME since the UNIX epoch; zero on a board that believes in a time before it.
pub fn realtime() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// This time in the process's time zone, as Exif writes it, and that zone's minutes ahead of UTC.
pub fn local_time(real: Duration) -> (String, i32) {
    let seconds = real.as_secs() as _;
    // SAFETY: all of its fields are integers, but for a pointer, which may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid during the call.
    unsafe { libc::localtime_r(&seconds, &mut local) };
    let [year, month] = [1900 + local.tm_year, 1 + local.tm_mon];
    let libc::tm { tm_mday: day, tm_hour: hour, tm_min: minute, tm_sec: second, .. } = local;
    (format!("{year}:{month:02}:{day:02} {hour:02}:{minute:02}:{second:02}"), (local.tm_gmtoff / 60) as i32)
}

/// What [`poll`] found on one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing within the time.
    Nothing,
    /// Something to read (or to accept, or to dequeue).
    Readable,
    /// An error or a hang-up, and nothing to read.
    Failed,
}

/// Waits until one of the descriptors has something to read. `None` waits for ever; a signal counts as nothing.
pub fn poll<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> io::Result<[Event; N]> {
    let mut set = fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    poll_set(&mut set, timeout)?;
    Ok(set.map(event))
}

/// [`poll`] for a number of descriptors known only at run time.
pub fn poll_all(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<Event>> {
    let pollfd = |fd: &BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut set: Vec<_> = fds.iter().map(pollfd).collect();
    poll_set(&mut set, timeout)?;
    Ok(set.into_iter().map(event).collect())
}

/// Waits until a write would be taken, or fail, at once; `false` if the time is over or `stop` can be read.
pub fn is_writable(fd: BorrowedFd<'_>, timeout: Duration, stop: Option<BorrowedFd<'_>>) -> io::Result<bool> {
    let pollfd = |fd, events| libc::pollfd { fd, events, revents: 0 };
    // poll(2) passes over a negative descriptor.
    let mut set = [pollfd(fd.as_raw_fd(), libc::POLLOUT), pollfd(stop.map_or(-1, |fd| fd.as_raw_fd()), libc::POLLIN)];
    poll_set(&mut set, Some(timeout))?;
    Ok(set[0].revents != 0)
}

/// What is known of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It may still send.
    Here,
    /// It sends nothing more: it has closed its end, or the whole connection.
    Finished,
    /// The connection has broken, or both ends were closed.
    Closed,
}

/// What is known of a connection's other end, whether or not bytes of it wait to be read.
pub fn peer(fd: BorrowedFd<'_>) -> Peer {
    let mut set = [libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 }];
    // An error would say nothing about the peer.
    let _ = poll_set(&mut set, Some(Duration::ZERO));
    match set[0].revents {
        0 => Peer::Here,
        libc::POLLRDHUP => Peer::Finished,
        _ => Peer::Closed,
    }
}

fn poll_set(set: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, so that a caller with 0.4 ms left does not spin.
    let millis = timeout.map_or(-1, |t| t.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32);
    // SAFETY: `set` is an array of that many pollfd, alive during the call.
    let found = unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, millis) };
    match found {
        -1 if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => Err(io::Error::last_os_error()),
        -1 => {
            set.iter_mut().for_each(|fd| fd.revents = 0);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn event(fd: libc::pollfd) -> Event {
    match fd.revents {
        0 => Event::Nothing,
        found if found & libc::POLLIN != 0 => Event::Readable,
        _ => Event::Failed,
    }
}

/// Which limit (RLIMIT_*).
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// Which limit (RLIMIT_*).
#[cfg(not(target_env = "gnu"))]
pub type Resource = libc::c_int;

/// Raises a soft limit to `wanted` where the hard limit allows. Returns the limit in force.
// rlim_t is narrower on some 32-bit targets.
#[allow(clippy::unnecessary_cast)]
pub fn raise_limit(resource: Resource, wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (soft, hard) = (limit.rlim_cur, limit.rlim_max);
    if soft as u64 >= wanted || soft == hard {
        return Ok(soft as u64);
    }
    limit.rlim_cur = hard.min(wanted as libc::rlim_t);
    // SAFETY: `limit` is a valid rlimit, its soft limit not above its hard one.
    match unsafe { libc::setrlimit(resource, &limit) } {
        0 => Ok(limit.rlim_cur as u64),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How much address space this process can still take, where that is limited (`ulimit -v`).
#[allow(clippy::unnecessary_cast)]
pub fn address_space_left() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for the call to fill.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    let limit = Some(limit.rlim_cur).filter(|limit| is_known && *limit != libc::RLIM_INFINITY)?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let taken: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().split(' ').next()?.parse().ok())?;
    Some((limit as u64).saturating_sub(taken * 1024))
}

/// The descriptors that a service manager passed to this process, with their names, as `sd_listen_fds(3)` says. They
/// are returned once. To be called before this process opens any: a wrong LISTEN_FDS would count it among them.
///
/// # Errors
/// When LISTEN_FDS and LISTEN_FDNAMES do not say what was passed.
pub fn passed_descriptors() -> io::Result<Vec<(OwnedFd, String)>> {
    static ARE_TAKEN: AtomicBool = AtomicBool::new(false);
    if ARE_TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    // SAFETY: open, as sd_notify has made sure, ours by the environment's word, and returned only this once.
    let own = |(fd, name)| (unsafe { OwnedFd::from_raw_fd(fd) }, name);
    Ok(sd_notify::listen_fds_with_names()?.map(own).collect())
}

/// Closes a descriptor whose owner was given up with `mem::forget`, so that nobody else will close or use it.
pub fn close_descriptor(fd: RawFd) {
    // SAFETY: the caller's word is that nobody else owns the descriptor any more.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// Makes this process the parent of what its descendants leave behind, as init is otherwise.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: sets one attribute of this process; takes no pointers.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The processes whose parent this one is, those that have ended and were not reaped among them.
pub fn children() -> Vec<u32> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything, come the state and the parent.
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()) == Some(own)
    };
    pids.filter(is_child).collect()
}

/// Takes the end of one child of this process: which one, and its exit code, or 128 and the number of the signal more.
pub fn reap() -> Option<(u32, u8)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call to fill.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
    u32::try_from(pid).ok().filter(|pid| *pid > 0).map(|pid| (pid, code as u8))
}

/// Sends a signal to a process.
pub fn kill(pid: u32, number: i32) {
    // SAFETY: takes no pointers. Processes of others are protected by the kernel.
    unsafe { libc::kill(pid as libc::pid_t, number) };
}

/// Sends a signal to a process group; 0 only asks. Returns whether there is one.
pub fn kill_group(group: u32, number: i32) -> bool {
    // SAFETY: takes no pointers. Processes of others are protected by the kernel.
    unsafe { libc::kill(-(group as libc::pid_t), number) == 0 }
}

/// What this process uses, as far as /proc says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Process {
    /// Threads that live.
    pub threads: Option<u64>,
    /// Memory that is really there.
    pub resident_bytes: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
}

/// See [`Process`].
pub fn process() -> Process {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    Process {
        threads: field("Threads:"),
        resident_bytes: field("VmRSS:").map(|kib: u64| kib * 1024),
        // One is open while they are counted.
        descriptors: fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64 - 1),
    }
}

/// Goes on in a child process without a terminal, its output thrown away, and ends this one. Only for a process that
/// has no other thread yet.
pub fn daemonize() -> io::Result<()> {
    // SAFETY: takes and gives no memory; the caller has no other thread whose locks the child would inherit.
    match unsafe { libc::daemon(1, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives freed memory back to the system, also between blocks that are still in use. For the end of something large.
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers and can be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes glibc give frames back to the system.
///
/// Left alone it moves the size from which blocks are mapped upwards with each freed frame, until none is ever
/// returned, and opens an arena for each of a thousand threads. musl does neither. The second arena reserves 64 MiB of
/// address space, so there is none where that is limited.
pub fn configure_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters; called once, before other threads exist.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 16 * 1024);
        libc::mallopt(libc::M_ARENA_MAX, if address_space_left().is_some() { 1 } else { 2 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn clocks_advance_together() {
        let (mono, real) = (monotonic(), realtime());
        std::thread::sleep(Duration::from_millis(20));
        assert!(monotonic() - mono >= Duration::from_millis(20));
        assert!(realtime() > real);
    }

    #[test]
    fn a_process_knows_what_it_uses() {
        let before = process();
        assert!(before.threads.unwrap() >= 1 && before.resident_bytes.unwrap() > 100_000, "{before:?}");
        let _files: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some, too.
        assert!(process().descriptors.unwrap() >= before.descriptors.unwrap() + 25);
    }

    #[test]
    fn poll_tells_nothing_readable_and_failed_apart() {
        let (mut near, far) = UnixStream::pair().unwrap();
        assert_eq!(poll([far.as_fd()], Some(Duration::from_millis(1))).unwrap(), [Event::Nothing]);
        near.write_all(b"x").unwrap();
        assert_eq!(poll_all(&[far.as_fd()], None).unwrap(), [Event::Readable]);
    }
}
