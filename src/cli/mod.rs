//! The command line as typed (`Args`) and as checked ([`Config`]).

pub mod compat;
mod errors;
pub(crate) mod file;
mod values;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::str::FromStr;
use std::time::Duration;
use std::{fs, io};

use argh::FromArgs;
use log::{Level, LevelFilter};

use crate::camera::Mode;
use crate::camera::capture::CaptureSettings;
use crate::camera::control::ControlValue;
use crate::camera::encode::Encode;
use crate::camera::settle::Rule;
use crate::camera::sources::stills::StillAddress;
use crate::camera::sources::{Address, without_credentials};
use crate::camera::still::StillSettings;
use crate::camera::synthetic::Synthetic;
use crate::camera::v4l2::Choice;
use crate::frame::Size;
use crate::http::access::Access;
use crate::http::access::credentials::Credentials;
use crate::http::{self, Admission, ControlAccess, DEFAULT_ADDRESS, Listen, Proxy, Sites, lan_addresses, parse_origin};
use crate::hub::pace::{parse_rate, parse_time};
use crate::hub::ring::RingSettings;
use crate::jpeg::{Flip, Orientation};

/// One Linux webcam, many viewers: sends a camera's Motion-JPEG to any number of HTTP clients, without
/// re-encoding, each at its own pace.
#[derive(FromArgs)]
#[argh(help_triggers("-h", "--help"))]
struct Args {
    /// the camera: auto, synthetic, name:CARD, serial:NUMBER, a node or link such as /dev/video0 or
    /// /dev/v4l/by-id/..., http://HOST/PATH of another server, exec:COMMAND, - for standard input, or a recording: a file
    /// or a directory of pictures (default auto: the first that offers Motion-JPEG)
    #[argh(option, default = "DeviceArg::Camera(Choice::Auto)", arg_name = "auto|synthetic|path|url|exec:command")]
    device: DeviceArg,
    /// where to listen: ADDRESS:PORT or unix:PATH; can be given several times; port 0 takes a free one (default
    /// 0.0.0.0:8080)
    #[argh(option, arg_name = "addr:port")]
    listen: Vec<Listen>,
    /// permissions of those Unix sockets, as for chmod (default 660)
    #[argh(option, default = "0o660", from_str_fn(values::permissions), arg_name = "mode")]
    socket_mode: u32,
    /// size of the live stream; the camera's nearest size is taken (default 640x480)
    #[argh(option, default = "Size::new(640, 480)", arg_name = "wxh")]
    size: Size,
    /// frames per second to ask of the camera (default: the camera's own rate)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    fps: Option<f64>,
    /// encode the raw pictures of a camera without Motion-JPEG, and larger ones for stills, at this quality from 1 to
    /// 100; QUALITY:FORMAT takes only this format, such as YUYV (default: such a camera is refused)
    #[argh(option, arg_name = "quality")]
    encode: Option<Encode>,
    /// close the camera after this time without a viewer; 0 keeps it open (default 5)
    #[argh(option, default = "Duration::from_secs(5)", from_str_fn(parse_time), arg_name = "seconds")]
    idle: Duration,
    /// restart the stream of a camera that is silent for this time, unless it has paused for longer before (default 2)
    #[argh(option, default = "Duration::from_secs(2)", from_str_fn(values::patience), arg_name = "seconds")]
    stall_timeout: Duration,
    /// size of full-resolution stills: max, or the camera's nearest to this (default max)
    #[argh(option, default = "None", from_str_fn(values::size_or_max), arg_name = "wxh|max")]
    still_size: Option<Size>,
    /// frames per second while a still is taken (default: the camera's own rate at that size)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    still_fps: Option<f64>,
    /// when a still is right: auto (steady in size and brightness), or after this number of pictures (default auto)
    #[argh(option, default = "Rule::Auto", arg_name = "auto|n")]
    still_settle: Rule,
    /// how long to wait for that before the newest whole picture is taken (default 5)
    #[argh(option, default = "Duration::from_secs(5)", from_str_fn(values::patience), arg_name = "seconds")]
    still_deadline: Duration,
    /// least time between two stills that switch the camera (default 0.5)
    #[argh(option, default = "Duration::from_millis(500)", from_str_fn(parse_time), arg_name = "seconds")]
    still_min_interval: Duration,
    /// take stills from this address instead of the camera, such as an ESP32's /capture (default: from the camera)
    #[argh(option, from_str_fn(StillAddress::from_url), arg_name = "url")]
    still_url: Option<StillAddress>,
    /// take stills with this command, which prints one JPEG while the camera is closed for it (default: from the camera)
    #[argh(option, arg_name = "command")]
    still_command: Option<String>,
    /// how a picture is to be rotated for viewing, clockwise, by Exif: 90, 180 or 270 (default: as the camera says)
    #[argh(option, from_str_fn(values::rotation), arg_name = "degrees")]
    rotate: Option<u16>,
    /// how it is to be mirrored before that: horizontal or vertical (default: not)
    #[argh(option, arg_name = "direction")]
    flip: Option<Flip>,
    /// viewers at a time at most; snapshots have 16 more connections (default 64)
    #[argh(option, default = "64", from_str_fn(values::clients), arg_name = "n")]
    max_clients: usize,
    /// a camera control to set whenever the camera is opened, such as brightness=10; can be given several times
    #[argh(option, arg_name = "name=value")]
    control: Vec<ControlValue>,
    /// what clients may do with the camera's controls: none, read or write (default write)
    #[argh(option, default = "ControlAccess::Write", arg_name = "none|read|write")]
    controls: ControlAccess,
    /// the Server header field of responses; Octolapse sets the controls of MJPG-Streamer only (default
    /// framehub/VERSION)
    #[argh(option, from_str_fn(values::header), arg_name = "text")]
    server_header: Option<String>,
    /// viewers from one address at most; all clients behind a proxy have one address (default: not limited)
    #[argh(option, from_str_fn(values::clients), arg_name = "n")]
    max_clients_per_address: Option<usize>,
    /// frames per second that any client gets at most, evenly spaced (default: all that the camera sends)
    #[argh(option, from_str_fn(parse_rate), arg_name = "n")]
    max_fps: Option<f64>,
    /// what viewers without ?mode= get: the newest frame whenever they are ready, all frames in order, or the same
    /// frames in lockstep (default newest)
    #[argh(option, default = "http::DeliveryMode::Newest", arg_name = "newest|all|lockstep")]
    mode: http::DeliveryMode,
    /// what viewers of the newest frame get every 5 s while the camera sends no pictures: picture (it says what is wrong)
    /// or none (default picture)
    #[argh(option, default = "true", from_str_fn(values::picture_or_none), arg_name = "picture|none")]
    no_signal: bool,
    /// memory for frames kept for ?mode=all and --replay at most (default 64MiB)
    #[argh(option, default = "64 << 20", from_str_fn(values::memory), arg_name = "size")]
    all_frames_memory: usize,
    /// memory for snapshots, stills and other responses while they are sent; beyond, 503 (default 32MiB)
    #[argh(option, default = "32 << 20", from_str_fn(values::memory), arg_name = "size")]
    response_memory: usize,
    /// keep the last seconds for /clip and ?last=, as far as that memory suffices (default: keep none)
    #[argh(option, from_str_fn(parse_time), arg_name = "seconds")]
    replay: Option<Duration>,
    /// how long one lock-step viewer may keep the others waiting (default 2)
    #[argh(option, default = "Duration::from_secs(2)", from_str_fn(values::patience), arg_name = "seconds")]
    lockstep_patience: Duration,
    /// credentials: a file with user:password or token:TOKEN a line, optionally after read or control (default:
    /// everybody has access)
    #[argh(option, arg_name = "path")]
    auth_file: Option<String>,
    /// an origin whose pages are trusted, such as https://panel.example; * lets the scripts of all pages read, none
    /// trusts no page but our own; can be given several times (default: pages of the local network)
    #[argh(option, from_str_fn(parse_origin), arg_name = "origin")]
    allow_origin: Vec<String>,
    /// a public host name of this machine; can be given several times (default: local names)
    #[argh(option, from_str_fn(values::host), arg_name = "name")]
    allow_host: Vec<String>,
    /// a proxy whose X-Forwarded-For is trusted: an address, a network such as 10.0.0.0/8, or unix; can be given
    /// several times (default: none)
    #[argh(option, arg_name = "network|unix")]
    trusted_proxy: Vec<Proxy>,
    /// a JSON file with options, whose keys are their names; the command line takes precedence (default: none)
    #[argh(option, arg_name = "path")]
    #[expect(dead_code, reason = "read before the other options are")]
    config: Option<String>,
    /// take the options of another program: ustreamer, mjpgsrv or mjpg_streamer (default: the name under which
    /// framehub is started)
    #[argh(option, long = "as", arg_name = "program")]
    #[expect(dead_code, reason = "compat reads it")]
    stands_in_for: Option<String>,
    /// least severe lines to log: error, warn, info, debug or trace (default info)
    #[argh(option, default = "LevelFilter::Info", from_str_fn(values::level), arg_name = "level")]
    log_level: LevelFilter,
    /// list the cameras and what they offer, then exit
    #[argh(switch)]
    list: bool,
    /// examine the camera, measure it, print settings to paste, then exit
    #[argh(switch)]
    check: bool,
    /// print the version, then exit
    #[argh(switch, short = 'V')]
    version: bool,
}

