//! Promises about the project itself that people forget: documents that agree with the binary, and crates that are
//! named only in their rooms.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{TestServer, request};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn help() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_framehub")).arg("--help").output().expect("the binary runs");
    String::from_utf8(output.stdout).expect("help is text")
}

/// Everything that looks like `--an-option`.
fn options_in(text: &str) -> BTreeSet<String> {
    let starts = text.match_indices("--").filter(|(at, _)| !text[..*at].ends_with(['-', '|', '<']));
    let name = |(at, _): (usize, &str)| {
        let rest = &text[at + 2..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(rest.len());
        rest[..end].trim_end_matches('-').to_string()
    };
    starts.map(name).filter(|name| !name.is_empty()).map(|name| format!("--{name}")).collect()
}

/// URLs of ours that a text names in backticks, at the start of a table row: `` | `/stream`, `/mjpg` | … ``.
fn routes_in_tables(text: &str) -> BTreeSet<String> {
    let first_cells = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
    let in_backticks = first_cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    in_backticks.filter_map(route_of).collect()
}

/// The path of `/stream`, `GET /stream` or `POST /stream`; not that of `/dev/video0`.
fn route_of(text: &str) -> Option<String> {
    let path = text.strip_prefix("GET ").or_else(|| text.strip_prefix("POST ")).unwrap_or(text);
    let is_route = path.starts_with('/') && !path.starts_with("/dev/") && !path.contains(char::is_whitespace);
    is_route.then(|| path.to_string())
}

#[test]
fn changelog_has_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let has_heading = read("CHANGELOG.md").lines().any(|line| line.starts_with("## ") && line.contains(version));
    assert!(has_heading, "CHANGELOG.md has a heading for {version}");
}

#[test]
fn readme_names_every_option() {
    let (help, readme) = (options_in(&help()), options_in(&read("README.md")));
    assert!(help.len() >= 8, "the help lists its options: {help:?}");
    let missing: Vec<_> = help.difference(&readme).collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

/// And names none that is not there, unless it belongs to somebody else's command.
#[test]
fn readme_invents_no_option() {
    let help = options_in(&help());
    let commands = read("README.md");
    let ours = commands.lines().filter(|line| line.contains("framehub --") || line.trim_start().starts_with("| `--"));
    for line in ours {
        let line = line.split_once("framehub --").map_or(line.to_string(), |(_, rest)| format!("--{rest}"));
        let invented: Vec<_> = options_in(&line).difference(&help).cloned().collect();
        assert!(invented.is_empty(), "{invented:?} in README.md's {line:?}");
    }
}

#[test]
fn every_documented_route_is_there() {
    let server = TestServer::start(&["--size", "320x240"]);
    let documented: BTreeSet<_> =
        routes_in_tables(&read("README.md")).into_iter().chain(routes_in_tables(&help())).collect();
    assert!(documented.len() >= 10, "README.md has a table of URLs: {documented:?}");
    for route in documented {
        let target = route.replace("…", "").replace("MS", "1000");
        // OPTIONS knows the routes as GET does, and moves no camera.
        let answer = server.connect().exchange(request("OPTIONS", &target));
        assert_ne!(answer.status, 404, "{route}");
    }
    assert_eq!(server.connect().exchange(request("OPTIONS", "/nowhere")).status, 404, "404 can be seen this way");
}

#[test]
fn every_route_is_documented() {
    let documented = routes_in_tables(&read("README.md")).into_iter().collect::<Vec<_>>().join(" ");
    for route in [
        "/stream",
        "/stream.mjpg",
        "/mjpg",
        "/mjpeg/1",
        "/?action=stream",
        "/snapshot",
        "/snapshot.jpg",
        "/jpg",
        "/?action=snapshot",
        "/healthz",
    ] {
        assert!(documented.split(' ').any(|known| known == route), "{route} is in README.md's table: {documented}");
    }
}

/// Each of these crates is spoken to in one room, so that replacing it is a change in one room.
#[test]
fn crates_keep_to_their_rooms() {
    let rooms: [(&[&str], &[&str]); 2] = [(&["v4l::", "use v4l"], &["camera/v4l2/"]), (&["tiny_http"], &["http/"])];
    let sources = sources(&root().join("src"));
    assert!(sources.len() > 5, "the sources are found");
    for (words, rooms) in rooms {
        for path in &sources {
            let place = path.strip_prefix(root().join("src")).expect("a source").to_str().expect("a plain name");
            if rooms.iter().any(|room| place.starts_with(room)) {
                continue;
            }
            let code = fs::read_to_string(path).expect("a source");
            // Comments may say why a crate is not used here.
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let named: Vec<_> = code.filter(|line| words.iter().any(|word| names(line, word))).collect();
            assert!(named.is_empty(), "src/{place} names {words:?}, which belongs to {rooms:?}: {named:?}");
        }
    }
}

/// The word by itself: `v4l::` is not in `camera_v4l::`.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let nested = entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}
