//! mjpg-streamer's options: those of the program, and those of the two plugins that framehub stands in for.

use std::path::Path;

use super::builder::Means::{Control, Fixed, Help, Ignored, Keep, Ours, Secret, Set, Unsupported, Version};
use super::builder::Takes::{Nothing, Value};
use super::builder::{Builder, Flag, flag, flip, rate, rotate, stall_timeout, white_balance};
use crate::cli::Exit;
use crate::jpeg::Flip;

const FLAGS: &[Flag] = &[
    flag(&["input", "i"], Value, Set(|builder, value| keep(&mut builder.inputs, value))),
    flag(&["output", "o"], Value, Set(|builder, value| keep(&mut builder.outputs, value))),
    flag(&["background", "b"], Nothing, Set(in_background)),
    flag(&["version", "v"], Nothing, Version),
    flag(&["help", "h"], Nothing, Help),
];

const ENCODED: &str = "the camera's pictures go out as they are";

const INPUT_UVC: &[Flag] = &[
    flag(&["device", "d"], Value, Ours("device")),
    flag(&["resolution", "r"], Value, Set(resolution)),
    flag(&["fps", "f"], Value, Set(|builder, value| rate(builder, "fps", value))),
    flag(&["softfps"], Value, Set(|builder, value| rate(builder, "max-fps", value))),
    flag(&["br"], Value, Control("brightness", Some("brightness_automatic"))),
    flag(&["co"], Value, Control("contrast", None)),
    flag(&["sa"], Value, Control("saturation", None)),
    flag(&["sh"], Value, Control("sharpness", None)),
    flag(&["bk"], Value, Control("backlight_compensation", None)),
    flag(&["gain"], Value, Control("gain", Some("gain_automatic"))),
    flag(&["wb"], Value, Set(white_balance)),
    flag(&["rot"], Value, Set(rotate)),
    flag(&["hf"], Value, Set(|builder, value| flip(builder, Flip::Horizontal, value))),
    flag(&["vf"], Value, Set(|builder, value| flip(builder, Flip::Vertical, value))),
    flag(&["pl"], Value, Set(power_line)),
    flag(&["ex"], Value, Unsupported("set auto_exposure and exposure_time_absolute with --control")),
    flag(&["cagc"], Value, Unsupported("set chroma_gain with --control")),
    flag(&["cb"], Value, Unsupported("set color_killer with --control")),
    flag(&["no_dynctrl", "n"], Nothing, Ignored),
    flag(&["minimum_size", "m"], Value, Ignored),
    flag(&["timestamp"], Nothing, Ignored),
    flag(&["timeout"], Value, Set(stall_timeout)),
    flag(&["led", "l"], Value, Unsupported("set led1_mode with --control")),
    flag(&["every_frame", "e"], Value, Unsupported("say how many a second with -f")),
    flag(&["yuv", "y"], Nothing, Unsupported("cameras that send Motion-JPEG only")),
    flag(&["uyvy", "u"], Nothing, Unsupported("cameras that send Motion-JPEG only")),
    flag(&["fourcc"], Value, Unsupported("cameras that send Motion-JPEG only")),
    flag(&["quality", "q"], Value, Unsupported(ENCODED)),
    flag(&["tvnorm", "t"], Value, Unsupported("for capture cards")),
    flag(&["dv_timings"], Nothing, Unsupported("for capture cards")),
    flag(&["help", "h"], Nothing, Help),
];

const OUTPUT_HTTP: &[Flag] = &[
    flag(&["port", "p"], Value, Keep(|builder| &mut builder.port)),
    flag(&["listen", "l"], Value, Keep(|builder| &mut builder.host)),
    flag(&["credentials", "c"], Value, Secret(credentials)),
    flag(&["nocommands", "n"], Nothing, Fixed("controls", "none")),
    flag(&["www", "w"], Value, Unsupported("framehub has its own page at /")),
    flag(&["ratelimit", "r"], Value, Unsupported("clients say how many they want, with ?fps=")),
    flag(&["help", "h"], Nothing, Help),
];

/// The program's options, then those of the first plugin of each kind.
pub fn read(args: &[String]) -> Result<Builder, Exit> {
    let mut builder = Builder::default();
    builder.read("mjpg_streamer", FLAGS, args)?;
    let (inputs, outputs) = (std::mem::take(&mut builder.inputs), std::mem::take(&mut builder.outputs));
    plugin(&mut builder, &inputs, "input_uvc", INPUT_UVC, "one camera a process")?;
    plugin(&mut builder, &outputs, "output_http", OUTPUT_HTTP, "framehub serves HTTP; wget makes files of /snapshot")?;
    Ok(builder)
}

