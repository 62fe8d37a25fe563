//! MJPGServer's options and its JSON file, which overrides them.

use std::fs;

use serde_json::{Map, Value as Json};

use super::builder::Means::{Help, Ignored, Keep, Ours, Set};
use super::builder::Takes::{Nothing, Value};
use super::builder::{Builder, Flag, SEEMS_A_CREDENTIAL, flag, is_like_a_credential, rate};
use crate::cli::Exit;

const FLAGS: &[Flag] = &[
    flag(&["port", "p"], Value, Keep(|builder| &mut builder.port)),
    flag(&["camera", "c"], Value, Ours("device")),
    flag(&["width", "w"], Value, Set(|builder, value| side(&mut builder.live[0], value))),
    flag(&["height", "t"], Value, Set(|builder, value| side(&mut builder.live[1], value))),
    flag(&["loglevel", "v"], Value, Set(log_level)),
    flag(&["daemon", "d"], Nothing, Set(|builder, _| daemonize(builder, "true"))),
    flag(&["cfg", "j"], Value, Keep(|builder| &mut builder.file)),
    // MJPGServer has none: it always takes all addresses.
    flag(&["listen"], Value, Keep(|builder| &mut builder.host)),
    flag(&["help", "h"], Nothing, Help),
];

/// The keys of the file.
const KEYS: &[Flag] = &[
    flag(&["port"], Value, Keep(|builder| &mut builder.port)),
    flag(&["device"], Value, Ours("device")),
    flag(&["daemonize"], Value, Set(daemonize)),
    flag(&["logLevel"], Value, Set(log_level)),
    flag(&["lowResWidth"], Value, Set(|builder, value| side(&mut builder.live[0], value))),
    flag(&["lowResHeight"], Value, Set(|builder, value| side(&mut builder.live[1], value))),
    flag(&["highResWidth"], Value, Set(|builder, value| side(&mut builder.still[0], value))),
    flag(&["highResHeight"], Value, Set(|builder, value| side(&mut builder.still[1], value))),
    flag(&["maxFPS"], Value, Set(|builder, value| rate(builder, "max-fps", value))),
    flag(&["stabPicCount"], Value, Set(stab_pic_count)),
    flag(&["closeDeviceTimeoutSec"], Value, Ours("idle")),
    flag(&["securityToken"], Value, Keep(|builder| &mut builder.token)),
    // An unplugged camera is always looked for.
    flag(&["monitorDev"], Value, Ignored),
];

/// Command line and file.
pub fn read(args: &[String]) -> Result<Builder, Exit> {
    let mut builder = Builder::default();
    builder.read("mjpgsrv", FLAGS, args)?;
    if let Some(path) = builder.file.take() {
        let wrong = |why: String| Exit::Wrong(format!("as mjpgsrv: {path}: {why}"));
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let keys = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        file(&mut builder, &keys).map_err(wrong)?;
    }
    // One side alone goes with the other's default.
    if builder.live.iter().any(Option::is_some) {
        builder.live = [builder.live[0].or(Some(640)), builder.live[1].or(Some(480))];
    }
    Ok(builder)
}

fn file(builder: &mut Builder, keys: &Map<String, Json>) -> Result<(), String> {
    for (key, value) in keys {
        let Some(known) = KEYS.iter().find(|known| known.names.contains(&key.as_str())) else {
            if is_like_a_credential(key) {
                return Err(format!("unknown key {key}: {SEEMS_A_CREDENTIAL}"));
            }
            builder.cannot(key, "MJPGServer has no such key");
            continue;
        };
        let value = match value {
            Json::String(text) => text.clone(),
            Json::Number(_) | Json::Bool(_) => value.to_string(),
            _ => return Err(format!("invalid value for {key}: expected a number, a string, true or false")),
        };
        builder.apply(known, key, &value)?;
    }
    Ok(())
}

fn side(side: &mut Option<u32>, value: &str) -> Result<(), String> {
    *side = Some(value.parse().map_err(|_| "expected a number of pixels")?);
    Ok(())
}

fn log_level(builder: &mut Builder, value: &str) -> Result<(), String> {
    let level = match value {
        "-1" => "debug",
        "0" => "info",
        "1" => "warn",
        "2" | "3" => "error",
        _ => return Err("expected a level from -1 to 3".into()),
    };
    builder.set("log-level", level);
    Ok(())
}

fn daemonize(builder: &mut Builder, value: &str) -> Result<(), String> {
    builder.in_background = value == "true";
    Ok(())
}

