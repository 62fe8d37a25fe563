//! The configuration file: a JSON object whose keys are the names of options. The command line takes precedence.

use serde_json::{Map, Value};

use super::errors::nearest;

/// The options of a file as a command line, without those that `args` has already. `usage` is argh's usage text, which
/// names all options. Keys that begin with `//` are comments.
pub fn options(text: &str, args: &[String], usage: &str) -> Result<Vec<String>, String> {
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let keys: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let known = known(usage);
    let mut options = Vec::new();
    for (key, value) in keys.iter().filter(|(key, _)| !key.starts_with("//")) {
        let Some((name, may_repeat)) = known.iter().find(|(name, _)| name == key) else {
            let names = known.iter().map(|(name, _)| *name);
            return Err(format!("unknown key \"{key}\"{}", nearest(key, names)));
        };
        let option = format!("--{name}");
        if args.contains(&option) {
            continue;
        }
        for value in texts(value, *may_repeat).map_err(|why| format!("invalid value {value} for {key}: {why}"))? {
            options.extend([option.clone(), value]);
        }
    }
    Ok(options)
}

/// Options that take a value, and whether they may be given several times.
fn known(usage: &str) -> Vec<(&str, bool)> {
    let options = usage.lines().next().unwrap_or_default().split("[--").skip(1);
    let with_value = options.filter_map(|option| option.split_once(" <"));
    with_value
        .filter(|(name, _)| !["config", "as"].contains(name))
        .map(|(name, rest)| (name, rest.contains("...")))
        .collect()
}

fn texts(value: &Value, may_repeat: bool) -> Result<Vec<String>, &'static str> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Array(list) if may_repeat => list.iter().try_fold(Vec::new(), |mut all, value| {
            all.extend(texts(value, false)?);
            Ok(all)
        }),
        // {"brightness": 10} for what is brightness=10 on the command line.
        Value::Object(pairs) if may_repeat => pairs.iter().try_fold(Vec::new(), |mut all, (name, value)| {
            all.extend(texts(value, false)?.into_iter().map(|value| format!("{name}={value}")));
            Ok(all)
        }),
        _ if may_repeat => Err("expected a string, a number, or a list of them"),
        _ => Err("expected a string or a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str = "Usage: framehub [--as <program>] [--config <file>] [--size <wxh>] [--fps <n>] \
        [--max-clients <n>] [--listen <addr:port...>] [--control <name=value...>] [--list] [-V]\n\nOptions:\n [--x <y>]";

    fn read(text: &str, args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        options(text, &args, USAGE).map(|options| options.join(" "))
    }

    #[test]
    fn keys_become_options() {
        for (text, args, expected) in [
            ("{}", &[][..], ""),
            ("\u{feff}{\"fps\": 5}", &[], "--fps 5"),
            (r#"{"size": "640x480", "fps": 7.5}"#, &[], "--fps 7.5 --size 640x480"),
            (r#"{"//": "why", "// size": "640x480", "fps": 5}"#, &[], "--fps 5"),
            (r#"{"listen": ["127.0.0.1:1", "unix:/x"]}"#, &[], "--listen 127.0.0.1:1 --listen unix:/x"),
            (r#"{"listen": "127.0.0.1:1"}"#, &[], "--listen 127.0.0.1:1"),
            (r#"{"control": {"brightness": 10, "a": "50 Hz"}}"#, &[], "--control a=50 Hz --control brightness=10"),
            (r#"{"control": ["brightness=10"]}"#, &[], "--control brightness=10"),
            // The command line takes precedence.
            (r#"{"size": "640x480", "fps": 7}"#, &["--size", "1x1"], "--fps 7"),
            (r#"{"listen": ["127.0.0.1:1"]}"#, &["--listen", "127.0.0.1:2"], ""),
        ] {
            assert_eq!(read(text, args).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_gets_a_suggestion() {
        for (text, words) in [
            (r#"{"siz": "640x480"}"#, "unknown key \"siz\", did you mean \"size\"?"),
            (r#"{"max_clients": 3}"#, "did you mean \"max-clients\"?"),
            (r#"{"listne": "127.0.0.1:1"}"#, "did you mean \"listen\"?"),
            (r#"{"--size": "640x480"}"#, "did you mean \"size\"?"),
            (r#"{"colour": "red"}"#, "unknown key \"colour\""),
            (r#"{"list": true}"#, "unknown key \"list\""),
            (r#"{"config": "x"}"#, "unknown key \"config\""),
            (r#"{"x": "y"}"#, "unknown key \"x\""),
            (r#"{"size": true}"#, "invalid value true for size: expected a string or a number"),
            (r#"{"size": ["640x480"]}"#, "invalid value [\"640x480\"] for size: expected a string or a number"),
            (r#"{"listen": [["x"]]}"#, "listen: expected"),
            (r#"{"listen": null}"#, "listen: expected"),
            ("{\"size\": \"640x480\",\n}", "line 2"),
            ("[1]", "expected a map"),
            ("", "EOF"),
        ] {
            let error = read(text, &[]).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