fn plugin(builder: &mut Builder, given: &[String], known: &str, flags: &[Flag], why_no_more: &str) -> Result<(), Exit> {
    let name = |plugin: &String| {
        let file = plugin.split_whitespace().next().map(Path::new).and_then(Path::file_stem);
        file.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let ours = given.iter().position(|plugin| name(plugin) == known);
    for (at, plugin) in given.iter().enumerate() {
        if Some(at) != ours {
            builder.cannot(&name(plugin), why_no_more);
        }
    }
    let Some(ours) = ours else {
        return match given.first() {
            None => Ok(()),
            Some(other) => Err(Exit::Wrong(format!("as mjpg_streamer: {}: expected {known}.so", name(other)))),
        };
    };
    // Its options are written with one dash or two, however long they are.
    let words: Vec<String> = given[ours].split_whitespace().skip(1).map(String::from).collect();
    builder.read("mjpg_streamer", flags, &words)
}

fn keep(list: &mut Vec<String>, value: &str) -> Result<(), String> {
    list.push(value.into());
    Ok(())
}

fn in_background(builder: &mut Builder, _: &str) -> Result<(), String> {
    builder.in_background = true;
    Ok(())
}

/// A size, or one of the names that mjpg-streamer has for some.
fn resolution(builder: &mut Builder, value: &str) -> Result<(), String> {
    let size = match value.to_ascii_uppercase().as_str() {
        "QQVGA" => "160x120",
        "QCIF" => "176x144",
        "CGA" => "320x200",
        "QVGA" => "320x240",
        "CIF" => "352x288",
        "PAL" => "720x576",
        "VGA" => "640x480",
        "SVGA" => "800x600",
        "XGA" => "1024x768",
        "HD" => "1280x720",
        "SXGA" => "1280x1024",
        "UXGA" => "1600x1200",
        "FHD" => "1920x1080",
        _ => value,
    };
    builder.set("size", size);
    Ok(())
}

fn power_line(builder: &mut Builder, value: &str) -> Result<(), String> {
    let known = ["disabled", "50hz", "60hz", "auto"];
    let index = known.iter().position(|name| *name == value).ok_or_else(|| format!("expected one of {known:?}"))?;
    builder.set("control", format!("power_line_frequency={index}"));
    Ok(())
}

fn credentials(builder: &mut Builder, value: &str) -> Result<(), String> {
    let pair = value.split_once(':').filter(|(user, password)| !user.is_empty() && !password.is_empty());
    let (user, password) = pair.ok_or("expected user:password")?;
    (builder.user, builder.password) = (Some(user.into()), Some(password.into()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::builder::tests::{refusal, understood};
    use super::*;

    #[test]
    fn every_flag_of_both_plugins() {
        for (input, output, expected) in [
            ("input_uvc.so", "output_http.so", "--listen=0.0.0.0:8080"),
            ("input_uvc.so -d /dev/video2", "output_http.so -p 8090", "--listen=0.0.0.0:8090 --device=/dev/video2"),
            ("/usr/lib/input_uvc.so -r VGA", "./output_http.so", "--listen=0.0.0.0:8080 --size=640x480"),
            (
                "input_uvc.so --resolution 1280x720 -fps 5",
                "output_http.so -l 127.0.0.1",
                "--listen=127.0.0.1:8080 --size=1280x720 --fps=5",
            ),
            ("input_uvc.so -f -1 -softfps 4", "output_http.so", "--listen=0.0.0.0:8080 --max-fps=4"),
            ("input_uvc.so -f 0.5 -timeout 9", "output_http.so", "--listen=0.0.0.0:8080 --fps=0.5 --stall-timeout=9"),
            (
                "input_uvc.so -br 3 -gain auto",
                "output_http.so -n",
                "--listen=0.0.0.0:8080 --control=brightness=3 --control=gain_automatic=1 --controls=none",
            ),
            (
                "input_uvc.so -hf true -vf 0 -pl 60hz",
                "output_http.so",
                "--listen=0.0.0.0:8080 --control=power_line_frequency=2 --flip=horizontal",
            ),
            (
                "input_uvc.so -rot 180 -wb auto -co 1 -sa 2 -sh 3 -bk 0",
                "output_http.so",
                "--listen=0.0.0.0:8080 --control=white_balance_automatic=1 --control=contrast=1 --control=saturation=2 --control=sharpness=3 --control=backlight_compensation=0 --rotate=180",
            ),
        ] {
            let translation = understood(read, &["-i", input, "-o", output]);
            assert_eq!(translation.args.join(" "), expected, "{input} {output}");
            assert!(!translation.is_partial && translation.credentials.is_empty());
        }
        assert!(understood(read, &["-b", "-i", "input_uvc.so"]).in_background);
        assert_eq!(understood(read, &[]).args, ["--listen=0.0.0.0:8080"]);
    }

    #[test]
    fn credentials_and_what_cannot_be_done() {
        let line = [
            "-i",
            "input_uvc.so -y -q 80 -m 9",
            "-o",
            "output_http.so -w ./www -c ann:S3cret",
            "-o",
            "output_file.so -f x",
        ];
        let translation = understood(read, &line);
        assert_eq!(translation.credentials.len(), 1);
        assert!(translation.is_partial && !translation.summary.contains("S3cret"), "{}", translation.summary);
        for words in [
            "done anyway: --minimum_size",
            "--yuv (cameras",
            "--quality (",
            "--www (",
            "output_file (framehub serves HTTP",
        ] {
            assert!(translation.summary.contains(words), "{words}: {}", translation.summary);
        }
        for (line, words) in [
            (&["-i", "input_raspicam.so -x 640"][..], "input_raspicam"),
            (&["-i", "input_uvc.so -pl 55hz"], "--pl"),
            (&["-o", "output_http.so -c S3cret"], "user:password"),
            (&["-o", "output_http.so -c :S3cret"], "user:password"),
            (&["-o", "output_http.so -c ann:"], "user:password"),
            (&["-o", "output_http.so --login S3cret"], "unknown option --login: it seems to be a credential"),
        ] {
            let refusal = refusal(read, line);
            assert!(refusal.contains(words) && !refusal.contains("S3cret"), "{refusal}");
        }
    }
}