/// Which camera, as typed.
pub enum DeviceArg {
    /// A real one.
    Camera(Choice),
    /// The test picture.
    Synthetic(Synthetic),
    /// Another server, a command or standard input.
    Other(Address),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = Address::from_text(text) {
            return address.map(Self::Other);
        }
        match text.split_once(':').unwrap_or((text, "")) {
            _ if text.starts_with(['/', '.']) => Ok(Self::Camera(Choice::Path(text.into()))),
            ("synthetic", _) => Synthetic::from_text(text).map(Self::Synthetic),
            ("name", name) if !name.is_empty() => Ok(Self::Camera(Choice::Name(name.into()))),
            ("serial", number) if !number.is_empty() => Ok(Self::Camera(Choice::Serial(number.into()))),
            _ if text == "auto" => Ok(Self::Camera(Choice::Auto)),
            _ if values::is_path(text) => Ok(Self::Camera(Choice::Path(text.into()))),
            _ => Err("expected auto, synthetic, name:CARD, serial:NUMBER, a path such as /dev/video0 or clip.mjpeg, \
                      http://HOST/PATH, exec:COMMAND or -"
                .into()),
        }
    }
}

/// The options, checked.
pub struct Config {
    /// Which camera.
    pub device: DeviceArg,
    /// Where to listen; if empty, see [`crate::http::Listeners::open`].
    pub listen: Vec<Listen>,
    /// The mode of Unix sockets.
    pub socket_mode: u32,
    /// Size and rate of the live stream.
    pub live: Mode,
    /// How raw pictures are encoded, if at all.
    pub encode: Option<Encode>,
    /// How the capture thread works.
    pub capture: CaptureSettings,
    /// How stills are taken.
    pub still: StillSettings,
    /// What takes stills in place of the camera.
    pub still_address: Option<StillAddress>,
    /// How pictures are to be turned for viewing; `None` leaves it to the camera.
    pub orientation: Option<Orientation>,
    /// Controls to set whenever the camera is opened.
    pub control_values: Vec<ControlValue>,
    /// Settings of the HTTP side.
    pub http: http::Settings,
    /// Frames kept for `mode=all` and clips.
    pub ring: RingSettings,
    /// How long one lock-step viewer may keep the others waiting.
    pub lockstep_timeout: Duration,
    /// Least severe lines that are logged.
    pub log_level: LevelFilter,
    /// What to do.
    pub task: Task,
    /// Run in the background once it listens.
    pub in_background: bool,
    /// Lines for the log, to begin with.
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
    /// The help or the version was asked for: print this.
    Asked(String),
    /// The command line is wrong: why, and what was expected.
    Wrong(String),
}

