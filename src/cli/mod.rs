//! The command line as typed ([`Args`]) and as checked ([`Config`]).

pub mod compat;
mod file;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use std::{fs, io};

use argh::FromArgs;
use log::{Level, LevelFilter};

use crate::camera::Mode;
use crate::camera::capture::CaptureSettings;
use crate::camera::controls::Wish;
use crate::camera::settle::Rule;
use crate::camera::still::StillSettings;
use crate::camera::synthetic::Synthetic;
use crate::camera::v4l2::Choice;
use crate::frame::Size;
use crate::http::access::Access;
use crate::http::access::credentials::Credentials;
use crate::http::{self, Admission, ControlAccess, Listen, Proxy, Sites, parse_origin};
use crate::hub::pace::{parse_rate, parse_time};
use crate::hub::ring::RingSettings;

/// One Linux webcam, many viewers: sends a camera's Motion-JPEG to any number of HTTP clients, without
/// re-encoding, each at its own pace.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
struct Args {
    /// the camera: auto, synthetic, name:CARD, serial:NUMBER, or a node or link such as /dev/video0 or
    /// /dev/v4l/by-id/... (default auto: the first that offers Motion-JPEG)
    #[argh(
        option,
        default = "DeviceArg::Camera(Choice::Auto)",
        from_str_fn(parse_device),
        arg_name = "auto|synthetic|path"
    )]
    device: DeviceArg,
    /// where to listen: ADDRESS:PORT or unix:PATH; may be given several times; port 0 takes a free one (default
    /// 0.0.0.0:8080)
    #[argh(option, arg_name = "addr:port")]
    listen: Vec<Listen>,
    /// who may open those Unix sockets, as chmod has it (default 660)
    #[argh(option, default = "0o660", from_str_fn(parse_mode), arg_name = "mode")]
    socket_mode: u32,
    /// the live stream's size; the camera's nearest is taken (default 640x480)
    #[argh(option, default = "Size::new(640, 480)", from_str_fn(parse_size), arg_name = "wxh")]
    size: Size,
    /// frames per second to ask of the camera (default: the camera's own rate)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    fps: Option<f64>,
    /// let go of the camera when nobody has looked for so long; 0 keeps it always (default 5)
    #[argh(option, default = "Duration::from_secs(5)", from_str_fn(parse_time), arg_name = "seconds")]
    idle: Duration,
    /// how long a camera may be silent before its stream is restarted, if it was never silent for so long before (default
    /// 2)
    #[argh(option, default = "Duration::from_secs(2)", from_str_fn(parse_patience), arg_name = "seconds")]
    stall_timeout: Duration,
    /// size of full-resolution stills: max, or the camera's nearest to this (default max)
    #[argh(option, default = "None", from_str_fn(parse_still_size), arg_name = "wxh|max")]
    still_size: Option<Size>,
    /// frames per second while a still is taken (default: the camera's own rate at that size)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    still_fps: Option<f64>,
    /// when a still is right: auto, or after so many pictures (default auto)
    #[argh(option, default = "Rule::Auto", from_str_fn(parse_rule), arg_name = "auto|n")]
    still_settle: Rule,
    /// how long to wait for that, before the newest whole picture is taken (default 5)
    #[argh(option, default = "Duration::from_secs(5)", from_str_fn(parse_time), arg_name = "seconds")]
    still_deadline: Duration,
    /// least time between two stills that switch the camera (default 0.5)
    #[argh(option, default = "Duration::from_millis(500)", from_str_fn(parse_time), arg_name = "seconds")]
    still_min_interval: Duration,
    /// the most viewers at a time; snapshots have places of their own (default 64)
    #[argh(option, default = "64", from_str_fn(parse_clients), arg_name = "n")]
    max_clients: usize,
    /// a camera control to set whenever the camera is opened, such as brightness=10; may be given several times
    #[argh(option, from_str_fn(parse_control), arg_name = "name=value")]
    control: Vec<Wish>,
    /// what clients may do with the camera's controls: none, read or write (default write)
    #[argh(option, default = "ControlAccess::Write", from_str_fn(parse_control_access), arg_name = "access")]
    controls: ControlAccess,
    /// what to call ourselves in answers; Octolapse sets controls of none but MJPG-Streamer (default framehub/VERSION)
    #[argh(option, from_str_fn(parse_header), arg_name = "text")]
    server_header: Option<String>,
    /// the most viewers from one address (default: not limited; everybody behind a proxy has one address)
    #[argh(option, from_str_fn(parse_clients), arg_name = "n")]
    max_clients_per_address: Option<usize>,
    /// the most frames per second that anybody gets, evenly (default: all that the camera sends)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    max_fps: Option<f64>,
    /// what viewers get who do not say (?mode=): the newest frame whenever they are ready, all frames in order, or
    /// the same frames in lockstep (default newest)
    #[argh(
        option,
        default = "http::DeliveryMode::Newest",
        from_str_fn(parse_delivery),
        arg_name = "newest|all|lockstep"
    )]
    mode: http::DeliveryMode,
    /// the most memory for frames kept for ?mode=all and --replay (default 64MiB)
    #[argh(option, default = "64 << 20", from_str_fn(parse_memory), arg_name = "size")]
    all_frames_memory: usize,
    /// keep the last seconds for /clip and ?last=, as far as that memory reaches (default: keep none)
    #[argh(option, from_str_fn(parse_time), arg_name = "seconds")]
    replay: Option<Duration>,
    /// how long one lock-step viewer may keep the others waiting (default 2)
    #[argh(option, default = "Duration::from_secs(2)", from_str_fn(parse_patience), arg_name = "seconds")]
    lockstep_patience: Duration,
    /// who may come in: a file with user:password or token:TOKEN a line, read or control in front (default: everybody)
    #[argh(option, arg_name = "path")]
    auth_file: Option<String>,
    /// an origin whose pages are trusted, such as https://panel.example; * lets the scripts of all pages read, none
    /// trusts no page but our own; may be given several times (default: pages of the local network)
    #[argh(option, from_str_fn(parse_origin), arg_name = "origin")]
    allow_origin: Vec<String>,
    /// a public name by which this machine may be called; may be given several times (default: local names)
    #[argh(option, from_str_fn(parse_host), arg_name = "name")]
    allow_host: Vec<String>,
    /// whose X-Forwarded-For is believed: an address, a network such as 10.0.0.0/8, or unix; may be given several
    /// times (default: nobody's)
    #[argh(option, arg_name = "network|unix")]
    trusted_proxy: Vec<Proxy>,
    /// a file with options: JSON, the keys are their names; the command line counts more (default: none)
    #[argh(option, arg_name = "path")]
    #[expect(dead_code, reason = "read before the other options are")]
    config: Option<String>,
    /// take the options of another program: ustreamer, mjpgsrv or mjpg_streamer (default: as the program is called)
    #[argh(option, long = "as", arg_name = "program")]
    #[expect(dead_code, reason = "compat reads it")]
    stands_in_for: Option<String>,
    /// how much to say: error, warn, info, debug or trace (default info)
    #[argh(option, default = "LevelFilter::Info", from_str_fn(parse_level), arg_name = "level")]
    log_level: LevelFilter,
    /// list the cameras and what they offer, then end
    #[argh(switch)]
    list: bool,
    /// look at the camera closely, measure it, print settings to paste, then end
    #[argh(switch)]
    check: bool,
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,
}

