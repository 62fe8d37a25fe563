//! Arguments, signals, exit code.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use framehub::config::{Config, Exit, Task};
use framehub::doctor;
use framehub::http::{Listeners, clickable};
use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    framehub::os::tame_allocator();
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let program = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let config = match Config::from_command_line(&program, &args, variable) {
        Ok(config) => config,
        Err(Exit::Asked(text)) => {
            // Somebody who closed our output does not want it.
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(Exit::Wrong(text)) => {
            eprintln!("framehub: {text}");
            return ExitCode::from(2);
        }
    };
    framehub::log::start(config.log_level);
    for (level, note) in &config.notes {
        log::log!(*level, "{note}");
    }
    let done = match config.task {
        Task::Serve => serve(config).map(|()| true),
        Task::List => doctor::list(&mut std::io::stdout()).map(|()| true).map_err(|error| error.to_string()),
        Task::Check => doctor::check(&mut std::io::stdout(), framehub::source(&config.device).as_ref(), &config)
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

fn serve(config: Config) -> Result<(), String> {
    let (stop, signalled) = UnixStream::pair().map_err(|error| format!("cannot prepare for signals: {error}"))?;
    for signal in [SIGTERM, SIGINT] {
        let end = signalled.try_clone().map_err(|error| format!("cannot prepare for signals: {error}"))?;
        signal_hook::low_level::pipe::register(signal, end)
            .map_err(|error| format!("cannot prepare for signals: {error}"))?;
    }
    let listeners = Listeners::bind(&config.listen, config.socket_mode)?;
    for address in listeners.addresses() {
        eprintln!("listening on http://{address}");
        for lan in clickable(address) {
            eprintln!("  open http://{lan}/");
        }
    }
    for path in listeners.paths() {
        eprintln!("listening on unix:{}", path.display());
    }
    if config.in_background {
        framehub::os::leave_terminal().map_err(|error| format!("cannot go into the background: {error}"))?;
    }
    framehub::run(config, &listeners, stop.as_fd())
}