impl Config {
    /// Reads a command line, without the program's name, and the files that it names.
    ///
    /// # Errors
    /// When there is nothing to do but to print something.
    pub fn from_args(args: &[String]) -> Result<Self, Exit> {
        let usage = usage();
        if args.iter().any(|arg| arg == "-h" || arg == "--help") {
            return Err(Exit::Asked(usage));
        }
        let mut args = split_values(args, &usage).map_err(Exit::Wrong)?;
        let is_public = args.iter().any(|arg| matches!(Address::from_text(arg), Some(Ok(Address::Http(_, Some(_))))));
        if let Some(at) = args.iter().position(|arg| arg == "--config").filter(|at| at + 1 < args.len()) {
            let path = args[at + 1].clone();
            let text = fs::read_to_string(&path).map_err(|error| cannot_read("--config", &path, &error))?;
            let options = file::options(&text, &args, &usage);
            args.extend(options.map_err(|why| Exit::Wrong(format!("--config {path}: {why}")))?);
        }
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        let args = Args::from_args(&["framehub"], &words).map_err(|early| {
            // A value may hold a password.
            let why = without_credentials(&errors::explain(&early.output, &usage));
            Exit::Wrong(format!("{why}\nTry framehub --help"))
        })?;
        if args.version {
            return Err(Exit::Asked(concat!("framehub ", env!("CARGO_PKG_VERSION")).into()));
        }
        let mut config = args.check()?;
        if is_public {
            let note = "everybody on this machine can read the password in the command line (ps); \
                        FRAMEHUB_SOURCE_USER and FRAMEHUB_SOURCE_PASSWORD are safe from that";
            config.notes.push((Level::Warn, note.into()));
        }
        Ok(config)
    }

