//! uStreamer's options, as of 6.62: those that crowsnest and the guides pass, and all the others by name.

use super::builder::Means::{Control, Fixed, Help, Ignored, Keep, Ours, Set, Unsupported, Version};
use super::builder::Takes::{Nothing, Value};
use super::builder::{Builder, Flag, flag, flip, rate, rotate, stall_timeout, white_balance};
use crate::cli::Exit;
use crate::jpeg::Flip;

const ANALOG: &str = "for capture cards";
const SINK: &str = "there is no shared memory; /stream serves other programs";
const GPIO: &str = "there are no GPIO pins";
const H264: &str = "there is no H.264; go2rtc or ffmpeg make it from /stream";

/// Listens for this machine alone, unless told otherwise.
pub fn read(args: &[String]) -> Result<Builder, Exit> {
    let mut builder = Builder::default();
    builder.host = Some("127.0.0.1".into());
    builder.read("ustreamer", FLAGS, args)?;
    Ok(builder)
}

const FLAGS: &[Flag] = &[
    flag(&["device", "d"], Value, Ours("device")),
    flag(&["resolution", "r"], Value, Ours("size")),
    flag(&["desired-fps", "f"], Value, Set(|builder, value| rate(builder, "fps", value))),
    flag(&["format", "m"], Value, Set(format)),
    flag(&["encoder", "c"], Value, Set(encoder)),
    flag(&["host", "s"], Value, Keep(|builder| &mut builder.host)),
    flag(&["port", "p"], Value, Keep(|builder| &mut builder.port)),
    flag(&["unix", "U"], Value, Keep(|builder| &mut builder.unix)),
    flag(&["unix-rm", "D"], Nothing, Ignored),
    flag(&["unix-mode", "M"], Value, Ours("socket-mode")),
    flag(&["systemd", "S"], Nothing, Ignored),
    flag(&["user"], Value, Keep(|builder| &mut builder.user)),
    flag(&["passwd"], Value, Keep(|builder| &mut builder.password)),
    flag(&["allow-origin"], Value, Set(allow_origin)),
    flag(&["static"], Value, Unsupported("framehub has its own page at /")),
    flag(&["log-level"], Value, Set(log_level)),
    flag(&["perf"], Nothing, Ignored),
    flag(&["verbose"], Nothing, Fixed("log-level", "debug")),
    flag(&["debug"], Nothing, Fixed("log-level", "trace")),
    flag(&["brightness"], Value, Control("brightness", Some("brightness_automatic"))),
    flag(&["contrast"], Value, Control("contrast", None)),
    flag(&["saturation"], Value, Control("saturation", None)),
    flag(&["hue"], Value, Control("hue", Some("hue_automatic"))),
    flag(&["gamma"], Value, Control("gamma", None)),
    flag(&["sharpness"], Value, Control("sharpness", None)),
    flag(&["backlight-compensation"], Value, Control("backlight_compensation", None)),
    flag(&["white-balance"], Value, Set(white_balance)),
    flag(&["gain"], Value, Control("gain", Some("gain_automatic"))),
    flag(&["color-effect"], Value, Control("color_effects", None)),
    flag(&["rotate"], Value, Set(rotate)),
    flag(&["flip-vertical"], Value, Set(|builder, value| flip(builder, Flip::Vertical, value))),
    flag(&["flip-horizontal"], Value, Set(|builder, value| flip(builder, Flip::Horizontal, value))),
    flag(
        &["image-default"],
        Nothing,
        Unsupported("the values that the controls have are kept; POST /controls?reset=1"),
    ),
    // The camera is let go when nobody looks, which is more than slowing down.
    flag(&["slowdown", "l"], Nothing, Ignored),
    flag(&["device-timeout"], Value, Set(stall_timeout)),
    flag(&["device-error-delay"], Value, Ignored),
    flag(&["persistent", "n"], Nothing, Ignored),
    flag(&["min-frame-size", "z"], Value, Ignored),
    flag(&["allow-truncated-frames", "T"], Nothing, Unsupported("only whole pictures are sent")),
    flag(&["buffers", "b"], Value, Ignored),
    flag(&["workers", "w"], Value, Ignored),
    flag(&["io-method", "I"], Value, Ignored),
    flag(&["tcp-nodelay"], Nothing, Ignored),
    flag(&["server-timeout"], Value, Ignored),
    flag(&["glitched-resolutions", "g"], Value, Ignored),
    flag(&["blank", "k"], Value, Ignored),
    flag(&["last-as-blank", "K"], Value, Ignored),
    flag(&["force-log-colors"], Nothing, Ignored),
    flag(&["no-log-colors"], Nothing, Ignored),
    flag(&["quality", "q"], Value, Unsupported("the camera's pictures go out as they are")),
    flag(&["drop-same-frames", "e"], Value, Unsupported("every picture of the camera is sent")),
    flag(&["fake-resolution", "R"], Value, Unsupported("/state says what is true")),
    flag(&["instance-id"], Value, Unsupported("/state has no such field")),
    flag(&["exit-on-no-clients"], Value, Unsupported("the camera is let go instead, see --idle")),
    flag(&["exit-on-device-error"], Nothing, Unsupported("the camera is looked for until it is back")),
    flag(&["exit-on-parent-death"], Nothing, Unsupported("the service manager ends it")),
    flag(&["process-name-prefix"], Value, Unsupported("its name stays")),
    flag(&["notify-parent"], Nothing, Unsupported("systemd is told instead, with Type=notify")),
    flag(&["features"], Nothing, Unsupported("/state says what there is")),
    flag(&["media-device"], Value, Unsupported(ANALOG)),
    flag(&["media-entity-name"], Value, Unsupported(ANALOG)),
    flag(&["input", "i"], Value, Unsupported(ANALOG)),
    flag(&["tv-standard", "a"], Value, Unsupported(ANALOG)),
    flag(&["dv-timings", "t"], Nothing, Unsupported(ANALOG)),
    flag(&["format-swap-rgb"], Nothing, Unsupported("nothing is encoded here")),
    flag(&["m2m-device"], Value, Unsupported("nothing is encoded here")),
    flag(&["jpeg-sink", "sink"], Value, Unsupported(SINK)),
    flag(&["jpeg-sink-mode", "sink-mode"], Value, Unsupported(SINK)),
    flag(&["jpeg-sink-rm", "sink-rm"], Nothing, Unsupported(SINK)),
    flag(&["jpeg-sink-client-ttl", "sink-client-ttl"], Value, Unsupported(SINK)),
    flag(&["jpeg-sink-timeout", "sink-timeout"], Value, Unsupported(SINK)),
    flag(&["raw-sink"], Value, Unsupported(SINK)),
    flag(&["raw-sink-mode"], Value, Unsupported(SINK)),
    flag(&["raw-sink-rm"], Nothing, Unsupported(SINK)),
    flag(&["raw-sink-client-ttl"], Value, Unsupported(SINK)),
    flag(&["raw-sink-timeout"], Value, Unsupported(SINK)),
    flag(&["h264-sink"], Value, Unsupported(SINK)),
    flag(&["h264-sink-mode"], Value, Unsupported(SINK)),
    flag(&["h264-sink-rm"], Nothing, Unsupported(SINK)),
    flag(&["h264-sink-client-ttl"], Value, Unsupported(SINK)),
    flag(&["h264-sink-timeout"], Value, Unsupported(SINK)),
    flag(&["h264-bitrate"], Value, Unsupported(H264)),
    flag(&["h264-gop"], Value, Unsupported(H264)),
    flag(&["h264-m2m-device"], Value, Unsupported(H264)),
    flag(&["h264-boost"], Nothing, Unsupported(H264)),
    flag(&["v4p"], Nothing, Unsupported("for PiKVM")),
    flag(&["gpio-device"], Value, Unsupported(GPIO)),
    flag(&["gpio-consumer-prefix"], Value, Unsupported(GPIO)),
    flag(&["gpio-prog-running"], Value, Unsupported(GPIO)),
    flag(&["gpio-stream-online"], Value, Unsupported(GPIO)),
    flag(&["gpio-has-http-clients"], Value, Unsupported(GPIO)),
    flag(&["help", "h"], Nothing, Help),
    flag(&["version", "v"], Nothing, Version),
];

