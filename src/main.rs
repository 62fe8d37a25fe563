//! Arguments, signals, exit code.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use framehub::cli::{Config, Exit, Task, compat};
use framehub::doctor;
use framehub::http::{Listeners, lan_addresses};
use framehub::system::{self, os};
use framehub::systemd::{self, Manager};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> ExitCode {
    os::tame_allocator();
    let config = match configure() {
        Ok(config) => config,
        Err(Exit::Asked(text)) => {
            // Somebody who closed our output does not want it.
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Exit::Wrong(text)) => {
            eprintln!("framehub: {text}");
            return ExitCode::from(2);
        }
    };
    system::log::start(config.log_level);
    for (level, note) in &config.notes {
        log::log!(*level, "{note}");
    }
    let done = match config.task {
        Task::Serve => serve(config).map(|()| true),
        Task::List => doctor::list(&mut io::stdout()).map(|()| true).map_err(|error| error.to_string()),
        Task::Check => doctor::check(&mut io::stdout(), framehub::source(&config.device).as_ref(), &config)
            .map_err(|error| error.to_string()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("framehub: {error}");
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

fn serve(config: Config) -> Result<(), String> {
    let ends_at_hangup = io::stderr().is_terminal() && !config.in_background;
    let [stop, reload, _reload_end] =
        signals(ends_at_hangup).map_err(|error| format!("cannot prepare for signals: {error}"))?;
    let listeners = Listeners::open(&config.listen, config.socket_mode, systemd::passed_sockets())?;
    for address in listeners.addresses() {
        eprintln!("listening on http://{address}");
        for lan in lan_addresses(address) {
            eprintln!("  open http://{lan}/");
        }
    }
    for path in listeners.paths() {
        eprintln!("listening on unix:{}", path.display());
    }
    if config.in_background {
        os::leave_terminal().map_err(|error| format!("cannot go into the background: {error}"))?;
    }
    let manager = Manager::from_environment();
    manager.keep(&listeners);
    framehub::run(config, &listeners, &manager, stop.as_fd(), reload.as_fd())
}

/// What becomes readable when we are to stop, when we are to reload, and the latter's other end, to be kept open. A
/// terminal that is closed sends SIGHUP too, and then it means the former.
fn signals(ends_at_hangup: bool) -> io::Result<[UnixStream; 3]> {
    let (stop, stop_end) = UnixStream::pair()?;
    let (reload, reload_end) = UnixStream::pair()?;
    let hangup = if ends_at_hangup { &stop_end } else { &reload_end };
    for (signal, end) in [(SIGTERM, &stop_end), (SIGINT, &stop_end), (SIGHUP, hangup)] {
        signal_hook::low_level::pipe::register(signal, end.try_clone()?)?;
    }
    Ok([stop, reload, reload_end])
}
