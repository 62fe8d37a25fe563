//! Documents that must not drift from the program: the options in docs/options.md, the URLs in README.md, the version in
//! CHANGELOG.md, links between documents, the headings of docs/troubleshooting.md, which are the program's own messages,
//! and the files and functions that ARCHITECTURE.md names.

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

/// Every document for readers, by its path from the root.
fn documents() -> Vec<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        let pages = names.filter(|name| name.ends_with(".md"));
        pages.map(|name| format!("{folder}{name}")).collect::<Vec<_>>()
    };
    [names(""), names("docs/"), names("scripts/")].concat()
}

/// The anchor that GitHub gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    heading.trim_matches(['#', ' ']).chars().filter(kept).collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for page in documents() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            links += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let folder = root().join(&page).parent().expect("a folder").to_owned();
            let target = if path.is_empty() { root().join(&page) } else { folder.join(path) };
            assert!(target.exists(), "{page} links to {link}");
            if !fragment.is_empty() {
                let text = fs::read_to_string(&target).expect("a page");
                let has_anchor = text.lines().any(|line| line.starts_with('#') && anchor(line) == fragment);
                assert!(has_anchor, "{page} links to {link}, which is no heading there");
            }
        }
    }
    assert!(links > 40, "links are found: {links}");
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

/// Options that have a row in a table: `` | `--size WxH` | … ``.
fn options_in_tables(text: &str) -> BTreeSet<String> {
    let first_cells = text.lines().filter_map(|line| line.strip_prefix("| `--")?.split('`').next());
    first_cells.flat_map(|cell| options_in(&format!("--{cell}"))).collect()
}

#[test]
fn options_page_has_a_row_for_every_option() {
    let (help, page) = (options_in(&help()), options_in_tables(&read("docs/options.md")));
    assert!(help.len() >= 8, "the help lists its options: {help:?}");
    let missing: Vec<_> = help.difference(&page).collect();
    assert!(missing.is_empty(), "docs/options.md has no row for {missing:?}");
}

/// No document names an option that is not there, unless it belongs to somebody else's command.
#[test]
fn documents_invent_no_option() {
    let help = options_in(&help());
    let mut lines = 0;
    for page in documents() {
        let text = read(&page);
        let is_ours = |line: &&str| line.contains("framehub --") || line.trim_start().starts_with("| `--");
        for line in text.lines().filter(is_ours) {
            lines += 1;
            let line = line.split_once("framehub --").map_or(line.to_string(), |(_, rest)| format!("--{rest}"));
            // Behind it stands another program's command line.
            let line = line.split("exec:").next().unwrap_or_default();
            let invented: Vec<_> = options_in(line).difference(&help).cloned().collect();
            assert!(invented.is_empty(), "{invented:?} in {page}: {line:?}");
        }
    }
    assert!(lines > 40, "options are found: {lines}");
}

#[test]
fn readme_takes_five_minutes() {
    let readme = read("README.md");
    let words = readme.lines().filter(|line| !line.starts_with('|')).flat_map(str::split_whitespace).count();
    assert!(words <= 900, "README.md has {words} words beside its tables");
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
        let response = server.connect().exchange(request("OPTIONS", &target));
        assert_ne!(response.status, 404, "{route}");
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

/// Each cell of the table of clients names cases that its row's file has, or says that there are none.
#[test]
fn every_case_that_the_table_of_clients_names_is_there() {
    let page = read("docs/clients.md");
    let table = page.split("## ").find(|part| part.starts_with("What each client shows")).expect("the table");
    let mut found = 0;
    for row in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [client, cells @ .., file] = &cells[..] else { panic!("{row}") };
        assert_eq!(cells.len(), 5, "{client}: stream, still, rotation, camera lost and back, credentials");
        let file = in_backticks(file).first().map_or(String::new(), |file| read(file));
        for cell in cells {
            let names = in_backticks(cell);
            assert!(!names.is_empty() || ["not run", "–"].contains(cell), "{client}: {cell} is neither run nor marked");
            for name in names {
                let is_case = [format!("test('{name}',"), format!("def {name}("), format!("fn {name}(")]
                    .iter()
                    .any(|definition| file.contains(definition));
                assert!(is_case, "{client}: there is no case {name}");
                found += 1;
            }
        }
    }
    assert!(found > 40, "the table is found: {found} cases");
}

