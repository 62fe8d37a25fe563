//! What another program's command line means here: a table of its options for each program, and what they build.

use crate::cli::{Exit, errors, usage};
use crate::http::{Credentials, Right};
use crate::jpeg::Flip;

/// Another program's command line in our words.
#[derive(Default)]
pub struct Translation {
    /// Our options.
    pub args: Vec<String>,
    /// Kept out of the options, which are logged.
    pub credentials: Credentials,
    /// The other program would leave its terminal.
    pub in_background: bool,
    /// For the log.
    pub summary: String,
    /// Whether framehub cannot do something that was asked for.
    pub is_partial: bool,
    /// Lines for the log about what neither program knows.
    pub warnings: Vec<String>,
}

/// An option of another program.
pub struct Flag {
    /// All its names; those of one letter are for a single dash.
    pub names: &'static [&'static str],
    /// Whether it has a value.
    pub takes: Takes,
    /// What it means here.
    pub means: Means,
}

/// One row of a table of options.
pub const fn flag(names: &'static [&'static str], takes: Takes, means: Means) -> Flag {
    Flag { names, takes, means }
}

/// Whether an option has a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// It has none.
    Nothing,
    /// The rest of the word, or the next one.
    Value,
}

/// What an option means here.
pub enum Means {
    /// One of ours, with the same value.
    Ours(&'static str),
    /// One of ours, with this value.
    Fixed(&'static str, &'static str),
    /// A value that is needed at the end.
    Keep(fn(&mut Builder) -> &mut Option<String>),
    /// A value to be translated. The error says what was expected.
    Set(fn(&mut Builder, &str) -> Result<(), String>),
    /// A value to be translated that no error may show.
    Secret(fn(&mut Builder, &str) -> Result<(), String>),
    /// A control of the camera; `auto` switches the second one on, where there is one.
    Control(&'static str, Option<&'static str>),
    /// framehub does it in any case, or does not need it.
    Ignored,
    /// framehub cannot do it, and why.
    Unsupported(&'static str),
    /// Print the options.
    Help,
    /// Print the version.
    Version,
}

/// A translation that is being built.
#[derive(Default)]
pub struct Builder {
    /// Our options in their order; the last one of a name counts, except for controls.
    options: Vec<(&'static str, String)>,
    /// The address to listen at.
    pub host: Option<String>,
    /// And its port.
    pub port: Option<String>,
    /// A Unix socket instead.
    pub unix: Option<String>,
    /// A user's name and password.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<String>,
    /// Another credential.
    pub token: Option<String>,
    /// Width and height of the live stream, for programs that take them one by one.
    pub live: [Option<u32>; 2],
    /// Width and height of stills.
    pub still: [Option<u32>; 2],
    /// A file with more options.
    pub file: Option<String>,
    /// Input plugins with their options.
    pub inputs: Vec<String>,
    /// Output plugins with theirs.
    pub outputs: Vec<String>,
    /// The other program would leave its terminal.
    pub in_background: bool,
    /// Degrees by which the picture is to be rotated, after it was flipped.
    degrees: u16,
    /// Whether it is to be flipped horizontally and vertically.
    flips: [bool; 2],
    /// Our own options among the other program's, as typed.
    own: Vec<String>,
    ignored: Vec<String>,
    unsupported: Vec<String>,
    warnings: Vec<String>,
}

impl Builder {
    /// Reads a command line, as getopt would. framehub's own options count too. What is not known is a warning, without its
    /// value, which may be a secret.
    ///
    /// # Errors
    /// For a wrong value, for an unknown option that seems to be a credential, and for options that only print something.
    pub fn read(&mut self, program: &str, flags: &[Flag], args: &[String]) -> Result<(), Exit> {
        let wrong = |why: String| Exit::Wrong(format!("as {program}: {why}\nTry --as {program} --help"));
        let (mut args, usage) = (args.iter().cloned().peekable(), usage());
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
            let Some((flag, mut value)) = find(flags, &arg, &mut rest) else {
                if let Some(takes_value) = errors::takes_value(arg.split('=').next().unwrap_or_default(), &usage) {
                    let value = if takes_value && !arg.contains('=') { args.next() } else { None };
                    self.own.extend([arg].into_iter().chain(value));
                    continue;
                }
                let unknown = unknown(&arg);
                if is_like_a_credential(&unknown) {
                    return Err(wrong(format!("{unknown}: {SEEMS_A_CREDENTIAL}")));
                }
                self.warnings.push(format!("as {program}: {unknown}; it is ignored"));
                // The next word is its value, unless it looks like an option.
                if arg.starts_with('-') && !arg.contains('=') {
                    args.next_if(|next| !next.starts_with('-'));
                }
                continue;
            };
            if flag.takes == Takes::Value && value.is_none() {
                value = if rest.is_empty() { args.next() } else { Some(std::mem::take(&mut rest)) };
            }
            let name = as_typed(flag.names[0]);
            let value = match (flag.takes, value) {
                (Takes::Value, None) => return Err(wrong(format!("missing value for {name}"))),
                (Takes::Nothing, Some(_)) => {
                    return Err(wrong(format!("{name} takes no value")));
                }
                (_, value) => value.unwrap_or_default(),
            };
            match flag.means {
                Means::Help => return Err(Exit::Asked(help(program, flags))),
                Means::Version => return Err(Exit::Asked(concat!("framehub ", env!("CARGO_PKG_VERSION")).into())),
                _ => self.apply(flag, &name, &value).map_err(wrong)?,
            }
        }
    }

    /// Applies one option. `name` is what errors call it.
    ///
    /// # Errors
    /// For a wrong value.
    pub fn apply(&mut self, flag: &Flag, name: &str, value: &str) -> Result<(), String> {
        match flag.means {
            Means::Ours(option) => self.set(option, value),
            Means::Fixed(option, value) => self.set(option, value),
            Means::Keep(place) => *place(self) = Some(value.into()),
            Means::Set(set) => {
                set(self, value).map_err(|why| format!("invalid value {value:?} for {name}: {why}"))?;
            }
            Means::Secret(set) => set(self, value).map_err(|why| format!("invalid value for {name}: {why}"))?,
            Means::Control(_, Some(auto)) if value == "auto" => self.set("control", format!("{auto}=1")),
            Means::Control(..) if value == "default" => self.cannot(name, "the value that a control has is kept"),
            Means::Control(control, _) => self.set("control", format!("{control}={value}")),
            Means::Ignored => self.ignore(name),
            Means::Unsupported(why) => self.cannot(name, why),
            Means::Help | Means::Version => {}
        }
        Ok(())
    }

    /// Sets one of our options.
    pub fn set(&mut self, option: &'static str, value: impl Into<String>) {
        if option != "control" {
            self.options.retain(|(known, _)| *known != option);
        }
        self.options.push((option, value.into()));
    }

    /// Notes an option that is ignored because framehub does the same in any case.
    pub fn ignore(&mut self, what: &str) {
        self.ignored.push(what.into());
    }

    /// Notes something that framehub cannot do.
    pub fn cannot(&mut self, what: &str, why: &str) {
        self.unsupported.push(format!("{what} ({why})"));
    }

    /// The translation, when all has been read.
    ///
    /// # Errors
    /// For a wrong credential.
    pub fn finish(mut self, program: &str) -> Result<Translation, Exit> {
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
        // Flipped both ways is half a turn.
        let half = if self.flips == [true; 2] { 180 } else { 0 };
        match (self.degrees + half) % 360 {
            0 => {}
            degrees => self.set("rotate", degrees.to_string()),
        }
        match self.flips {
            [true, false] => self.set("flip", "horizontal"),
            [false, true] => self.set("flip", "vertical"),
            _ => {}
        }

        let mut credentials = Credentials::default();
        let mut known = Vec::new();
        let is_empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        if is_empty(&self.user) && !is_empty(&self.password) {
            return Err(wrong("a password without a user lets everybody in: give both".into()));
        }
        if let Some(user) = self.user.filter(|user| !user.is_empty()) {
            let password = self.password.unwrap_or_default();
            credentials.add_user(&user, &password, Right::Control).map_err(|why| wrong(why.into()))?;
            known.push("a user with a password");
        }
        if let Some(token) = self.token.filter(|token| !token.is_empty()) {
            credentials.add_token(&token, Right::Control).map_err(|why| wrong(why.into()))?;
            known.push("a token");
        }
        let options = self.options.iter().map(|(option, value)| format!("--{option}={value}"));
        let args: Vec<String> = options.chain(self.own).collect();
        let understood = args.iter().map(String::as_str).chain(known).collect::<Vec<_>>().join(" ");
        let or_nothing = |list: &[String]| if list.is_empty() { "nothing".into() } else { list.join(", ") };
        let summary = format!(
            "started as {program}; understood: {understood}; done anyway: {}; not done: {}",
            or_nothing(&self.ignored),
            or_nothing(&self.unsupported)
        );
        let is_partial = !self.unsupported.is_empty();
        let (in_background, warnings) = (self.in_background, self.warnings);
        Ok(Translation { args, credentials, in_background, summary, is_partial, warnings })
    }

    /// Where to listen. Names other than localhost fail later, with an error that asks for an address.
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

/// The flag that an argument names, and its value if that is part of the argument. Letters after a single one are put
/// into `rest`. `None` if it names none.
fn find<'a>(flags: &'a [Flag], arg: &str, rest: &mut String) -> Option<(&'a Flag, Option<String>)> {
    let (name, value) = arg.split_once('=').map_or((arg, None), |(name, value)| (name, Some(value.to_owned())));
    let named = |name: &str| flags.iter().find(|flag| flag.names.contains(&name));
    let bare = name.strip_prefix("--").or(name.strip_prefix('-')).filter(|bare| !bare.is_empty())?;
    if let Some(flag) = named(bare) {
        return Some((flag, value));
    }
    if let Some(start) = name.strip_prefix("--") {
        // As getopt_long does: the beginning of a name is enough, if it is the beginning of one only.
        let mut begun = flags.iter().filter(|flag| flag.names.iter().any(|name| name.starts_with(start)));
        return begun.next().filter(|_| begun.next().is_none()).map(|flag| (flag, value));
    }
    let mut letters = arg[1..].chars();
    let flag = named(letters.next()?.encode_utf8(&mut [0; 4]))?;
    *rest = letters.collect();
    Some((flag, None))
}

/// Why an unknown name that seems to be a credential ends the start.
pub const SEEMS_A_CREDENTIAL: &str =
    "it seems to be a credential; without it everybody would get in, so correct its name";

/// Whether somebody who wrote this name wants to keep others out.
pub fn is_like_a_credential(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["pass", "pwd", "user", "login", "auth", "cred", "token", "secret"].iter().any(|part| name.contains(part))
}

/// What a word is that names no flag. A value behind it may be a secret, also right behind a single letter.
fn unknown(arg: &str) -> String {
    match (arg.strip_prefix("--"), arg.strip_prefix('-').and_then(|letters| letters.chars().next())) {
        (Some(name), _) => format!("unknown option --{}", name.split('=').next().unwrap_or_default()),
        (None, Some(letter)) => format!("unknown option -{letter}"),
        (None, None) => "a word that belongs to no option".into(),
    }
}

/// An option's name with its dashes.
fn as_typed(name: &str) -> String {
    if name.len() == 1 { format!("-{name}") } else { format!("--{name}") }
}

fn help(program: &str, flags: &[Flag]) -> String {
    let line = |flag: &Flag| {
        let names: Vec<String> = flag.names.iter().map(|name| as_typed(name)).collect();
        let what = match flag.means {
            Means::Ours(option) => format!("--{option}"),
            Means::Control(control, _) => format!("--control {control}=..."),
            Means::Fixed(option, value) => format!("--{option} {value}"),
            Means::Keep(_) | Means::Set(_) | Means::Secret(_) => "understood".into(),
            Means::Ignored => "done anyway, or not needed".into(),
            Means::Unsupported(why) => format!("not done: {why}"),
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

/// Frames per second to ask of the camera, or to serve at most; 0 or less is the camera's own rate, or all of them.
pub fn rate(builder: &mut Builder, option: &'static str, value: &str) -> Result<(), String> {
    let rate = number(value, "frames per second")?;
    if rate > 0.0 {
        builder.set(option, rate.to_string());
    }
    Ok(())
}

/// How many seconds the camera may be silent, within the limits of `--stall-timeout`; 0 or less is framehub's default.
pub fn stall_timeout(builder: &mut Builder, value: &str) -> Result<(), String> {
    let seconds = number(value, "seconds")?;
    if seconds > 0.0 {
        builder.set("stall-timeout", seconds.clamp(0.1, 60.0).to_string());
    }
    Ok(())
}

fn number(value: &str, of: &str) -> Result<f64, String> {
    let number = value.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("expected a number of {of}"))
}

/// Degrees by which the picture is to be rotated, clockwise.
pub fn rotate(builder: &mut Builder, value: &str) -> Result<(), String> {
    let degrees = value.parse::<i32>().ok().filter(|degrees| degrees % 90 == 0);
    builder.degrees = degrees.ok_or("expected 0, 90, 180 or 270")?.rem_euclid(360) as u16;
    Ok(())
}

/// Whether the picture is to be flipped in this direction.
pub fn flip(builder: &mut Builder, direction: Flip, value: &str) -> Result<(), String> {
    builder.flips[direction as usize] = match value {
        "1" | "true" | "on" | "yes" => true,
        "0" | "false" | "off" | "no" | "default" => false,
        _ => return Err("expected 0 or 1".into()),
    };
    Ok(())
}

/// A colour temperature, which has an effect only if the camera does not choose it itself.
pub fn white_balance(builder: &mut Builder, value: &str) -> Result<(), String> {
    let is_auto = value == "auto";
    builder.set("control", format!("white_balance_automatic={}", u8::from(is_auto)));
    if !is_auto {
        builder.set("control", format!("white_balance_temperature={value}"));
    }
    Ok(())
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::Config;

    /// Reads one program's command line.
    pub type Read = fn(&[String]) -> Result<Builder, Exit>;

    fn words(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| arg.to_string()).collect()
    }

    /// What a command line of another program becomes, and that it is one that framehub takes.
    pub fn understood(read: Read, args: &[&str]) -> Translation {
        let translation = read(&words(args)).and_then(|builder| builder.finish("it"));
        let translation = translation.unwrap_or_else(|exit| panic!("{args:?}: {exit:?}"));
        if let Err(exit) = Config::from_args(&translation.args) {
            panic!("{args:?} became {:?}: {exit:?}", translation.args);
        }
        translation
    }

    /// Our options, without where to listen.
    pub fn options(read: Read, args: &[&str]) -> String {
        understood(read, args).args[1..].join(" ")
    }

    /// Why it is not taken, or what is printed instead.
    pub fn refusal(read: Read, args: &[&str]) -> String {
        match read(&words(args)).and_then(|builder| builder.finish("it")) {
            Err(Exit::Wrong(why) | Exit::Asked(why)) => why,
            Ok(_) => panic!("{args:?} was taken"),
        }
    }
}