/// Pictures to leave out after the camera was switched. MJPGServer takes the first if nothing is said; framehub looks
/// which one is right.
fn stab_pic_count(builder: &mut Builder, value: &str) -> Result<(), String> {
    match value.parse::<u32>() {
        Ok(0) => Ok(()),
        Ok(_) => {
            builder.set("still-settle", value);
            Ok(())
        }
        Err(_) => Err("expected a number of pictures".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::tests::{options, refusal, understood};
    use super::*;

    /// A file with this content, gone when dropped.
    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    fn from_file(content: &str) -> super::super::builder::Translation {
        understood(read, &["-j", file(content).path().to_str().unwrap()])
    }

    #[test]
    fn every_flag() {
        for (args, expected) in [
            (&["-c", "/dev/video2"][..], "--device=/dev/video2"),
            (&["--camera=/dev/video2"], "--device=/dev/video2"),
            (&["-w", "1280", "-t", "720"], "--size=1280x720"),
            (&["--width", "320"], "--size=320x480"),
            (&["-v", "-1"], "--log-level=debug"),
            (&["--loglevel", "3"], "--log-level=error"),
            (&["--listen", "127.0.0.1"], ""),
        ] {
            assert_eq!(options(read, args), expected, "{args:?}");
        }
        assert_eq!(understood(read, &[]).args, ["--listen=0.0.0.0:8080"]);
        assert_eq!(understood(read, &["-p", "9000"]).args, ["--listen=0.0.0.0:9000"]);
        assert_eq!(understood(read, &["--listen", "127.0.0.1"]).args, ["--listen=127.0.0.1:8080"]);
        assert!(understood(read, &["-d"]).in_background && !understood(read, &[]).in_background);
    }

    #[test]
    fn every_key_of_the_file() {
        for (key, expected) in [
            (r#""port": 9000"#, "--listen=0.0.0.0:9000"),
            (r#""device": "/dev/video2""#, "--listen=0.0.0.0:8080 --device=/dev/video2"),
            (r#""logLevel": -1"#, "--listen=0.0.0.0:8080 --log-level=debug"),
            (r#""lowResWidth": 1280, "lowResHeight": "720""#, "--listen=0.0.0.0:8080 --size=1280x720"),
            (r#""highResWidth": 1920, "highResHeight": 1080"#, "--listen=0.0.0.0:8080 --still-size=1920x1080"),
            (r#""maxFPS": 10"#, "--listen=0.0.0.0:8080 --max-fps=10"),
            (r#""maxFPS": 0"#, "--listen=0.0.0.0:8080"),
            (r#""stabPicCount": 3"#, "--listen=0.0.0.0:8080 --still-settle=3"),
            (r#""stabPicCount": 0"#, "--listen=0.0.0.0:8080"),
            (r#""closeDeviceTimeoutSec": 15"#, "--listen=0.0.0.0:8080 --idle=15"),
            (r#""closeDeviceTimeoutSec": 0"#, "--listen=0.0.0.0:8080 --idle=0"),
            (r#""monitorDev": true"#, "--listen=0.0.0.0:8080"),
            (r#""securityToken": """#, "--listen=0.0.0.0:8080"),
        ] {
            let translation = from_file(&format!("{{{key}}}"));
            assert_eq!(translation.args.join(" "), expected, "{key}");
            assert!(translation.credentials.is_empty() && !translation.in_background && !translation.is_partial);
        }
        assert!(from_file(r#"{"daemonize": true}"#).in_background);
        let translation = from_file(r#"{"securityToken": "S3cret"}"#);
        assert_eq!(translation.credentials.len(), 1);
        assert!(translation.summary.contains("a token") && !translation.summary.contains("S3cret"));
    }

    /// Its keys and values are those of MJPGServer's sample.
    #[test]
    fn the_sample_file() {
        let sample = r#"{
            "port": 8080, "device": "/dev/video0", "daemonize": false, "logLevel": 0,
            "lowResWidth": 640, "lowResHeight": 480, "highResWidth": 1920, "highResHeight": 1080,
            "stabPicCount": 0, "closeDeviceTimeoutSec": 15, "securityToken": "verySecretToken"
        }"#;
        let translation = from_file(sample);
        let expected = "--listen=0.0.0.0:8080 --still-size=1920x1080 --size=640x480";
        let mut args: Vec<_> = translation.args.iter().map(String::as_str).collect();
        args.retain(|arg| !["--device=/dev/video0", "--log-level=info", "--idle=15"].contains(arg));
        args.sort_by_key(|arg| expected.find(arg));
        assert_eq!(args.join(" "), expected);
        assert_eq!((translation.credentials.len(), translation.is_partial), (1, false));
    }

    #[test]
    fn the_file_comes_last_and_its_faults_are_named() {
        let port = file(r#"{"port": 9000, "colour": "red", "highResWidth": 1920}"#);
        let translation = understood(read, &["-p", "8000", "--cfg", port.path().to_str().unwrap()]);
        assert_eq!(translation.args, ["--listen=0.0.0.0:9000"]);
        assert!(translation.is_partial);
        for words in ["colour (MJPGServer has no such key)", "half a size of stills"] {
            assert!(translation.summary.contains(words), "{}", translation.summary);
        }
        for (content, words) in [
            ("{\"port\": 1,\n \"device\"}", "line 2"),
            ("[]", "expected a map"),
            ("{\"port\": null}", "for port: expected a number"),
            ("{\"lowResWidth\": \"wide\"}", "lowResWidth"),
            ("{\"logLevel\": 7}", "logLevel"),
            ("{\"stabPicCount\": -2}", "stabPicCount"),
            ("{\"accessToken\": \"S3cret\"}", "unknown key accessToken: it seems to be a credential"),
        ] {
            let broken = file(content);
            let path = broken.path().to_str().unwrap();
            let refusal = refusal(read, &["-j", path]);
            assert!(refusal.contains(words) && refusal.contains(path) && !refusal.contains("S3cret"), "{refusal}");
        }
        assert!(refusal(read, &["-j", "/nonexistent.json"]).contains("/nonexistent.json"));
    }
}
