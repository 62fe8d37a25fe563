//! Percent-encoding (RFC 3986, section 2.1).

/// Decodes percent escapes; invalid ones stay as they are. `plus` is what `+` stands for: a space in queries.
pub fn decode(text: &str, plus: u8) -> String {
    String::from_utf8_lossy(&bytes(text, plus).collect::<Vec<_>>()).into_owned()
}

/// The bytes of [`decode`], one by one.
pub fn bytes(text: &str, plus: u8) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let [byte, tail @ ..] = rest else { return None };
        rest = tail;
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        Some(match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                rest = &tail[2..];
                (high * 16 + low) as u8
            }
            (b'+', ..) => plus,
            _ => *byte,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_invalid_ones_stay() {
        for (text, expected) in [
            ("a%20b%2Fc%2f", "a b/c/"),
            ("%C3%A9%FF", "\u{e9}\u{fffd}"),
            ("%", "%"),
            ("%4", "%4"),
            ("%g1%+A%-1", "%g1%+A%-1"),
            ("%%41", "%A"),
        ] {
            assert_eq!(decode(text, b'+'), expected, "{text}");
        }
        assert_eq!((decode("a+%2B", b' '), decode("a+%2B", b'+')), ("a +".into(), "a++".into()));
    }
}