/// Which camera, as typed.
pub enum DeviceArg {
    /// A real one.
    Camera(Choice),
    /// The test picture.
    Synthetic(Synthetic),
}

/// What to do, checked.
pub struct Config {
    /// Which camera.
    pub device: DeviceArg,
    /// Where to listen; without any, see [`crate::http::Listeners::open`].
    pub listen: Vec<Listen>,
    /// The mode of Unix sockets.
    pub socket_mode: u32,
    /// Size and rate of the live stream.
    pub live: Mode,
    /// How the capture thread works.
    pub capture: CaptureSettings,
    /// How stills are taken.
    pub still: StillSettings,
    /// Controls to set whenever the camera is opened.
    pub wishes: Vec<Wish>,
    /// How clients are answered.
    pub http: http::Settings,
    /// Frames kept for `mode=all` and clips.
    pub ring: RingSettings,
    /// How long one lock-step viewer may keep the others waiting.
    pub lockstep_timeout: Duration,
    /// How much to say.
    pub log_level: LevelFilter,
    /// What to do.
    pub task: Task,
    /// Leave the terminal once it listens.
    pub in_background: bool,
    /// What to say in the log first.
    pub notes: Vec<(Level, String)>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Serve pictures.
    Serve,
    /// List the cameras.
    List,
    /// Examine the chosen camera.
    Check,
}

