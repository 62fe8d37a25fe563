//! Arguments, signals, exit code.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use framehub::cli::{Config, Exit, Task, compat};
use framehub::doctor;
use framehub::http::{Listeners, Passed, lan_addresses};
use framehub::system::{log::print, os, supervisor};
use framehub::systemd::{self, Manager};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> ExitCode {
    os::configure_allocator();
    if let [_, argument, command] = &std::env::args_os().collect::<Vec<_>>()[..]
        && argument == supervisor::ARGUMENT
    {
        return ExitCode::from(supervisor::supervise(&command.to_string_lossy()));
    }
    framehub::system::log::start();
    // Before this process opens any descriptor that a wrong LISTEN_FDS could count among those passed.
    let passed = systemd::passed_sockets();
    let code = match configure() {
        Ok(config) => exit_code(perform(config, passed)),
        Err(Exit::Asked(text)) => exit_code(printed(writeln!(io::stdout(), "{}", text.trim_end()).map(|()| true))),
        Err(Exit::Wrong(text)) => {
            print(&format!("framehub: {text}"));
            ExitCode::from(2)
        }
    };
    log::logger().flush();
    code
}

fn exit_code(done: Result<bool, String>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(text) => {
            print(&format!("framehub: {text}"));
            ExitCode::FAILURE
        }
    }
}

fn configure() -> Result<Config, Exit> {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let mut config = match compat::translate(&program, &args)? {
        Some(config) => config,
        None => Config::from_args(&args)?,
    };
    config.add_environment(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
    Ok(config)
}

/// `false` if the camera that was to be examined does not work.
fn perform(config: Config, passed: Passed) -> Result<bool, String> {
    log::set_max_level(config.log_level);
    for (level, note) in &config.notes {
        log::log!(*level, "{note}");
    }
    let out = &mut io::stdout();
    match config.task {
        Task::Serve => serve(config, passed).map(|()| true),
        Task::List => printed(doctor::list(out).map(|()| true)),
        Task::Check => {
            let source = |encode| framehub::source(&config.device, encode, config.live);
            printed(doctor::check(out, &source, &config))
        }
    }
}

/// Output that nobody reads to its end, as with `| head`, is no failure.
fn printed(done: io::Result<bool>) -> Result<bool, String> {
    match done {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        done => done.map_err(|error| format!("cannot write to stdout: {error}")),
    }
}

fn serve(config: Config, passed: Passed) -> Result<(), String> {
    let ends_at_hangup = io::stderr().is_terminal() && !config.in_background;
    let [stop, reload, _reload_end] =
        signals(ends_at_hangup).map_err(|error| format!("cannot prepare for signals: {error}"))?;
    let listeners = Listeners::open(&config.listen, config.socket_mode, passed)?;
    for address in listeners.addresses() {
        print(&format!("listening on http://{address}"));
        for lan in lan_addresses(address) {
            print(&format!("  open http://{lan}/"));
        }
    }
    for path in listeners.paths() {
        print(&format!("listening on unix:{}", path.display()));
    }
    if config.in_background {
        os::daemonize().map_err(|error| format!("cannot go into the background: {error}"))?;
    }
    let manager = Manager::from_environment();
    manager.keep(&listeners);
    framehub::run(config, &listeners, &manager, stop.as_fd(), reload.as_fd())
}

/// What becomes readable on a signal to stop, and on one to reload, and the other end of the latter, to be kept open.
/// A closed terminal sends SIGHUP too, and then it means to stop.
fn signals(ends_at_hangup: bool) -> io::Result<[UnixStream; 3]> {
    let (stop, stop_end) = UnixStream::pair()?;
    let (reload, reload_end) = UnixStream::pair()?;
    let hangup = if ends_at_hangup { &stop_end } else { &reload_end };
    for (signal, end) in [(SIGTERM, &stop_end), (SIGINT, &stop_end), (SIGHUP, hangup)] {
        signal_hook::low_level::pipe::register(signal, end.try_clone()?)?;
    }
    Ok([stop, reload, reload_end])
}
