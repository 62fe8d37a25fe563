//! The system's limits on threads and descriptors: raised at the start to what clients may need, with a warning where
//! that is not allowed.

use std::fs;
use std::path::Path;

use log::warn;

use crate::system::os;

/// Descriptors that are not clients': standard streams, listeners, camera, signals.
const OWN_DESCRIPTORS: u64 = 32;
/// Threads that are not clients': main, capture, service, and one to spare.
const OWN_THREADS: u64 = 4;

/// Address space of a client's thread: its stack, its signal stack and the pages that guard them.
const THREAD_MEMORY: u64 = 256 << 10;
/// Address space that is not clients': the camera's buffers, frames and what is left free.
const OWN_MEMORY: u64 = 64 << 20;

/// Raises the limits for this number of connections, each with a thread and a descriptor, and warns where that fails, or
/// where the address space is too small for them and for this memory of frames.
pub fn raise_limits(connections: usize, memory: usize) {
    let descriptors = connections as u64 + OWN_DESCRIPTORS;
    match os::raise_limit(libc::RLIMIT_NOFILE, descriptors) {
        Ok(limit) if limit < descriptors => warn!(
            "only {limit} descriptors allowed, {descriptors} may be needed; raise the hard limit (ulimit -Hn, \
             LimitNOFILE=) or lower --max-clients"
        ),
        Ok(_) => {}
        Err(error) => warn!("cannot raise the limit on descriptors: {error}"),
    }
    let threads = connections as u64 + OWN_THREADS;
    let needed = threads * THREAD_MEMORY + memory as u64 + OWN_MEMORY;
    if let Some(left) = os::address_space_left().filter(|left| *left < needed) {
        warn!(
            "only {} MiB of address space left (ulimit -v, LimitAS=), {} MiB may be needed; raise it or lower --max-clients",
            left >> 20,
            needed >> 20
        );
    }
    for (limit, whose) in thread_limits(threads) {
        if limit < threads {
            warn!("only {limit} threads allowed by {whose}, {threads} may be needed; raise it or lower --max-clients");
        }
    }
}

/// The limits on threads that can be read, and what sets them. Others of our user or group share them, so that
/// fewer may be left.
fn thread_limits(wanted: u64) -> Vec<(u64, String)> {
    let mut limits = Vec::new();
    if let Ok(limit) = os::raise_limit(libc::RLIMIT_NPROC, wanted) {
        limits.push((limit, "this user's limit on processes (ulimit -Hu, LimitNPROC=)".into()));
    }
    let path = "/proc/sys/kernel/threads-max";
    let read = |path: &str| fs::read_to_string(path).ok().and_then(|text| number(&text));
    limits.extend(read(path).map(|limit| (limit, path.into())));
    for file in fs::read_to_string("/proc/self/cgroup").iter().flat_map(|text| pids_files(text)) {
        limits.extend(read(&file).map(|limit| (limit, format!("{file} (TasksMax=)"))));
    }
    limits
}

/// A limit's file holds a number, or `max`.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files that may hold a limit on our threads: our control group's and those of the groups around it, for
/// cgroup v2 (`0::/path`) and v1 (`8:pids:/path`).
fn pids_files(cgroup: &str) -> Vec<String> {
    let folders = cgroup.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => Some(("/sys/fs/cgroup", path)),
            _ if controllers.split(',').any(|name| name == "pids") => Some(("/sys/fs/cgroup/pids", path)),
            _ => None,
        }
    });
    let files = folders.flat_map(|(root, path)| {
        let around = Path::new(path).ancestors().filter_map(|folder| folder.to_str());
        around.map(move |folder| format!("{root}{}/pids.max", folder.trim_end_matches('/')))
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_groups_of_both_versions() {
        for (cgroup, files) in [
            ("0::/\n", vec!["/sys/fs/cgroup/pids.max"]),
            (
                "0::/system.slice/framehub.service\n",
                vec![
                    "/sys/fs/cgroup/system.slice/framehub.service/pids.max",
                    "/sys/fs/cgroup/system.slice/pids.max",
                    "/sys/fs/cgroup/pids.max",
                ],
            ),
            (
                "9:name=systemd:/a\n8:rdma,pids:/a\n7:cpu,cpuacct:/b\n",
                vec!["/sys/fs/cgroup/pids/a/pids.max", "/sys/fs/cgroup/pids/pids.max"],
            ),
            ("nonsense\n\n1:\n", vec![]),
        ] {
            assert_eq!(pids_files(cgroup), files, "{cgroup}");
        }
    }

    #[test]
    fn limits_are_numbers_or_max() {
        assert_eq!([number("4915\n"), number("max\n"), number("")], [Some(4915), None, None]);
        assert!(!thread_limits(1).is_empty());
    }
}
