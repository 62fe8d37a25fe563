//! Started under the name of a program that people already run, framehub takes that program's options: `ustreamer`,
//! `mjpgsrv` and `mjpg_streamer`, by its own name or with `--as NAME`.
//!
//! Each program is a table of its options and of what they mean here. The result is a command line of our own, and a
//! line for the log: what was understood, what framehub does anyway, and what it cannot do.

mod mjpg_streamer;
mod mjpgsrv;
mod ustreamer;

use std::path::Path;

use crate::cli::Exit;
use crate::http::{Credentials, Right};

/// Another program's command line in our words.
#[derive(Default)]
pub struct Translation {
    /// Our options.
    pub args: Vec<String>,
    /// Who may come in; kept out of the options, which are printed.
    pub credentials: Credentials,
    /// The other program would leave its terminal.
    pub in_background: bool,
    /// For the log.
    pub summary: String,
    /// Whether something was asked for that framehub cannot do.
    pub is_partial: bool,
}

/// What this command line means, if `program` or `--as` says that it is another program's.
pub fn translate(program: &str, args: &[String]) -> Result<Option<Translation>, Exit> {
    let mut args = args.to_vec();
    let name = Path::new(program).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = take_value(&mut args, "--as")?.unwrap_or(name);
    match name.trim_end_matches(".bin") {
        "ustreamer" => ustreamer::read(&args)?.finish("ustreamer").map(Some),
        "mjpgsrv" => mjpgsrv::read(&args)?.finish("mjpgsrv").map(Some),
        "mjpg_streamer" => mjpg_streamer::read(&args)?.finish("mjpg_streamer").map(Some),
        _ => Ok(None),
    }
}

/// Takes `--as NAME` or `--as=NAME` out of a command line.
fn take_value(args: &mut Vec<String>, option: &str) -> Result<Option<String>, Exit> {
    let is_it = |arg: &String| arg.split('=').next() == Some(option);
    let Some(at) = args.iter().position(is_it) else { return Ok(None) };
    let name = match args.remove(at).split_once('=') {
        Some((_, name)) => name.to_owned(),
        None if at < args.len() => args.remove(at),
        None => String::new(),
    };
    match name.as_str() {
        "framehub" | "ustreamer" | "mjpgsrv" | "mjpg_streamer" => Ok(Some(name)),
        _ => Err(Exit::Wrong(format!(
            "{option}: \"{name}\" is no program that framehub can stand in for; give ustreamer, mjpgsrv or mjpg_streamer"
        ))),
    }
}

/// An option of another program.
struct Flag {
    /// All its names; those of one letter are for a single dash.
    names: &'static [&'static str],
    takes: Takes,
    means: Means,
}

const fn flag(names: &'static [&'static str], takes: Takes, means: Means) -> Flag {
    Flag { names, takes, means }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
}

