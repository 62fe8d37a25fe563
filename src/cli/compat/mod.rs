//! Started under the name of a program that people already run, framehub takes that program's options: `ustreamer`,
//! `mjpgsrv` and `mjpg_streamer`, by its own name or with `--as NAME`.
//!
//! Each program is a table of its options and of what they mean here. The result is a command line of our own, and a
//! line for the log: what was understood, what framehub does anyway, and what it cannot do.

mod builder;
mod mjpg_streamer;
mod mjpgsrv;
mod ustreamer;

use std::path::Path;

use log::Level;

use self::builder::Translation;
use super::{Config, Exit};

/// Reads a command line as another program's, if `program` or `--as` names one that is known.
///
/// # Errors
/// For a wrong command line, and for `--help` and `--version`.
pub fn translate(program: &str, args: &[String]) -> Result<Option<Config>, Exit> {
    let Some(translation) = translation(program, args)? else { return Ok(None) };
    let mut config = Config::from_args(&translation.args).map_err(|exit| match exit {
        Exit::Wrong(why) => Exit::Wrong(format!("{}\n{why}", translation.summary)),
        asked => asked,
    })?;
    if !translation.credentials.is_empty() {
        config.http.access.credentials = translation.credentials;
    }
    config.in_background = translation.in_background;
    let level = if translation.is_partial { Level::Warn } else { Level::Info };
    config.notes.push((level, translation.summary));
    config.notes.extend(translation.warnings.into_iter().map(|warning| (Level::Warn, warning)));
    Ok(Some(config))
}

fn translation(program: &str, args: &[String]) -> Result<Option<Translation>, Exit> {
    let mut args = args.to_vec();
    let name = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = take_as(&mut args)?.unwrap_or(name);
    let name = name.trim_end_matches(".bin");
    let builder = match name {
        "ustreamer" => ustreamer::read(&args)?,
        "mjpgsrv" => mjpgsrv::read(&args)?,
        "mjpg_streamer" => mjpg_streamer::read(&args)?,
        _ => return Ok(None),
    };
    builder.finish(name).map(Some)
}

