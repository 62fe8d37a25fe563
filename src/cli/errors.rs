//! What is wrong with a command line, in words: argh's messages in our words, and the name that somebody may have meant.

/// An error of argh's with the option in front, what was given, and what was expected. `usage` is argh's usage text,
/// which names all options.
pub fn explain(complaint: &str, usage: &str) -> String {
    let complaint = complaint.trim();
    if let Some((option, value, why)) = wrong_value(complaint) {
        if why == "duplicate values provided" {
            return format!("{option} is given more than once: expected one value");
        }
        return format!("invalid value {value:?} for {option}: {}", without_repetition(why, value));
    }
    if let Some(option) =
        complaint.strip_prefix("No value provided for option '").and_then(|rest| rest.split_once('\''))
    {
        let option = option.0;
        let placeholder = usage.split_once(&format!("[{option} <")).and_then(|(_, rest)| rest.split_once('>'));
        let placeholder = placeholder.map_or("value", |(placeholder, _)| placeholder.trim_end_matches("..."));
        return format!("missing value for {option}: expected {option} <{placeholder}>");
    }
    match complaint.strip_prefix("Unrecognized argument: ") {
        // Neither a letter's value nor a word is shown: it may be a secret.
        Some(option) if option.starts_with('-') && !option.starts_with("--") => {
            format!("unknown option {}", option.chars().take(2).collect::<String>())
        }
        Some(option) if option.starts_with('-') => {
            format!("unknown option {option}{}", nearest(option, options(usage)))
        }
        Some(_) => "unexpected argument: framehub takes options only".into(),
        None => complaint.into(),
    }
}

/// The parts of `Error parsing option '--fps' with value 'fast': WHY`.
fn wrong_value(complaint: &str) -> Option<(&str, &str, &str)> {
    let (option, rest) = complaint.strip_prefix("Error parsing option '")?.split_once("' with value '")?;
    // The value may hold anything; what our parsers say has no such quote.
    let (value, why) = rest.rsplit_once("': ")?;
    Some((option, value, why))
}

/// Whether this option is one that takes no value.
pub fn is_switch(option: &str, usage: &str) -> bool {
    takes_value(option, usage) == Some(false)
}

/// Whether this option takes a value; `None` if there is no such option.
pub fn takes_value(option: &str, usage: &str) -> Option<bool> {
    let is_known = options(usage).any(|known| known == option);
    is_known.then(|| usage.contains(&format!("[{option} <")))
}

/// What was expected, where `invalid rate: expected …` or `invalid mode "x": expected …` repeats what is invalid.
fn without_repetition<'a>(why: &'a str, value: &str) -> &'a str {
    let Some((what, expected)) = why.strip_prefix("invalid ").and_then(|rest| rest.split_once(": ")) else {
        return why;
    };
    let what = what.strip_suffix(&format!(" \"{value}\"")).unwrap_or(what);
    if what.contains(' ') { why } else { expected }
}

/// All options, some of them more than once.
fn options(usage: &str) -> impl Iterator<Item = &str> {
    usage.split(['[', ' ', ']']).filter(|word| word.starts_with("--"))
}

/// `, did you mean "size"?`, where there is a name that somebody may have meant.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    let near = names.map(|name| (distance(word, name), name.len().abs_diff(word.len()), name)).min();
    let (distance, _, name) = near.unwrap_or((usize::MAX, 0, ""));
    if distance <= 1 + name.len() / 4 { format!(", did you mean \"{name}\"?") } else { String::new() }
}

/// How many letters to insert, remove or change.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.bytes().enumerate() {
            let changed = corner + usize::from(a != b);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str =
        "Usage: framehub [--size <wxh>] [--listen <addr:port...>] [--list] [-V]\n\nOptions:\n  --size  x\n";

    #[test]
    fn every_complaint_names_the_option_and_what_was_expected() {
        for (complaint, expected) in [
            (
                "Error parsing option '--fps' with value 'fast': expected a number\n",
                "invalid value \"fast\" for --fps: expected a number",
            ),
            (
                "Error parsing option '--x' with value 'it's': no': invalid mode: expected newest\n",
                "invalid value \"it's': no\" for --x: expected newest",
            ),
            (
                "Error parsing option '--x' with value 'y:z=2': invalid value \"2\" for y:z: expected 1",
                "invalid value \"y:z=2\" for --x: invalid value \"2\" for y:z: expected 1",
            ),
            (
                "Error parsing option '--x' with value 'y': invalid z \"y\": expected 1",
                "invalid value \"y\" for --x: expected 1",
            ),
            ("Error parsing option '--x' with value 'a\u{1b}': bad", "invalid value \"a\\u{1b}\" for --x: bad"),
            (
                "Error parsing option '--fps' with value '2': duplicate values provided\n",
                "--fps is given more than once: expected one value",
            ),
            ("No value provided for option '--size'.\n", "missing value for --size: expected --size <wxh>"),
            ("No value provided for option '--listen'.\n", "missing value for --listen: expected --listen <addr:port>"),
            ("Unrecognized argument: --sise\n", "unknown option --sise, did you mean \"--size\"?"),
            ("Unrecognized argument: --colour\n", "unknown option --colour"),
            ("Unrecognized argument: word\n", "unexpected argument: framehub takes options only"),
            ("Something new\n", "Something new"),
        ] {
            assert_eq!(explain(complaint, USAGE), expected);
        }
    }

    #[test]
    fn distances() {
        for (one, other, expected) in [("", "abc", 3), ("abc", "abc", 0), ("abc", "abd", 1), ("kitten", "sitting", 3)] {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected));
        }
    }
}