/// What an option means here.
enum Means {
    /// One of ours, with the same value.
    Ours(&'static str),
    /// One of ours, with this value.
    Fixed(&'static str, &'static str),
    /// Something to be kept until the end.
    Keep(fn(&mut Draft) -> &mut Option<String>),
    /// Something that needs a thought.
    Set(fn(&mut Draft, &str) -> Result<(), String>),
    /// A control of the camera; `auto` switches the second one on, where there is one.
    Control(&'static str, Option<&'static str>),
    /// framehub does it anyway, or does without.
    Anyway,
    /// It cannot be done, and why.
    Not(&'static str),
    /// To be told something.
    Help,
    Version,
}

/// A translation in the making.
#[derive(Default)]
struct Draft {
    /// Ours, in the order in which they came; the last one of a name counts, but for controls.
    options: Vec<(&'static str, String)>,
    host: Option<String>,
    port: Option<String>,
    /// A Unix socket instead.
    unix: Option<String>,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    /// Width and height of the live stream and of stills, where they come one by one.
    live: [Option<u32>; 2],
    still: [Option<u32>; 2],
    /// A file with more of all this, and plugins with theirs.
    file: Option<String>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    in_background: bool,
    anyway: Vec<String>,
    not: Vec<String>,
}

impl Draft {
    /// Takes a command line apart, as getopt would.
    fn take(&mut self, program: &str, flags: &[Flag], args: &[String]) -> Result<(), Exit> {
        let wrong = |why: String| Exit::Wrong(format!("as {program}: {why}\nTry --as {program} --help"));
        let mut args = args.iter().cloned();
        // Letters behind a single dash may follow each other; what is left of them comes first.
        let mut rest = String::new();
        loop {
            let arg = match rest.is_empty() {
                true => match args.next() {
                    Some(arg) => arg,
                    None => return Ok(()),
                },
                false => format!("-{}", std::mem::take(&mut rest)),
            };
            let (flag, mut value) = find(flags, &arg, &mut rest).map_err(wrong)?;
            if flag.takes == Takes::Value && value.is_none() {
                value = if rest.is_empty() { args.next() } else { Some(std::mem::take(&mut rest)) };
            }
            let name = spelled(flag.names[0]);
            let value = match (flag.takes, value) {
                (Takes::Value, None) => return Err(wrong(format!("{name} needs a value"))),
                (Takes::Nothing, Some(_)) => return Err(wrong(format!("{name} takes no value"))),
                (_, value) => value.unwrap_or_default(),
            };
            match flag.means {
                Means::Help => return Err(Exit::Asked(help(program, flags))),
                Means::Version => return Err(Exit::Asked(concat!("framehub ", env!("CARGO_PKG_VERSION")).into())),
                _ => self.apply(flag, &name, &value).map_err(wrong)?,
            }
        }
    }

    fn apply(&mut self, flag: &Flag, name: &str, value: &str) -> Result<(), String> {
        match flag.means {
            Means::Ours(option) => self.set(option, value),
            Means::Fixed(option, value) => self.set(option, value),
            Means::Keep(place) => *place(self) = Some(value.into()),
            Means::Set(set) => set(self, value).map_err(|why| format!("{name}: {why}"))?,
            Means::Control(_, Some(auto)) if value == "auto" => self.set("control", format!("{auto}=1")),
            Means::Control(..) if value == "default" => self.cannot(name, "the value that a control has is kept"),
            Means::Control(control, _) => self.set("control", format!("{control}={value}")),
            Means::Anyway => self.anyway.push(name.into()),
            Means::Not(why) => self.cannot(name, why),
            Means::Help | Means::Version => {}
        }
        Ok(())
    }

    fn set(&mut self, option: &'static str, value: impl Into<String>) {
        if option != "control" {
            self.options.retain(|(known, _)| *known != option);
        }
        self.options.push((option, value.into()));
    }

    fn cannot(&mut self, what: &str, why: &str) {
        self.not.push(format!("{what} ({why})"));
    }

    fn finish(mut self, program: &str) -> Result<Translation, Exit> {
        let wrong = |why: String| Exit::Wrong(format!("as {program}: {why}"));
        if let [Some(width), Some(height)] = self.live {
            self.set("size", format!("{width}x{height}"));
        }
        match self.still {
            [Some(width), Some(height)] => self.set("still-size", format!("{width}x{height}")),
            [None, None] => {}
            _ => self.cannot("half a size of stills", "give both its sides; the largest is taken"),
        }
        self.options.insert(0, ("listen", self.address()));

        let mut credentials = Credentials::default();
        let mut known = Vec::new();
        if let Some(user) = self.user.filter(|user| !user.is_empty()) {
            let password = self.password.unwrap_or_default();
            credentials.add_user(&user, &password, Right::Control).map_err(|why| wrong(why.into()))?;
            known.push("a user with a password");
        }
        if let Some(token) = self.token.filter(|token| !token.is_empty()) {
            credentials.add_token(&token, Right::Control).map_err(|why| wrong(why.into()))?;
            known.push("a token");
        }
        let args: Vec<String> = self.options.iter().map(|(option, value)| format!("--{option}={value}")).collect();
        let understood = args.iter().map(String::as_str).chain(known).collect::<Vec<_>>().join(" ");
        let or_nothing = |list: &[String]| if list.is_empty() { "nothing".into() } else { list.join(", ") };
        let summary = format!(
            "started as {program}; understood: {understood}; done anyway: {}; not done: {}",
            or_nothing(&self.anyway),
            or_nothing(&self.not)
        );
        let is_partial = !self.not.is_empty();
        Ok(Translation { args, credentials, in_background: self.in_background, summary, is_partial })
    }

    /// Where to listen. Names other than localhost are left to fail with a word on addresses.
    fn address(&self) -> String {
        if let Some(path) = &self.unix {
            return format!("unix:{path}");
        }
        let port = self.port.as_deref().unwrap_or("8080");
        match self.host.as_deref().unwrap_or("0.0.0.0") {
            "localhost" => format!("127.0.0.1:{port}"),
            host if host.contains(':') => format!("[{host}]:{port}"),
            host => format!("{host}:{port}"),
        }
    }
}

/// The flag that an argument names, and its value where that is part of the argument. Letters that follow a single
/// one are put into `rest`.
fn find<'a>(flags: &'a [Flag], arg: &str, rest: &mut String) -> Result<(&'a Flag, Option<String>), String> {
    let unknown = || format!("{arg} is no option of it that framehub knows");
    let (name, value) = arg.split_once('=').map_or((arg, None), |(name, value)| (name, Some(value.to_owned())));
    let named = |name: &str| flags.iter().find(|flag| flag.names.contains(&name));
    let bare =
        name.strip_prefix("--").or(name.strip_prefix('-')).filter(|bare| !bare.is_empty()).ok_or_else(unknown)?;
    if let Some(flag) = named(bare) {
        return Ok((flag, value));
    }
    if let Some(start) = name.strip_prefix("--") {
        // As getopt_long does: the beginning of a name is enough, if it is the beginning of one only.
        let mut begun = flags.iter().filter(|flag| flag.names.iter().any(|name| name.starts_with(start)));
        return match (begun.next(), begun.next()) {
            (Some(flag), None) => Ok((flag, value)),
            _ => Err(unknown()),
        };
    }
    let mut letters = arg[1..].chars();
    let letter = letters.next().map(String::from).unwrap_or_default();
    let flag = named(&letter).ok_or_else(unknown)?;
    *rest = letters.collect();
    Ok((flag, None))
}

/// As it is typed.
fn spelled(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

fn help(program: &str, flags: &[Flag]) -> String {
    let line = |flag: &Flag| {
        let names: Vec<String> = flag.names.iter().map(|name| spelled(name)).collect();
        let what = match flag.means {
            Means::Ours(option) => format!("--{option}"),
            Means::Control(control, _) => format!("--control {control}=..."),
            Means::Fixed(option, value) => format!("--{option} {value}"),
            Means::Keep(_) | Means::Set(_) => "understood".into(),
            Means::Anyway => "done anyway, or not needed".into(),
            Means::Not(why) => format!("not done: {why}"),
            Means::Help => "this".into(),
            Means::Version => "framehub's version".into(),
        };
        format!("  {:<34} {what}\n", names.join(", "))
    };
    let lines: String = flags.iter().map(line).collect();
    format!(
        "framehub in place of {program}: the options of {program} that it takes, and what they mean here.\n\n{lines}"
    )
}

/// Pictures a second to ask of the camera; 0 or less leaves it to it.
fn fps(draft: &mut Draft, value: &str) -> Result<(), String> {
    rate(draft, "fps", value)
}

/// Pictures a second to hand on; 0 or less is all of them.
fn max_fps(draft: &mut Draft, value: &str) -> Result<(), String> {
    rate(draft, "max-fps", value)
}

fn rate(draft: &mut Draft, option: &'static str, value: &str) -> Result<(), String> {
    let rate: i32 = value.trim().parse().map_err(|_| format!("\"{value}\" is no number"))?;
    if rate > 0 {
        draft.set(option, rate.to_string());
    }
    Ok(())
}

/// A colour temperature, which counts only when the camera does not choose it itself.
fn white_balance(draft: &mut Draft, value: &str) -> Result<(), String> {
    let is_auto = value == "auto";
    draft.set("control", format!("white_balance_automatic={}", u8::from(is_auto)));
    if !is_auto {
        draft.set("control", format!("white_balance_temperature={value}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Config;

    /// What a command line of another program becomes, and that it is one that framehub takes.
    pub fn understood(program: &str, args: &[&str]) -> Translation {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let translation = translate(program, &args).unwrap_or_else(|exit| panic!("{args:?}: {exit:?}"));
        let translation = translation.expect("a program that is known");
        if let Err(exit) = Config::from_args(&translation.args) {
            panic!("{args:?} became {:?}: {exit:?}", translation.args);
        }
        translation
    }

    /// Our options, without where to listen.
    pub fn options(program: &str, args: &[&str]) -> String {
        understood(program, args).args[1..].join(" ")
    }

    pub fn refusal(program: &str, args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        match translate(program, &args) {
            Err(Exit::Wrong(why) | Exit::Asked(why)) => why,
            Ok(_) => panic!("{args:?} was taken"),
        }
    }

    #[test]
    fn the_name_decides_and_as_overrides_it() {
        let is_other = |program: &str, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
            translate(program, &args).unwrap_or_else(|exit| panic!("{exit:?}")).is_some()
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
            assert!(refusal("framehub", args).contains("ustreamer"), "{args:?}");
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
            assert_eq!(options("ustreamer", args), "--size=1280x720 --fps=15", "{args:?}");
        }
        for (args, words) in [
            (&["--bogus"][..], "--bogus is no option"),
            (&["-Q"], "-Q is no option"),
            (&["-lQ"], "-Q is no option"),
            (&["--device-"], "no option"),
            (&["--resolution"], "needs a value"),
            (&["-r"], "needs a value"),
            (&["--slowdown=1"], "takes no value"),
            (&["stray"], "stray is no option"),
            (&["-"], "no option"),
            (&["--"], "no option"),
        ] {
            assert!(refusal("ustreamer", args).contains(words), "{args:?}: {}", refusal("ustreamer", args));
        }
    }

    #[test]
    fn help_and_version_are_answered() {
        for program in ["ustreamer", "mjpgsrv", "mjpg_streamer"] {
            let help = refusal(program, &["--help"]);
            assert!(help.contains(program) && help.lines().count() > 5, "{help}");
        }
        assert_eq!(refusal("ustreamer", &["-v"]), concat!("framehub ", env!("CARGO_PKG_VERSION")));
    }
}
