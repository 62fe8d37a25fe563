//! Viewers inside the guest. Ten of them over qemu's user network would measure that network, which carries 1460
//! bytes at a time; over the loopback device they measure the server. When all streams have ended, stdout gets
//! a line for each part, `VIEWER ARRIVED_NS X_TIMESTAMP LENGTH HAS_DHT COM_TEXT`, for each broken one
//! `VIEWER fault WHAT`, and at last `VIEWER end HOW`.
//!
//! `stream.py` reads and judges them; it has its own viewer for all other cases.

use crate::clock::monotonic_ns;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::TcpStream;
use std::thread;

const BOUNDARY: &str = "--boundarydonotcross";

/// Runs `count` viewers of each path until the server ends their streams, then prints what they saw.
pub fn run(port: &str, count: usize, paths: &[&str]) -> io::Result<()> {
    let watch = |path: &str| {
        let (address, path) = (format!("127.0.0.1:{port}"), path.to_owned());
        thread::spawn(move || {
            let mut seen = Vec::new();
            let end = watch(&address, &path, &mut seen).unwrap_or_else(|e| e.to_string());
            seen.push(format!("end {end}"));
            seen
        })
    };
    let viewers: Vec<_> = paths.iter().flat_map(|path| (0..count).map(move |_| watch(path))).collect();
    let mut out = BufWriter::new(io::stdout().lock());
    for (viewer, thread) in viewers.into_iter().enumerate() {
        for line in thread.join().unwrap_or_else(|_| vec!["end panicked".into()]) {
            writeln!(out, "{viewer} {line}")?;
        }
    }
    out.flush()
}

/// Reads one stream; answers with how it ended, in the words of `stream.py`.
fn watch(address: &str, path: &str, seen: &mut Vec<String>) -> io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let mut stream = BufReader::with_capacity(1 << 17, socket);
    let head = lines(&mut stream)?;
    if !head.first().is_some_and(|line| line.starts_with("HTTP/1.0 200")) {
        return Err(broken(format!("no stream: {head:?}")));
    }
    expect(&mut stream, &format!("{BOUNDARY}\r\n"))?;
    let mut picture = Vec::new();
    loop {
        let head = lines(&mut stream)?;
        if head.is_empty() {
            return end(&mut stream);
        }
        let field = |name: &str| head.iter().find_map(|line| line.strip_prefix(name));
        let length = field("Content-Length: ").and_then(|n| n.parse().ok());
        picture.resize(length.ok_or_else(|| broken(format!("part without length: {head:?}")))?, 0);
        stream.read_exact(&mut picture)?;
        expect(&mut stream, &format!("\r\n{BOUNDARY}\r\n"))?;
        if field("X-Framehub-No-Signal: ").is_some() {
            continue;
        }
        seen.push(inspect(&picture, field("X-Timestamp: ").unwrap_or("none")));
    }
}

/// What stands where a part's head should be: the last boundary, or nothing at all.
fn end(stream: &mut impl Read) -> io::Result<String> {
    let mut rest = String::new();
    stream.read_to_string(&mut rest)?;
    match rest.as_str() {
        "" => Ok("closed by the server".into()),
        rest if rest == format!("{BOUNDARY}--\r\n") => Ok("last boundary".into()),
        rest => Err(broken(format!("behind the last part: {rest:?}"))),
    }
}

fn inspect(picture: &[u8], timestamp: &str) -> String {
    let (arrived, length) = (monotonic_ns(), picture.len());
    if !picture.starts_with(b"\xff\xd8\xff") || !picture.ends_with(b"\xff\xd9") {
        return format!("fault no SOI or no EOI, {length} bytes");
    }
    let comment = find(&picture[..length.min(400)], b"RIGCAM").map_or(&[][..], |at| &picture[at..length.min(at + 112)]);
    let comment = comment.split(|byte| *byte == 0xff).next().map(String::from_utf8_lossy).unwrap_or_default();
    let tables = &picture[..find(picture, b"\xff\xda").unwrap_or(0)];
    let has_dht = find(tables, b"\xff\xc4").is_some();
    format!("{arrived} {timestamp} {length} {} {}", u8::from(has_dht), comment.trim_end())
}

/// Lines up to an empty one, without their ends; at most 64.
fn lines(stream: &mut impl BufRead) -> io::Result<Vec<String>> {
    let lines = stream.lines().take(64).take_while(|line| !line.as_ref().is_ok_and(String::is_empty));
    lines.collect()
}

fn expect(stream: &mut impl Read, text: &str) -> io::Result<()> {
    let mut found = vec![0; text.len()];
    stream.read_exact(&mut found)?;
    if found == text.as_bytes() { Ok(()) } else { Err(broken(format!("{found:?} in place of {text:?}"))) }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn broken(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
