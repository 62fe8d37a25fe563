//! The other tests rely on the strict reader, so it has to be able to refuse: one golden stream, and every way of
//! getting it wrong.

mod support;

use proptest::prelude::*;
use support::{PartReader, Stamp, is_one_whole_jpeg, stamp_of};

/// A small JPEG in outline: SOI, a COM segment with the stamp, some data, EOI.
fn picture(seq: u64) -> Vec<u8> {
    let text = format!("framehub seq={seq} mono_ns=123456789");
    let mut jpeg = vec![0xFF, 0xD8, 0xFF, 0xFE, 0, text.len() as u8 + 2];
    jpeg.extend_from_slice(text.as_bytes());
    jpeg.extend_from_slice(&[0xFF, 0xDA, 0, 2, 1, 2, 3, 0xFF, 0, 0xFF, 0xD9]);
    jpeg
}

fn part(seq: u64) -> Vec<u8> {
    let jpeg = picture(seq);
    let head = format!("Content-Type: image/jpeg\r\nContent-Length: {}\r\nX-Timestamp: 12.000345\r\n\r\n", jpeg.len());
    [head.as_bytes(), &jpeg, b"\r\n--boundarydonotcross\r\n"].concat()
}

fn golden() -> Vec<u8> {
    let closing = b"\r\n--boundarydonotcross--\r\n".to_vec();
    [b"--boundarydonotcross\r\n".to_vec(), part(1), part(2), closing].concat()
}

fn read(stream: &[u8]) -> std::io::Result<usize> {
    PartReader::new(stream).read_to_end()
}

#[test]
fn takes_the_golden_stream() {
    assert_eq!(read(&golden()).expect("golden"), 2);
    let mut parts = PartReader::new(&golden()[..]).next_part();
    assert_eq!(parts.stamp(), Stamp { seq: 1, mono_ns: 123_456_789 });
    assert_eq!(parts.captured_at.as_micros(), 12_000_345);
    parts.jpeg.truncate(8);
    assert!(!is_one_whole_jpeg(&parts.jpeg) && stamp_of(&parts.jpeg).is_err());
}

#[test]
fn refuses_what_is_nearly_golden() {
    let text_changes: [(&str, &[u8], &[u8]); 12] = [
        ("no first boundary", b"--boundarydonotcross\r\nContent-Type", b"Content-Type"),
        ("boundary without dashes", b"\n--boundarydonotcross\r\nC", b"\nboundarydonotcross\r\nC"),
        ("no space after the colon", b"Content-Type: image", b"Content-Type:image"),
        ("two spaces", b"Content-Length: ", b"Content-Length:  "),
        ("spelling", b"Content-length", b"Content-Length"),
        ("a parameter", b"image/jpeg", b"image/jpeg; x=1"),
        ("bare LF", b"image/jpeg\r\n", b"image/jpeg\n"),
        ("milliseconds", b"12.000345", b"12.000"),
        ("an extra header", b"X-Timestamp", b"X-More: 1\r\nX-Timestamp"),
        ("no timestamp", b"X-Timestamp: 12.000345\r\n", b""),
        ("no closing boundary", b"\r\n--boundarydonotcross--\r\n", b""),
        ("bytes after the end", b"--boundarydonotcross--\r\n", b"--boundarydonotcross--\r\n\r\n"),
    ];
    for (what, old, new) in text_changes {
        // The spelling case is written the other way round, so that the golden text stays in one place.
        let (old, new) = if what == "spelling" { (new, old) } else { (old, new) };
        let stream = replace_first(&golden(), old, new);
        assert!(read(&stream).is_err(), "{what} is refused");
    }
    let unframed = [b"--boundarydonotcross\r\n".to_vec(), part(1)].concat();
    assert!(read(&unframed).is_err(), "an end without the closing boundary is refused");
}

/// A stream that ends by a closing boundary in place of the last part's own is whole, too.
#[test]
fn takes_a_closing_boundary_right_after_the_part() {
    let stream = replace_first(&golden(), b"cross\r\n\r\n--boundarydonotcross--", b"cross--");
    assert_eq!(read(&stream).expect("golden"), 2);
}

fn replace_first(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the text to change is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

proptest! {
    /// Whatever is cut off, the reader notices.
    #[test]
    fn refuses_every_truncation(keep in 0..golden().len()) {
        prop_assert!(read(&golden()[..keep]).is_err());
    }

    /// A byte more in any place of the framing or at the picture's ends is noticed; random bytes never panic it.
    #[test]
    fn refuses_an_inserted_byte(at in 0..golden().len(), byte in any::<u8>()) {
        let mut stream = golden();
        stream.insert(at, byte);
        // The same text can come out again only where the byte equals its neighbour.
        prop_assume!(stream[at + 1] != byte && (at == 0 || stream[at - 1] != byte));
        let is_leading_zero_of_a_number = byte == b'0' || byte == b'+';
        let is_digit_of_seconds = byte.is_ascii_digit();
        if !is_leading_zero_of_a_number && !is_digit_of_seconds {
            prop_assert!(read(&stream).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = read(&bytes);
        let _ = stamp_of(&bytes);
        let _ = is_one_whole_jpeg(&bytes);
    }
}