/// Paths from the root of all files below a folder.
fn files_below(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let mut files = Vec::new();
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// What a text has in backticks, blocks of code left out.
fn in_backticks(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// Whether the sources define a function of this name: a method of this type or trait, a function of this module, or any.
fn is_function(sources: &[(String, String)], on: Option<&str>, function: &str) -> bool {
    let has_word = |line: &str, word: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word);
    let defines = |line: &str| {
        let name = line.trim_start().split_once("fn ").map_or("", |(_, rest)| rest);
        name.split(['(', '<']).next() == Some(function)
    };
    sources.iter().any(|(path, text)| match on {
        None => text.lines().any(defines),
        // A module is named by its file or its folder.
        Some(module) if module.starts_with(char::is_lowercase) => {
            let is_it = path.ends_with(&format!("/{module}.rs")) || path.contains(&format!("/{module}/"));
            is_it && text.lines().any(defines)
        }
        Some(on) => {
            let mut is_inside = false;
            text.lines().any(|line| {
                if !line.starts_with([' ', '}']) && !line.is_empty() {
                    is_inside = (line.starts_with("impl") || line.contains("trait ")) && has_word(line, on);
                }
                is_inside && defines(line)
            })
        }
    })
}

#[test]
fn architecture_names_what_exists() {
    let text = read("ARCHITECTURE.md");
    let files: Vec<_> = files_below("src").into_iter().filter(|path| path.ends_with(".rs")).collect();
    let sources: Vec<_> = files.iter().map(|path| (path.clone(), read(path))).collect();
    let (mut paths, mut functions) = (0, 0);
    for name in in_backticks(&text) {
        let (on, function) = name.rsplit_once("::").map_or((None, name), |(on, function)| (Some(on), function));
        let called = function.trim_end_matches("()");
        if name.contains('/') && !name.contains(' ') && !name.starts_with('/') {
            paths += 1;
            assert!(root().join(name).exists(), "ARCHITECTURE.md names {name}");
        } else if (on.is_some() || called != function) && !["next()", "start()"].contains(&name) {
            functions += 1;
            assert!(is_function(&sources, on, called), "ARCHITECTURE.md names {name}, which is no function");
        }
    }
    assert!(paths > 15 && functions > 20, "{paths} paths and {functions} functions are found");
    let no_function = ["Route::encode", "Hub::make", "jpeg::transcode", "nothing()", "Stills::switch"];
    for name in no_function {
        let (on, function) = name.rsplit_once("::").map_or((None, name), |(on, function)| (Some(on), function));
        assert!(!is_function(&sources, on, function.trim_end_matches("()")), "{name} can be told apart");
    }

    // The tree has a line for every source file, and for none that is not there.
    let tree: BTreeSet<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let unnamed: Vec<_> = files.iter().filter(|file| !tree.contains(file.as_str())).collect();
    assert!(unnamed.is_empty(), "ARCHITECTURE.md has no line for {unnamed:?}");
    for path in tree.iter().filter(|word| word.starts_with("src/")) {
        assert!(root().join(path).exists(), "ARCHITECTURE.md has a line for {path}");
    }
}

/// Each way is short enough to be read at once.
#[test]
fn architecture_names_at_most_seven_functions_on_each_way() {
    let text = read("ARCHITECTURE.md");
    let ways: Vec<&str> =
        text.split("\n## ").filter(|part| part.lines().next().is_some_and(|line| line.ends_with("way"))).collect();
    assert_eq!(ways.len(), 3, "a frame's way, a request's and a still's");
    for way in ways {
        let functions: BTreeSet<_> = in_backticks(way).into_iter().filter(|name| name.contains("::")).collect();
        assert!((3..=7).contains(&functions.len()), "{functions:?}");
    }
}

#[test]
fn security_page_counts_every_unsafe_block() {
    let page = read("SECURITY.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `src/")?.split(['`', '|']).map(str::trim).filter(|cell| !cell.is_empty());
        Some((format!("src/{}", cells.next()?), cells.next()?.parse::<usize>().ok()?))
    });
    let counted = |path: String| {
        let blocks = read(&path).matches("unsafe {").count();
        (blocks > 0).then_some((path, blocks))
    };
    let files = files_below("src").into_iter().filter(|path| path.ends_with(".rs"));
    let found: BTreeSet<_> = files.filter_map(counted).collect();
    assert!(found.len() >= 4, "unsafe blocks are found: {found:?}");
    assert_eq!(rows.collect::<BTreeSet<_>>(), found, "SECURITY.md has a row with the number of blocks for each file");
}
