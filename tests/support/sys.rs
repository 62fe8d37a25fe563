//! The few system calls that std does not offer, behind safe functions.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// CLOCK_MONOTONIC in nanoseconds, the clock of the synthetic camera's stamp.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec for the call to fill.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert_eq!(result, 0, "CLOCK_MONOTONIC can be read");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Sends a signal to a process that the caller has started.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: kill takes no pointers.
    let result = unsafe { libc::kill(pid as libc::pid_t, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}: {}", io::Error::last_os_error());
}

/// True when limits on processes do not bind us.
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// How many threads our user has, in all processes.
pub fn threads_of_user() -> usize {
    use std::os::unix::fs::MetadataExt;
    let ours = fs::metadata("/proc/self").expect("our own process").uid();
    let processes = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let is_ours = |path: &std::path::Path| fs::metadata(path).is_ok_and(|metadata| metadata.uid() == ours);
    let tasks = processes.map(|entry| entry.path().join("task")).filter(|path| is_ours(path));
    tasks.filter_map(|path| Some(fs::read_dir(path).ok()?.count())).sum()
}

/// Sets the soft limit of a running process on its open descriptors.
pub fn limit_descriptors(pid: u32, soft: u64) {
    set_soft_limit(pid, libc::RLIMIT_NOFILE, Some(soft));
}

/// Forbids a running process of the user `uid` new threads (`true`) or allows them again. Does not bind root.
///
/// By the command, run as that user: root may not set the limits of others' processes in every container.
pub fn forbid_threads(pid: u32, uid: u32, forbid: bool) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process is alive");
    let processes = limits.lines().find(|line| line.starts_with("Max processes")).expect("its limit on threads");
    let hard = processes.split_whitespace().nth(3).expect("the hard limit");
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string(), &format!("--nproc={}:", if forbid { "1" } else { hard })]);
    if is_root() {
        prlimit.uid(uid).gid(uid);
    }
    let status = prlimit.status().expect("prlimit (util-linux) is installed");
    assert!(status.success(), "prlimit: {status}");
}

/// Raises our own soft descriptor limit to the hard one, and complains if that is below `need`. Children inherit it.
pub fn need_descriptors(need: u64) {
    let limit = set_soft_limit(std::process::id(), libc::RLIMIT_NOFILE, None);
    assert!(limit >= need, "this test opens {need} sockets, but `ulimit -Hn` is {limit}");
}

/// Sets the soft limit (`None`: as high as the hard one) and returns the new one.
#[allow(clippy::unnecessary_cast)] // rlim_t is narrower on some 32-bit targets.
fn set_soft_limit(pid: u32, resource: libc::__rlimit_resource_t, soft: Option<u64>) -> u64 {
    let pid = pid as libc::pid_t;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call to fill; a null new limit means "read only".
    let read = unsafe { libc::prlimit(pid, resource, std::ptr::null(), &mut limit) };
    assert_eq!(read, 0, "limits of {pid} can be read: {}", io::Error::last_os_error());
    limit.rlim_cur = soft.map_or(limit.rlim_max, |soft| soft as libc::rlim_t);
    // SAFETY: `limit` is valid to read; a null old limit means "not wanted".
    let written = unsafe { libc::prlimit(pid, resource, &limit, std::ptr::null_mut()) };
    assert_eq!(written, 0, "limits of {pid} can be set: {}", io::Error::last_os_error());
    limit.rlim_cur as u64
}

/// How many bytes a pipe holds before a write waits.
pub fn set_pipe_size(pipe: &impl AsRawFd, bytes: i32) {
    // SAFETY: fcntl takes a number here.
    let size = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
    assert!(size >= bytes, "the pipe's size can be set: {}", io::Error::last_os_error());
}

/// Whether reads and writes by everybody that shares this descriptor fail rather than wait.
pub fn is_nonblocking(fd: &impl AsRawFd) -> bool {
    // SAFETY: fcntl takes no third argument here.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags & libc::O_NONBLOCK != 0
}

/// Waits until some of `sockets` can be read (or have ended) and returns which.
pub fn wait_readable(sockets: &[impl AsRawFd], timeout: Duration) -> Vec<usize> {
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the pointer and the length are those of one vector that lives through the call.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout.as_millis() as i32) };
    (0..polled.len()).filter(|&at| polled[at].revents != 0).collect()
}
