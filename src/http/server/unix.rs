//! A Unix socket to listen on: its file, who may open it, and what a server that crashed left behind.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::{fs, os::unix::net::UnixStream};

use socket2::{Domain, SockAddr, Socket, Type};

/// The file of a socket that is being listened to; gone when dropped, unless somebody has put another in its place.
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|now| now == self.inode) {
            // Somebody else may be faster.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a socket to this path; it does not listen yet.
pub fn bind(path: &Path, mode: u32) -> Result<(Socket, SocketFile), String> {
    let cannot = |why: String| format!("cannot listen on unix:{}: {why}", path.display());
    let failed = |error: io::Error| cannot(error.to_string());
    let address = SockAddr::unix(path).map_err(failed)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(failed(error));
        }
        make_way(path).map_err(cannot)?;
        socket.bind(&address).map_err(failed)?;
    }
    // Nobody can connect before we listen, so there is no moment at which more may than should.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let inode = inode(path).map_err(failed)?;
    Ok((socket, SocketFile { path: path.into(), inode }))
}

/// Removes a socket's file on which nobody listens.
fn make_way(path: &Path) -> Result<(), String> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Err("the file there is not a socket: remove it, or choose another path".into());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("a socket without a server is in the way: {error}"))
        }
        _ => Err("another program listens there; stop it, or choose another path".into()),
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        for wanted in [0o600, 0o666] {
            let (socket, file) = bind(&path, wanted).unwrap();
            assert_eq!((mode(&path), file.path()), (wanted, path.as_path()));
            assert!(UnixStream::connect(&path).is_err(), "it does not listen yet");
            socket.listen(1).unwrap();
            assert!(UnixStream::connect(&path).is_ok());
            drop(file);
            assert!(!path.exists());
        }
    }

    #[test]
    fn only_a_socket_without_a_server_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("http.sock");
        let (stale, file) = bind(&path, 0o660).unwrap();
        // As after a crash: the file stays.
        std::mem::forget(file);
        drop(stale);
        let (alive, file) = bind(&path, 0o660).unwrap();
        alive.listen(1).unwrap();
        let refusal = bind(&path, 0o660).map(drop).unwrap_err();
        assert!(refusal.contains("another program listens there"), "{refusal}");
        // A successor's file is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        drop(file);
        assert!(path.exists());
        let refusal = bind(&path, 0o660).map(drop).unwrap_err();
        assert!(refusal.contains("not a socket") && refusal.contains("http.sock"), "{refusal}");
        for wrong in [folder.path().join("none/http.sock"), folder.path().join("x".repeat(200))] {
            assert!(bind(&wrong, 0o660).map(drop).unwrap_err().contains("cannot listen on unix:"));
        }
    }
}
