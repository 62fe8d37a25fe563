//! Why a camera cannot be had, in words: what was tried, on what, why it failed, and what to do about it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::camera::{CameraError, ErrorKind};

/// What failed where the first question to a device is not understood.
pub const QUERY: &str = "cannot ask what";

/// The error of a system call on a device node, explained.
pub fn explain(what: &str, node: &str, error: &io::Error) -> CameraError {
    let path = Path::new(node);
    let (kind, why) = match error.raw_os_error() {
        Some(libc::ENOENT) => (ErrorKind::Absent, "there is no such device (is the camera plugged in?)".into()),
        Some(libc::ENODEV | libc::ENXIO) => (ErrorKind::Absent, "the camera is gone (unplugged?)".into()),
        Some(libc::EACCES) => (ErrorKind::Refused, permission(path, "/etc/group")),
        Some(libc::EPERM) => (
            ErrorKind::Refused,
            "this process may not use it: a container or the sandbox of a systemd unit forbids it (DeviceAllow=)"
                .into(),
        ),
        Some(libc::EBUSY) => (ErrorKind::Refused, busy(&holders(path))),
        Some(libc::ENOTTY) if what == QUERY => (ErrorKind::Refused, "it is not a V4L2 device".into()),
        Some(libc::ENOTTY) => (ErrorKind::Refused, "its driver cannot do that".into()),
        Some(libc::ENOSPC) => (ErrorKind::Bandwidth, "the USB bus has not enough bandwidth left".into()),
        _ => (ErrorKind::Failed, error.to_string().to_lowercase()),
    };
    CameraError::new(kind, format!("{what} {node}: {why}"))
}

/// Which group would help, from the node's owner and the system's list of groups.
fn permission(node: &Path, groups: &str) -> String {
    let group = fs::metadata(node).ok().and_then(|node| {
        let id = node.gid().to_string();
        let list = fs::read_to_string(groups).ok()?;
        let line = list.lines().find(|line| line.split(':').nth(2) == Some(&id))?;
        line.split(':').next().map(str::to_owned)
    });
    let group = group.unwrap_or_else(|| "video".into());
    format!(
        "permission denied: this process is not in the group \"{group}\" (sudo usermod -aG {group} USER and log in \
         again; in a systemd unit SupplementaryGroups={group})"
    )
}

/// Processes other than this one that have the node open, as `name (pid 1234)`.
pub fn holders(node: &Path) -> Vec<String> {
    let node = fs::canonicalize(node).unwrap_or_else(|_| node.to_owned());
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let holds = |process: &PathBuf| entries(process.join("fd")).any(|fd| fs::read_link(fd).is_ok_and(|at| at == node));
    let name = |process: &Path| {
        let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
        let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
        (pid != std::process::id()).then(|| format!("{} (pid {pid})", comm.trim()))
    };
    entries("/proc".into()).filter(holds).filter_map(|process| name(&process)).collect()
}

fn busy(holders: &[String]) -> String {
    match holders {
        [] => "another program is using it (which one, this user may not see; try: sudo fuser -v on it)".into(),
        names => format!("it is in use by {}; stop that first", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_group_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (node, groups) = (dir.path().join("video0"), dir.path().join("group"));
        fs::write(&node, "").unwrap();
        let gid = fs::metadata(&node).unwrap().gid();
        fs::write(&groups, format!("other:x:99999:\ncamera:x:{gid}:\n")).unwrap();
        let words = permission(&node, groups.to_str().unwrap());
        assert!(words.contains("group \"camera\"") && words.contains("usermod -aG camera"), "{words}");
    }

    #[test]
    fn the_holder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(holders(file.path()), Vec::<String>::new());
        let open = fs::File::open(file.path()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
        let expected = format!("sleep (pid {})", child.id());
        // The child's name is that of this process until it has called exec.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !holders(file.path()).contains(&expected) {
            assert!(std::time::Instant::now() < deadline, "{:?}", holders(file.path()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn every_errno_of_the_list_has_words_and_a_kind() {
        for (errno, kind, word) in [
            (libc::ENOENT, ErrorKind::Absent, "plugged in"),
            (libc::ENODEV, ErrorKind::Absent, "gone"),
            (libc::EACCES, ErrorKind::Refused, "group"),
            (libc::EPERM, ErrorKind::Refused, "DeviceAllow"),
            (libc::EBUSY, ErrorKind::Refused, "using it"),
            (libc::ENOTTY, ErrorKind::Refused, "not a V4L2 device"),
            (libc::ENOSPC, ErrorKind::Bandwidth, "bandwidth"),
            (libc::EIO, ErrorKind::Failed, "input/output"),
        ] {
            let error = explain(QUERY, "/dev/no-such-node", &io::Error::from_raw_os_error(errno));
            assert_eq!(error.kind, kind);
            assert!(error.message.contains(word), "{error}");
        }
    }
}