    /// Adds the credentials that the environment holds.
    ///
    /// # Errors
    /// When they are incomplete.
    pub fn add_environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), Exit> {
        match (variable("FRAMEHUB_SOURCE_USER"), variable("FRAMEHUB_SOURCE_PASSWORD")) {
            (None, None) => {}
            (Some(user), Some(password)) => self.add_source_credentials(&user, &password),
            _ => return Err(Exit::Wrong("FRAMEHUB_SOURCE_USER and FRAMEHUB_SOURCE_PASSWORD go together".into())),
        }
        self.http.access.credentials.add_environment(variable).map_err(Exit::Wrong)
    }

    /// They are for the server of the live stream, or if that comes from elsewhere, for the one of stills.
    fn add_source_credentials(&mut self, user: &str, password: &str) {
        let live = if let DeviceArg::Other(Address::Http(url, _)) = &self.device { Some(url.clone()) } else { None };
        if let DeviceArg::Other(address) = &mut self.device {
            address.add_credentials(user, password);
        }
        if let Some(address) = &mut self.still_address {
            address.add_credentials(user, password, live.as_ref());
        }
    }

    /// The first TCP address at which it listens, if any, that address for this machine, and for others.
    pub fn addresses(&self) -> Option<[SocketAddr; 3]> {
        let tcp = |listen: &Listen| if let Listen::Tcp(address) = listen { Some(*address) } else { None };
        let default = self.listen.is_empty().then_some(DEFAULT_ADDRESS);
        let address = self.listen.iter().find_map(tcp).or(default)?;
        let local = if address.ip().is_unspecified() { ([127, 0, 0, 1], address.port()).into() } else { address };
        Some([address, local, lan_addresses(address).first().copied().unwrap_or(local)])
    }
}