/// Why there is no [`Config`].
#[derive(Debug)]
pub enum Exit {
    /// Something to print, as was asked: the help or the version.
    Asked(String),
    /// A wrong command line: what is wrong and what would be right.
    Wrong(String),
}

impl Config {
    /// From everything that can say something: the program's name, which may be another program's, its arguments, and
    /// the environment, which has secrets.
    pub fn from_command_line(
        program: &str,
        args: &[String],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Exit> {
        let Some(translation) = compat::translate(program, args)? else {
            let mut config = Self::from_args(args)?;
            config.http.access.credentials.add_environment(variable).map_err(Exit::Wrong)?;
            return Ok(config);
        };
        let mut config = Self::from_args(&translation.args).map_err(|exit| match exit {
            Exit::Wrong(why) => Exit::Wrong(format!("{}\n{why}", translation.summary)),
            asked => asked,
        })?;
        config.http.access.credentials = translation.credentials;
        config.http.access.credentials.add_environment(variable).map_err(Exit::Wrong)?;
        config.in_background = translation.in_background;
        let level = if translation.is_partial { Level::Warn } else { Level::Info };
        config.notes.push((level, translation.summary));
        Ok(config)
    }

    /// Reads the command line, without the program's name, and the files that it names.
    pub fn from_args(args: &[String]) -> Result<Self, Exit> {
        let mut args = spread(args);
        if let Some(at) = args.iter().position(|arg| arg == "--config").filter(|at| at + 1 < args.len()) {
            let path = args[at + 1].clone();
            let wrong = |why: String| Exit::Wrong(format!("--config {path}: {why}"));
            let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
            args.extend(file::options(&text, &args, &usage()).map_err(wrong)?);
        }
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let args = Args::from_args(&["framehub"], &words).map_err(|early| match early.status {
            Ok(()) => Exit::Asked(early.output),
            Err(()) => Exit::Wrong(format!("{}{}\nTry framehub --help", early.output.trim(), meant(&early.output))),
        })?;
        if args.version {
            return Err(Exit::Asked(concat!("framehub ", env!("CARGO_PKG_VERSION")).into()));
        }
        let (mut credentials, mut notes) = (Credentials::default(), Vec::new());
        if let Some(path) = args.auth_file {
            let wrong = |why: String| Exit::Wrong(format!("--auth-file {path}: {why}"));
            let (text, is_open) = read_secrets(&path).map_err(|error| wrong(error.to_string()))?;
            credentials.add_file(&text).map_err(wrong)?;
            if is_open {
                notes.push((Level::Warn, format!("everybody on this machine can read {path} (chmod 600)")));
            }
        }
        let sites = Sites { origins: args.allow_origin, hosts: args.allow_host };
        Ok(Self {
            device: args.device,
            listen: args.listen,
            socket_mode: args.socket_mode,
            live: Mode { size: args.size, fps: args.fps },
            capture: CaptureSettings {
                max_fps: args.max_fps,
                idle: Some(args.idle).filter(|idle| !idle.is_zero()),
                stall_timeout: args.stall_timeout,
            },
            still: StillSettings {
                size: args.still_size,
                fps: args.still_fps,
                rule: args.still_settle,
                deadline: args.still_deadline,
                min_interval: args.still_min_interval,
            },
            wishes: args.control,
            http: http::Settings {
                admission: Admission {
                    max_clients: args.max_clients,
                    max_per_address: args.max_clients_per_address,
                    mode: args.mode,
                },
                controls: args.controls,
                server_header: args.server_header,
                access: Access { credentials, sites, proxies: args.trusted_proxy },
            },
            ring: RingSettings {
                memory: args.all_frames_memory,
                replay: args.replay.filter(|replay| !replay.is_zero()),
            },
            lockstep_timeout: args.lockstep_patience,
            log_level: args.log_level,
            task: match (args.list, args.check) {
                (true, _) => Task::List,
                (_, true) => Task::Check,
                _ => Task::Serve,
            },
            in_background: false,
            notes,
        })
    }
}

/// A file's text, and whether others than its owner and group can read it.
fn read_secrets(path: &str) -> io::Result<(String, bool)> {
    Ok((fs::read_to_string(path)?, fs::metadata(path)?.permissions().mode() & 0o004 != 0))
}

/// The help, whose first line names all options.
fn usage() -> String {
    Args::from_args(&["framehub"], &["--help"]).err().map_or(String::new(), |early| early.output)
}

/// The option that somebody may have meant.
fn meant(complaint: &str) -> String {
    let Some((_, word)) = complaint.trim().split_once("Unrecognized argument: ") else { return String::new() };
    let usage = usage();
    let options = usage.split(['[', ' ', ']']).filter(|word| word.starts_with("--"));
    file::nearest(word, options)
}

/// `--option=value` as two words, which argh does not do itself.
fn spread(args: &[String]) -> Vec<String> {
    let split = |arg: &String| match arg.split_once('=') {
        Some((option, value)) if option.starts_with("--") => vec![option.to_owned(), value.to_owned()],
        _ => vec![arg.clone()],
    };
    args.iter().flat_map(split).collect()
}

fn parse_device(text: &str) -> Result<DeviceArg, String> {
    match text {
        "" => Err("give auto, synthetic, or a path such as /dev/video0".into()),
        "auto" => Ok(DeviceArg::Camera(Choice::Auto)),
        synthetic if synthetic.split(':').next() == Some("synthetic") => {
            Synthetic::from_text(synthetic).map(DeviceArg::Synthetic)
        }
        name if name.starts_with("name:") => Ok(DeviceArg::Camera(Choice::Name(name[5..].into()))),
        serial if serial.starts_with("serial:") => Ok(DeviceArg::Camera(Choice::Serial(serial[7..].into()))),
        path if path.starts_with('/') || path.starts_with('.') => Ok(DeviceArg::Camera(Choice::Path(path.into()))),
        other => Err(format!(
            "\"{other}\" is no camera; give auto, synthetic, name:CARD, serial:NUMBER, or a path such as /dev/video0"
        )),
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| format!("\"{text}\" is no mode; give three octal digits, such as 660"))
}

fn parse_size(text: &str) -> Result<Size, String> {
    text.parse()
}

fn parse_still_size(text: &str) -> Result<Option<Size>, String> {
    if text == "max" { Ok(None) } else { text.parse().map(Some).map_err(|error| format!("{error}, or max")) }
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    text.parse()
}

fn parse_delivery(text: &str) -> Result<http::DeliveryMode, String> {
    text.parse()
}

/// `64MiB`, `64M`, `1GiB` or `512KiB`, at least a mebibyte.
fn parse_memory(text: &str) -> Result<usize, String> {
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
    parse().ok_or_else(|| format!("\"{text}\" is no size of memory; give 1MiB or more, such as 64MiB or 1GiB"))
}

fn parse_patience(text: &str) -> Result<Duration, String> {
    let time = parse_time(text)?;
    let is_sane = (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&time);
    if is_sane { Ok(time) } else { Err(format!("\"{text}\" is no patience; give 0.1 to 60 seconds")) }
}

fn parse_clients(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|clients| (1..=10_000).contains(clients));
    number.ok_or_else(|| format!("\"{text}\" is no number of clients; give 1 to 10000"))
}