fn format(builder: &mut Builder, value: &str) -> Result<(), String> {
    match value.to_ascii_uppercase().as_str() {
        "MJPEG" | "JPEG" => builder.ignore("--format"),
        _ => builder.cannot(&format!("--format {value}"), "cameras that send Motion-JPEG only, which is asked for"),
    }
    Ok(())
}

fn encoder(builder: &mut Builder, value: &str) -> Result<(), String> {
    match value.to_ascii_uppercase().as_str() {
        "HW" => builder.ignore("--encoder"),
        _ => builder
            .cannot(&format!("--encoder {value}"), "nothing is encoded here, the camera's pictures go out as they are"),
    }
    Ok(())
}

fn allow_origin(builder: &mut Builder, value: &str) -> Result<(), String> {
    builder.set("allow-origin", if value.is_empty() { "none" } else { value });
    Ok(())
}

fn log_level(builder: &mut Builder, value: &str) -> Result<(), String> {
    let level = match value {
        "0" | "1" => "info",
        "2" => "debug",
        "3" => "trace",
        _ => return Err("expected a level from 0 to 3".into()),
    };
    builder.set("log-level", level);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::builder::tests::{options, refusal, understood};
    use super::*;

    #[test]
    fn every_flag() {
        for (args, expected) in [
            (&["--device", "/dev/video2"][..], "--device=/dev/video2"),
            (&["-d", "/dev/video2"], "--device=/dev/video2"),
            (&["--resolution=1280x720"], "--size=1280x720"),
            (&["--desired-fps", "0"], ""),
            (&["--desired-fps", "12"], "--fps=12"),
            (&["--device-timeout", "5"], "--stall-timeout=5"),
            (&["--device-timeout=0"], ""),
            (&["--device-timeout=600"], "--stall-timeout=60"),
            (&["--allow-origin", "*"], "--allow-origin=*"),
            (&["--allow-origin="], "--allow-origin=none"),
            (&["--allow-origin", "http://mainsail.local"], "--allow-origin=http://mainsail.local"),
            (&["--unix", "/run/cam.sock", "-D", "-M", "660"], "--socket-mode=660"),
            (&["--log-level", "0"], "--log-level=info"),
            (&["--log-level=3"], "--log-level=trace"),
            (&["--verbose"], "--log-level=debug"),
            (&["--debug"], "--log-level=trace"),
            (&["--brightness", "10", "--hue=auto"], "--control=brightness=10 --control=hue_automatic=1"),
            (
                &["--white-balance", "4000"],
                "--control=white_balance_automatic=0 --control=white_balance_temperature=4000",
            ),
            (&["--white-balance", "auto"], "--control=white_balance_automatic=1"),
            (&["--gain", "auto"], "--control=gain_automatic=1"),
            (&["--flip-vertical", "1", "--flip-horizontal=0"], "--flip=vertical"),
            (&["--flip-horizontal", "1"], "--flip=horizontal"),
            (&["--flip-horizontal=1", "--flip-vertical=1"], "--rotate=180"),
            (&["--flip-horizontal=1", "--flip-vertical=1", "--rotate=270"], "--rotate=90"),
            (&["--flip-horizontal=1", "--flip-vertical=1", "--rotate=180"], ""),
            (&["--rotate", "90", "--flip-vertical=1"], "--rotate=90 --flip=vertical"),
            (&["--rotate", "-90"], "--rotate=270"),
            (&["--rotate", "0"], ""),
            (&["--rotate", "180", "--color-effect", "1"], "--control=color_effects=1 --rotate=180"),
            (&["-f", "0.5"], "--fps=0.5"),
            (&["--backlight-compensation", "2"], "--control=backlight_compensation=2"),
        ] {
            assert_eq!(options(read, args), expected, "{args:?}");
        }
        let said = |args: &[&str]| understood(read, args).summary;
        for flag in FLAGS {
            let name = format!("--{}", flag.names[0]);
            match flag.means {
                Ignored => assert!(said(&with_value(flag, &name)).contains(&format!("done anyway: {name};")), "{name}"),
                Unsupported(why) => {
                    let summary = said(&with_value(flag, &name));
                    assert!(summary.ends_with(&format!("not done: {name} ({why})")), "{summary}");
                }
                _ => {}
            }
        }
    }

    fn with_value<'a>(flag: &Flag, name: &'a str) -> Vec<&'a str> {
        if flag.takes == Value { vec![name, "1"] } else { vec![name] }
    }

    #[test]
    fn where_it_listens() {
        for (args, listen) in [
            (&[][..], "--listen=127.0.0.1:8080"),
            (&["--host", "0.0.0.0"], "--listen=0.0.0.0:8080"),
            (&["-s", "localhost", "-p", "8081"], "--listen=127.0.0.1:8081"),
            (&["--host=::", "--port=8082"], "--listen=[::]:8082"),
            (&["--unix", "/run/cam.sock"], "--listen=unix:/run/cam.sock"),
        ] {
            assert_eq!(understood(read, args).args[0], listen, "{args:?}");
        }
    }

    #[test]
    fn the_lines_of_crowsnest() {
        let fifth: Vec<&str> = "--host 127.0.0.1 --port 8080 --resolution 640x480 --desired-fps 15 --allow-origin * \
            --static resources/ustreamer-www --device /dev/v4l/by-id/usb-cam --device-timeout 2 --format MJPEG --encoder HW"
            .split_whitespace()
            .collect();
        let fourth: Vec<&str> =
            "--host 127.0.0.1 -p 8080 -d /dev/v4l/by-id/usb-cam --device-timeout=2 -r 640x480 -f 15 \
            -m MJPEG --encoder=HW --allow-origin=* --static /home/pi/crowsnest/ustreamer-www"
                .split_whitespace()
                .collect();
        for line in [fifth, fourth] {
            let translation = understood(read, &line);
            let mut args = translation.args;
            args.sort();
            let expected = [
                "--allow-origin=*",
                "--device=/dev/v4l/by-id/usb-cam",
                "--fps=15",
                "--listen=127.0.0.1:8080",
                "--size=640x480",
                "--stall-timeout=2",
            ];
            assert_eq!(args, expected);
            assert!(
                translation.is_partial
                    && translation.summary.ends_with("not done: --static (framehub has its own page at /)")
            );
        }
    }

    #[test]
    fn the_credential_is_kept_out_of_sight() {
        let translation = understood(read, &["--user", "ann", "--passwd", "S3cret"]);
        assert_eq!(translation.credentials.len(), 1);
        assert!(translation.summary.contains("a user with a password"), "{}", translation.summary);
        let seen = translation.summary + &translation.args.join(" ");
        assert!(!seen.contains("S3cret") && !seen.contains("ann"), "{seen}");
        assert!(understood(read, &["--user", "ann"]).credentials.len() == 1, "an empty password, as uStreamer has it");
        let nobodys = refusal(read, &["--user=", "--passwd", "S3cret"]);
        assert!(nobodys.contains("a password without a user") && !nobodys.contains("S3cret"), "{nobodys}");
        assert!(!refusal(read, &["--user", "a:b", "--passwd", "S3cret"]).contains("S3cret"));
    }

    #[test]
    fn what_it_cannot_do_is_named() {
        for (args, words) in [
            (&["--format", "YUYV"][..], "--format YUYV (cameras that send Motion-JPEG only"),
            (&["--encoder=CPU"], "--encoder CPU (nothing is encoded"),
            (&["--contrast", "default"], "--contrast (the value that a control has is kept)"),
            (&["-T", "--h264-boost"], "--allow-truncated-frames (only whole"),
        ] {
            let translation = understood(read, args);
            assert!(translation.is_partial && translation.summary.contains(words), "{}", translation.summary);
        }
        assert!(!understood(read, &["-m", "mjpeg", "-c", "hw"]).is_partial);
        for (args, words) in [
            (&["--desired-fps", "fast"][..], "--desired-fps"),
            (&["--device-timeout", "nan"], "number of seconds"),
            (&["--log-level", "9"], "--log-level"),
            (&["--rotate", "45"], "expected 0, 90, 180 or 270"),
            (&["--flip-vertical", "down"], "--flip-vertical"),
        ] {
            assert!(refusal(read, args).contains(words));
        }
    }
}