impl Args {
    fn check(self) -> Result<Config, Exit> {
        let (mut credentials, mut notes) = (Credentials::default(), Vec::new());
        let still_address = match (self.still_url, self.still_command) {
            (Some(_), Some(_)) => {
                return Err(Exit::Wrong("--still-url and --still-command: expected one of them".into()));
            }
            (url, command) => url.or(command.map(StillAddress::Command)),
        };
        if let Some(path) = self.auth_file {
            let (text, is_public) = read_secrets(&path).map_err(|error| cannot_read("--auth-file", &path, &error))?;
            credentials.add_file(&text).map_err(|why| Exit::Wrong(format!("--auth-file {path}: {why}")))?;
            if is_public {
                notes.push((Level::Warn, format!("everybody on this machine can read {path} (chmod 600)")));
            }
        }
        Ok(Config {
            device: self.device,
            listen: self.listen,
            socket_mode: self.socket_mode,
            live: Mode { size: self.size, fps: self.fps },
            encode: self.encode,
            capture: CaptureSettings {
                max_fps: self.max_fps,
                idle: Some(self.idle).filter(|idle| !idle.is_zero()),
                stall_timeout: self.stall_timeout,
            },
            still: StillSettings {
                size: self.still_size,
                fps: self.still_fps,
                rule: self.still_settle,
                deadline: self.still_deadline,
                min_interval: self.still_min_interval,
            },
            still_address,
            orientation: (self.rotate.is_some() || self.flip.is_some())
                .then(|| Orientation::new(self.flip, self.rotate.unwrap_or(0))),
            control_values: self.control,
            http: http::Settings {
                admission: Admission {
                    max_clients: self.max_clients,
                    max_per_address: self.max_clients_per_address,
                    mode: self.mode,
                    has_no_signal: self.no_signal,
                    response_memory: self.response_memory,
                },
                controls: self.controls,
                server_header: self.server_header,
                access: Access {
                    credentials,
                    sites: Sites { origins: self.allow_origin, hosts: self.allow_host },
                    proxies: self.trusted_proxy,
                },
            },
            ring: RingSettings {
                memory: self.all_frames_memory,
                replay: self.replay.filter(|replay| !replay.is_zero()),
            },
            lockstep_timeout: self.lockstep_patience,
            log_level: self.log_level,
            task: match (self.list, self.check) {
                (true, _) => Task::List,
                (_, true) => Task::Check,
                _ => Task::Serve,
            },
            in_background: false,
            notes,
        })
    }
}

fn cannot_read(option: &str, path: &str, error: &io::Error) -> Exit {
    Exit::Wrong(format!("cannot read {option} {path}: {error}"))
}

/// A file's text, and whether others than its owner and group can read it.
fn read_secrets(path: &str) -> io::Result<(String, bool)> {
    Ok((fs::read_to_string(path)?, fs::metadata(path)?.permissions().mode() & 0o004 != 0))
}

/// The help, whose first line names all options.
fn usage() -> String {
    Args::from_args(&["framehub"], &["--help"]).err().map_or(String::new(), |early| early.output)
}