fn parse_control(text: &str) -> Result<Wish, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok(Wish::new(name.trim(), value)),
        _ => Err(format!("\"{text}\" sets no control; give NAME=VALUE, such as brightness=10")),
    }
}

fn parse_control_access(text: &str) -> Result<ControlAccess, String> {
    let all = [ControlAccess::None, ControlAccess::Read, ControlAccess::Write];
    let access = all.into_iter().find(|access| access.name() == text);
    access.ok_or_else(|| format!("\"{text}\" is no access; give none, read or write"))
}

fn parse_header(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text {
        true => Ok(text.into()),
        false => Err(format!("{text:?} cannot be a header; give plain ASCII text, such as MJPG-Streamer/0.2")),
    }
}

fn parse_host(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    match is_name {
        true => Ok(text.trim_end_matches('.').to_ascii_lowercase()),
        false => Err(format!("\"{text}\" is no name; give one such as cam.example.org, without a port")),
    }
}

fn parse_level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no level; give error, warn, info, debug or trace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config, Exit> {
        Config::from_args(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let config = parse("").unwrap_or_else(|exit| panic!("{exit:?}"));
        assert!(matches!(config.device, DeviceArg::Camera(Choice::Auto)));
        assert_eq!(config.listen, []);
        assert!(config.http.access.credentials.is_empty() && config.http.access.proxies.is_empty());
        assert_eq!((config.live.size, config.live.fps), (Size::new(640, 480), None));
        assert_eq!((config.capture.idle, config.capture.max_fps), (Some(Duration::from_secs(5)), None));
        let Admission { max_clients, max_per_address, mode } = config.http.admission;
        assert_eq!((max_clients, max_per_address, mode), (64, None, http::DeliveryMode::Newest));
        let RingSettings { memory, replay } = config.ring;
        let patience = config.lockstep_timeout;
        assert_eq!((memory, replay, patience), (64 << 20, None, Duration::from_secs(2)));
        assert_eq!((config.http.controls, config.http.server_header), (ControlAccess::Write, None));
    }

    #[test]
    fn options_take_their_value_with_and_without_an_equals_sign() {
        for line in ["--size 1280x720 --idle 0 --listen [::1]:0", "--size=1280x720 --idle=0 --listen=[::1]:0"] {
            let config = parse(line).unwrap_or_else(|exit| panic!("{exit:?}"));
            assert_eq!((config.live.size, config.capture.idle), (Size::new(1280, 720), None));
            assert_eq!(config.listen, ["[::1]:0".parse().unwrap()]);
        }
    }

    #[test]
    fn controls_are_named_and_may_be_several() {
        let config =
            parse("--control brightness=10 --control=name=a=b --controls read --server-header MJPG-Streamer/0.2")
                .unwrap_or_else(|exit| panic!("{exit:?}"));
        assert_eq!(config.wishes, [Wish::new("brightness", "10"), Wish::new("name", "a=b")]);
        assert_eq!(config.http.controls, ControlAccess::Read);
        assert_eq!(config.http.server_header.as_deref(), Some("MJPG-Streamer/0.2"));
    }

    #[test]
    fn memory_has_a_unit() {
        for (text, bytes) in [("64MiB", 64 << 20), ("64M", 64 << 20), ("2GB", 2 << 30), ("2048KiB", 2 << 20)] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn wrong_words_name_the_option_and_what_it_takes() {
        for (line, words) in [
            ("--size big", ["--size", "640x480"]),
            ("--fps 0", ["--fps", "frames per second"]),
            ("--listen localhost", ["--listen", "0.0.0.0:8080"]),
            ("--still-size huge", ["--still-size", "max"]),
            ("--still-settle -3", ["--still-settle", "auto"]),
            ("--max-clients=none", ["--max-clients", "1 to 10000"]),
            ("--max-clients-per-address 0", ["--max-clients-per-address", "1 to 10000"]),
            ("--max-fps 0", ["--max-fps", "frames per second"]),
            ("--mode latest", ["--mode", "lockstep"]),
            ("--all-frames-memory 64", ["--all-frames-memory", "64MiB"]),
            ("--all-frames-memory 0G", ["--all-frames-memory", "64MiB"]),
            ("--all-frames-memory 1KiB", ["--all-frames-memory", "64MiB"]),
            ("--all-frames-memory 99999999999999G", ["--all-frames-memory", "64MiB"]),
            ("--replay soon", ["--replay", "seconds"]),
            ("--lockstep-patience 0", ["--lockstep-patience", "0.1 to 60"]),
            ("--device video0", ["--device", "/dev/video0"]),
            ("--idle -1", ["--idle", "seconds"]),
            ("--log-level loud", ["--log-level", "debug"]),
            ("--control brightness", ["--control", "brightness=10"]),
            ("--control =3", ["--control", "brightness=10"]),
            ("--controls all", ["--controls", "none, read or write"]),
            ("--server-header=", ["--server-header", "MJPG-Streamer"]),
            ("--server-header=a\u{1}b", ["--server-header", "MJPG-Streamer"]),
            ("--bogus", ["--bogus", "--help"]),
            ("--size", ["--size", "--help"]),
        ] {
            let Err(Exit::Wrong(error)) = parse(line) else { panic!("{line} was taken") };
            assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
        }
    }
}
