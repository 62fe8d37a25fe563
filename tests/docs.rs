//! Documents that must not drift from the program: options and URLs in README.md, the version in CHANGELOG.md, links
//! between documents, and the headings of docs/troubleshooting.md, which are the program's own messages.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{TestServer, request};

/// All that can say something, as one text: string continuations joined, quotes as they are printed.
fn sources(folder: &Path) -> String {
    let paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("entry").path()).collect();
    let text = |path: &PathBuf| match path.is_dir() {
        true => sources(path),
        // Not what is no text: pictures, for example.
        false => fs::read_to_string(path).unwrap_or_default(),
    };
    paths.iter().map(text).collect()
}

fn as_printed(source: &str) -> String {
    let mut pieces = source.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    let joined = pieces.fold(first, |text, piece| text + piece.trim_start());
    joined.replace("\\\"", "\"")
}

#[test]
fn troubleshooting_is_headed_by_what_the_program_says() {
    let root = root();
    let said = as_printed(&(sources(&root.join("src")) + &sources(&root.join("scripts"))));
    let document = fs::read_to_string(root.join("docs/troubleshooting.md")).expect("the document");
    let headings: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    assert!(headings.len() > 30, "headings are found: {headings:?}");
    for heading in headings {
        // `…` is what differs; a word or two between two of them prove nothing.
        let parts = heading
            .split('…')
            .map(|part| part.trim_matches([' ', ':', ';', ',', '"', '…']))
            .filter(|part| part.len() > 5);
        let unsaid: Vec<&str> = parts.filter(|part| !said.contains(part)).collect();
        assert!(unsaid.is_empty(), "nothing says {unsaid:?}: ### `{heading}`");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let folder = root.join("docs");
    let mut pages: Vec<PathBuf> =
        fs::read_dir(&folder).expect("docs").map(|entry| entry.expect("entry").path()).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"].map(|name| root.join(name)));
    let mut links = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).expect("a page");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            links += 1;
            let target = page.parent().expect("a folder").join(path);
            assert!(target.exists(), "{} links to {link}", page.display());
        }
    }
    assert!(links > 5, "links are found");
}

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