/// Makes two words of `--option=value`, since argh does not.
fn split_values(args: &[String], usage: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    for arg in args {
        match arg.split_once('=').filter(|(option, _)| option.starts_with("--")) {
            None => words.push(arg.clone()),
            Some((option, _)) if errors::is_switch(option, usage) => {
                return Err(format!("{option} takes no value\nTry framehub --help"));
            }
            Some((option, value)) => words.extend([option.to_owned(), value.to_owned()]),
        }
    }
    Ok(words)
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
        let Admission { max_clients, max_per_address, mode, has_no_signal, response_memory } = config.http.admission;
        assert_eq!((max_clients, max_per_address, mode), (64, None, http::DeliveryMode::Newest));
        assert!(has_no_signal);
        assert_eq!(response_memory, 32 << 20);
        let RingSettings { memory, replay } = config.ring;
        let patience = config.lockstep_timeout;
        assert_eq!((memory, replay, patience), (64 << 20, None, Duration::from_secs(2)));
        assert_eq!((config.http.controls, config.http.server_header), (ControlAccess::Write, None));
    }

    #[test]
    fn cameras_are_named_in_several_ways() {
        let camera = |text: &str| match text.parse() {
            Ok(DeviceArg::Camera(choice)) => format!("{choice:?}"),
            Ok(DeviceArg::Synthetic(_)) => "synthetic".into(),
            Ok(DeviceArg::Other(address)) => format!("{address:?}"),
            Err(why) => why,
        };
        for (text, expected) in [
            ("auto", "Auto"),
            ("synthetic", "synthetic"),
            ("synthetic:dht=0", "synthetic"),
            ("name:C920: the second", "Name(\"C920: the second\")"),
            ("serial:1F", "Serial(\"1F\")"),
            ("/dev/video0", "Path(\"/dev/video0\")"),
            ("./name:x", "Path(\"./name:x\")"),
            ("clip.MJPEG", "Path(\"clip.MJPEG\")"),
            ("pictures/", "Path(\"pictures/\")"),
            ("exec:a -b: c", "Command(\"a -b: c\")"),
            ("-", "Input"),
            ("http://u:p@cam:81/s", "Http(Url { host: \"cam\", port: 81, path: \"/s\" }, Some(Basic(***)))"),
        ] {
            assert_eq!(camera(text), expected, "{text}");
        }
        for text in ["", "video0", "synthetics", "auto:", "usb:1", "name:", "serial"] {
            assert!(camera(text).starts_with("expected auto, synthetic"), "{text}");
        }
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
        assert_eq!(config.control_values, [ControlValue::new("brightness", "10"), ControlValue::new("name", "a=b")]);
        assert_eq!(config.http.controls, ControlAccess::Read);
        assert_eq!(config.http.server_header.as_deref(), Some("MJPG-Streamer/0.2"));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_option_and_what_was_expected() {
        let address = "ADDRESS:PORT with a numeric address, such as 0.0.0.0:8080 or [::]:8080, or unix:PATH";
        let size = "WIDTHxHEIGHT in pixels, from 16x16 to 16384x16384, such as 640x480";
        let seconds = "a number of seconds, such as 5 or 0.5";
        let camera = "auto, synthetic, name:CARD, serial:NUMBER, a path such as /dev/video0 or clip.mjpeg, http://HOST/PATH, exec:COMMAND or -";
        let origin = "*, none, or an origin such as http://mainsail.local";
        for (option, value, expected) in [
            ("device", "video0", camera),
            ("device", "", camera),
            ("listen", "localhost", address),
            ("listen", "unix:", "a path after unix:, such as unix:/run/framehub/http.sock"),
            ("socket-mode", "888", "octal permissions from 0 to 777, such as 660"),
            ("size", "big", size),
            ("size", "99999x1", size),
            ("fps", "fast", "a number from 0.1 to 1000"),
            ("fps", "0", "a number from 0.1 to 1000"),
            ("idle", "-1", seconds),
            ("stall-timeout", "0", "a number of seconds from 0.1 to 60"),
            ("still-deadline", "0", "a number of seconds from 0.1 to 60"),
            ("still-size", "huge", &format!("{size}, or max")),
            ("still-fps", "NaN", "a number from 0.1 to 1000"),
            ("still-settle", "-3", "auto, or a number of pictures from 0 to 1000"),
            ("still-deadline", "soon", "a number of seconds from 0.1 to 60"),
            ("still-min-interval", "", seconds),
            ("max-clients", "none", "a number from 1 to 10000"),
            ("max-clients", "0", "a number from 1 to 10000"),
            ("max-clients-per-address", "0", "a number from 1 to 10000"),
            ("control", "brightness", "NAME=VALUE, such as brightness=10"),
            ("control", "=3", "NAME=VALUE, such as brightness=10"),
            ("controls", "all", "none, read or write"),
            ("server-header", "", "plain ASCII text, such as MJPG-Streamer/0.2"),
            ("server-header", "a\u{1}b", "plain ASCII text, such as MJPG-Streamer/0.2"),
            ("max-fps", "1e9", "a number from 0.1 to 1000"),
            ("mode", "latest", "newest, all or lockstep"),
            ("no-signal", "black", "picture or none"),
            ("all-frames-memory", "64", "1MiB or more, such as 64MiB or 1GiB"),
            ("all-frames-memory", "0G", "1MiB or more, such as 64MiB or 1GiB"),
            ("all-frames-memory", "1KiB", "1MiB or more, such as 64MiB or 1GiB"),
            ("all-frames-memory", "99999999999999G", "1MiB or more, such as 64MiB or 1GiB"),
            ("response-memory", "32", "1MiB or more, such as 64MiB or 1GiB"),
            ("replay", "soon", seconds),
            ("lockstep-patience", "0", "a number of seconds from 0.1 to 60"),
            ("allow-origin", "mainsail.local", origin),
            ("allow-host", "http://x", "a host name such as cam.example.org, without a port"),
            ("trusted-proxy", "10.0.0.0/99", "an address, a network such as 10.0.0.0/8, or unix"),
            ("log-level", "loud", "error, warn, info, debug or trace"),
        ] {
            for args in [vec![format!("--{option}={value}")], vec![format!("--{option}"), value.into()]] {
                let Err(Exit::Wrong(error)) = Config::from_args(&args) else { panic!("{args:?} was taken") };
                let line = format!("invalid value {value:?} for --{option}: expected {expected}\nTry framehub --help");
                assert_eq!(error, line);
            }
        }
    }

    #[test]
    fn other_mistakes_are_named_too() {
        for (line, expected) in [
            ("--bogus", "unknown option --bogus"),
            ("--bogus=1", "unknown option --bogus"),
            ("--listne 127.0.0.1:0", "unknown option --listne, did you mean \"--listen\"?"),
            ("-x", "unknown option -x"),
            ("-xS3cret", "unknown option -x"),
            ("--password=S3cret", "unknown option --password"),
            ("word", "unexpected argument: framehub takes options only"),
            ("--size", "missing value for --size: expected --size <wxh>"),
            ("--size 64x64 --config", "missing value for --config: expected --config <path>"),
            ("--fps 1 --fps=2", "--fps is given more than once: expected one value"),
            ("--list=1", "--list takes no value"),
            ("--version=", "--version takes no value"),
            ("--help=all", "--help takes no value"),
            ("--config=/nonexistent", "cannot read --config /nonexistent: No such file or directory (os error 2)"),
            (
                "--auth-file /nonexistent",
                "cannot read --auth-file /nonexistent: No such file or directory (os error 2)",
            ),
        ] {
            let Err(Exit::Wrong(error)) = parse(line) else { panic!("{line} was taken") };
            assert_eq!(error.trim_end_matches("\nTry framehub --help"), expected, "{line}");
        }
    }

    #[test]
    fn help_and_version_come_before_mistakes() {
        for line in ["--help", "-h", "--help --list", "--bogus -h", "--config /nonexistent --help"] {
            assert!(matches!(parse(line), Err(Exit::Asked(text)) if text.starts_with("Usage: framehub")), "{line}");
        }
        assert!(
            matches!(parse("-V"), Err(Exit::Asked(text)) if text == concat!("framehub ", env!("CARGO_PKG_VERSION")))
        );
    }
}
