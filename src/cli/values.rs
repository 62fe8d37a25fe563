//! The values of options: from text to what they mean. Errors say what was expected; the option and its value are put
//! in front of them (`errors.rs`).

use std::path::Path;
use std::time::Duration;

use log::LevelFilter;

use crate::frame::Size;
use crate::hub::pace::parse_time;

/// Degrees by which a picture is rotated.
pub fn rotation(text: &str) -> Result<u16, String> {
    let degrees = text.parse().ok().filter(|degrees| matches!(degrees, 90 | 180 | 270));
    degrees.ok_or_else(|| "expected 90, 180 or 270".into())
}

/// Whether viewers get a picture that says why there is none.
pub fn picture_or_none(text: &str) -> Result<bool, String> {
    match text {
        "picture" => Ok(true),
        "none" => Ok(false),
        _ => Err("expected picture or none".into()),
    }
}

/// Whether this names a file or a directory, there or not there yet.
pub fn is_path(text: &str) -> bool {
    let end = text.rsplit_once('.').map_or(String::new(), |(_, end)| end.to_ascii_lowercase());
    // Any other name has to be there by now.
    text.contains('/') || Path::new(text).exists() || ["mjpeg", "mjpg", "avi", "jpg", "jpeg"].contains(&end.as_str())
}

/// Octal permissions of a file.
pub fn permissions(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| "expected octal permissions from 0 to 777, such as 660".into())
}

/// A size, or `max` for the largest that the camera has.
pub fn size_or_max(text: &str) -> Result<Option<Size>, String> {
    if text == "max" { Ok(None) } else { text.parse().map(Some).map_err(|why| format!("{why}, or max")) }
}

/// `64MiB`, `64M`, `1GiB` or `512KiB`, at least a mebibyte.
pub fn memory(text: &str) -> Result<usize, String> {
    let parse = || {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].trim_end_matches("iB").trim_end_matches('B') {
            "K" => 10,
            "M" => 20,
            "G" => 30,
            _ => return None,
        };
        digits.parse::<usize>().ok()?.checked_mul(1 << shift).filter(|bytes| *bytes >= 1 << 20)
    };
    parse().ok_or_else(|| "expected 1MiB or more, such as 64MiB or 1GiB".into())
}

/// How long to wait for somebody: a client that keeps others waiting, a camera that is silent.
pub fn patience(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).ok().filter(|time| (0.1..=60.0).contains(&time.as_secs_f64()));
    time.ok_or_else(|| "expected a number of seconds from 0.1 to 60".into())
}

/// A number of viewers.
pub fn clients(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|clients| (1..=10_000).contains(clients));
    number.ok_or_else(|| "expected a number from 1 to 10000".into())
}

/// The value of a header field.
pub fn header(text: &str) -> Result<String, String> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
    is_plain.then(|| text.into()).ok_or_else(|| "expected plain ASCII text, such as MJPG-Streamer/0.2".into())
}

/// A host name, in lower case and without the dot at its end.
pub fn host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let name = is_name.then(|| text.trim_end_matches('.').to_ascii_lowercase());
    name.ok_or_else(|| "expected a host name such as cam.example.org, without a port".into())
}

/// The least severe lines that are logged.
pub fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "expected error, warn, info, debug or trace".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_unit() {
        for (text, bytes) in [("64MiB", 64 << 20), ("64M", 64 << 20), ("2GB", 2 << 30), ("2048KiB", 2 << 20)] {
            assert_eq!(memory(text), Ok(bytes), "{text}");
        }
    }
}