/// Takes `--as NAME` or `--as=NAME` out of a command line.
fn take_as(args: &mut Vec<String>) -> Result<Option<String>, Exit> {
    let Some(at) = args.iter().position(|arg| arg.split('=').next() == Some("--as")) else { return Ok(None) };
    let name = match args.remove(at).split_once('=') {
        Some((_, name)) => name.to_owned(),
        None if at < args.len() => args.remove(at),
        None => String::new(),
    };
    match name.as_str() {
        "framehub" | "ustreamer" | "mjpgsrv" | "mjpg_streamer" => Ok(Some(name)),
        _ => Err(Exit::Wrong(format!(
            "invalid value {name:?} for --as: expected ustreamer, mjpgsrv or mjpg_streamer\nTry framehub --help"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::builder::tests::{options, refusal};
    use super::*;

    fn words(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| arg.to_string()).collect()
    }

    #[test]
    fn the_name_decides_and_as_overrides_it() {
        let is_other = |program: &str, args: &[&str]| {
            translation(program, &words(args)).unwrap_or_else(|exit| panic!("{exit:?}")).is_some()
        };
        for (program, args, expected) in [
            ("/usr/bin/framehub", &[][..], false),
            ("framehub", &["--as", "ustreamer"], true),
            ("framehub", &["--as=mjpgsrv"], true),
            ("framehub", &["-p", "8081", "--as", "mjpgsrv"], true),
            ("/home/pi/crowsnest/bin/ustreamer/ustreamer", &["--port", "8081"], true),
            ("ustreamer.bin", &[], true),
            ("/usr/local/bin/mjpgsrv", &[], true),
            ("mjpg_streamer", &[], true),
            ("ustreamer", &["--as", "framehub", "--size", "640x480"], false),
            ("", &[], false),
        ] {
            assert_eq!(is_other(program, args), expected, "{program} {args:?}");
        }
        for args in [&["--as", "vlc"][..], &["--as"], &["--as="]] {
            let Err(Exit::Wrong(why)) = translate("framehub", &words(args)) else { panic!("{args:?} was taken") };
            assert!(why.contains("for --as: expected ustreamer, mjpgsrv or mjpg_streamer"), "{args:?}: {why}");
        }
    }

    #[test]
    fn options_are_written_as_getopt_takes_them() {
        for args in [
            &["--resolution", "1280x720", "--desired-fps", "15", "--slowdown"][..],
            &["--resolution=1280x720", "--desired-fps=15", "--slowdown"],
            &["--res=1280x720", "--desired", "15", "--slow"],
            &["-r", "1280x720", "-f", "15", "-l"],
            &["-r1280x720", "-f15", "-l"],
            &["-lr1280x720", "-f", "15"],
            &["-r", "640x480", "-r", "1280x720", "-f", "15", "-l"],
        ] {
            assert_eq!(options(ustreamer::read, args), "--size=1280x720 --fps=15", "{args:?}");
        }
        for (args, words) in [
            (&["--resolution"][..], "missing value for --resolution"),
            (&["-r"], "missing value for --resolution"),
            (&["--slowdown=S3cret"], "--slowdown takes no value\n"),
            // It would let everybody in.
            (&["--password=S3cret"], "unknown option --password: it seems to be a credential"),
            (&["--user", "ann", "--Passwrd", "S3cret"], "unknown option --Passwrd: it seems to be a credential"),
            (&["--authentication=S3cret"], "unknown option --authentication: it seems to be a credential"),
        ] {
            let refusal = refusal(ustreamer::read, args);
            assert!(refusal.contains(words) && !refusal.contains("S3cret"), "{args:?}: {refusal}");
        }
    }

    /// A line that starts another version of the program starts framehub as well.
    #[test]
    fn what_is_not_known_is_one_warning_each_without_its_value() {
        for (args, unknown) in [
            (&["--bogus", "-r", "640x480"][..], &["option --bogus"][..]),
            (&["--bogus", "S3cret", "-r", "640x480"], &["option --bogus"]),
            (&["--placement=S3cret", "-r640x480", "--bogus"], &["option --placement", "option --bogus"]),
            (&["-QS3cret", "-r", "640x480"], &["option -Q"]),
            (&["-lQ", "S3cret", "-r", "640x480"], &["option -Q"]),
            (&["S3cret", "-r", "640x480"], &["a word that belongs to no option"]),
            (&["-r", "640x480", "--device-"], &["option --device-"]),
            (&["-", "--resolution=640x480"], &["a word that belongs to no option"]),
            (&["--", "-r", "640x480"], &["option --"]),
        ] {
            let translation = builder::tests::understood(ustreamer::read, args);
            assert_eq!(translation.args[1..], ["--size=640x480"], "{args:?}");
            assert_eq!(translation.warnings.len(), unknown.len(), "{args:?}: {:?}", translation.warnings);
            for (warning, unknown) in translation.warnings.iter().zip(unknown) {
                assert!(warning.contains(unknown) && !warning.contains("S3cret"), "{args:?}: {warning}");
            }
        }
        assert_eq!(
            options(ustreamer::read, &["--idle", "0", "--check", "--no-signal=none"]),
            "--idle 0 --check --no-signal=none"
        );
        for (read, args) in [
            (mjpgsrv::read as builder::tests::Read, &["--bogus", "S3cret"][..]),
            (mjpg_streamer::read, &["--bogus", "S3cret"]),
            (mjpg_streamer::read, &["-i", "input_uvc.so -bogus S3cret"]),
            (mjpg_streamer::read, &["-o", "output_http.so --bogus=S3cret"]),
        ] {
            let warnings = builder::tests::understood(read, args).warnings;
            assert!(warnings.len() == 1 && !warnings[0].contains("S3cret"), "{warnings:?}");
        }
    }

    #[test]
    fn help_and_version_are_answered() {
        for (program, read) in [
            ("ustreamer", ustreamer::read as builder::tests::Read),
            ("mjpgsrv", mjpgsrv::read),
            ("mjpg_streamer", mjpg_streamer::read),
        ] {
            let help = refusal(read, &["--help"]);
            assert!(help.contains(program) && help.lines().count() > 5, "{help}");
        }
        assert_eq!(refusal(ustreamer::read, &["-v"]), concat!("framehub ", env!("CARGO_PKG_VERSION")));
    }
}
