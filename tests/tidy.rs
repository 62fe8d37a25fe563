//! Holds the structure of the source tree: which module may use which, no circle between files, limits for sizes, and
//! a core that names no feature. ARCHITECTURE.md explains why. The figures are printed, also when all is well. Also holds
//! the words: none that was replaced is left, and some name one thing each.

mod structure;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use structure::{Arrow, SourceFile, Sources};

// Limits, in lines of code: without tests, comments and blank lines. Raise a limit only in the commit that needs it,
// and say there why.
//
// The aim is 9,000 and 4,800. What real cameras need came to more than was planned for it: a scanner that finds one
// whole picture in any buffer and can decode one that lacks its end, clean JPEG headers with Exif (jpeg/, 320 lines);
// patience, settling, still sizes and identity that follow the camera (camera/, 400); permits for each connection and
// the rule for foreign pages (http/, 260). Other servers, commands and recordings as cameras came to 1,460 lines
// (camera/sources/) with their supervisor, the picture for a lost camera and the duty rule beside them.
const WHOLE: usize = 15_050;
const CORE: usize = 7_850;
const CORE_FILE: usize = 400;
const FUNCTION: usize = 70;

/// Uses of one file by another that ARROWS does not allow.
const FORBIDDEN_ARROWS: usize = 0;
/// Uses of one file by another within a circle.
const CIRCULAR_ARROWS: usize = 0;
/// Core files that name a feature, counted once for each feature.
const NAMED_FEATURES: usize = 3;

/// Which files each module may use beside its own, by the beginnings of their paths. Rules for one module add up.
const ARROWS: &[(&str, &[&str])] = &[
    ("main.rs", &[""]),
    ("lib.rs", &[""]),
    ("fuzzing.rs", &[""]),
    // Settings have their types beside what they set. A frame size is one of them.
    ("cli/", &["http/", "camera/", "hub/", "frame.rs"]),
    // How pictures are turned is another.
    ("cli/", &["jpeg/mod.rs"]),
    // It compares frame sizes with those that a camera offers, and says what pictures cost.
    ("doctor.rs", &["camera/", "jpeg/", "cli/", "frame.rs", "system/os.rs"]),
    ("systemd.rs", &["camera/session.rs", "http/server/", "system/"]),
    ("http/", &["hub/", "frame.rs", "jpeg/", "system/"]),
    // Of the camera: what it does for requests, its identity and errors, and the settle rule that a request may bring.
    (
        "http/",
        &[
            "camera/session.rs",
            "camera/still.rs",
            "camera/control.rs",
            "camera/controls.rs",
            "camera/mod.rs",
            "camera/settle.rs",
            "camera/no_signal.rs",
        ],
    ),
    ("camera/", &["hub/", "frame.rs", "jpeg/", "system/"]),
    ("hub/", &["frame.rs", "system/"]),
    ("frame.rs", &[]),
    ("jpeg/", &[]),
    ("system/", &[]),
];

/// The wiring: it may name features, since it connects them to the core.
const WIRING: &[&str] = &["main.rs", "lib.rs", "http/mod.rs", "http/route.rs", "http/delivery.rs", "cli/mod.rs"];

/// What can be deleted with a few lines of wiring: the beginnings of its paths, and the words by which it is named.
const FEATURES: &[(&[&str], &[&str])] = &[
    (&["hub/ring.rs"], &["ring", "replay"]),
    (&["hub/lockstep.rs"], &["lockstep", "stepper"]),
    (
        &["camera/control.rs", "camera/controls.rs", "camera/v4l2/controls.rs", "http/endpoints/controls.rs"],
        &["control", "controls", "panel"],
    ),
    (&["camera/synthetic/"], &["synthetic"]),
    (&["camera/sources/", "system/supervisor.rs"], &["sources", "supervisor"]),
    (&["camera/encode/", "jpeg/encoder.rs"], &["encode", "encoder"]),
    (&["camera/lettering.rs"], &["lettering"]),
    (&["camera/no_signal.rs"], &["signal"]),
    (&["http/access/"], &["credential", "credentials", "origin", "origins", "forwarded"]),
    (&["http/endpoints/clip.rs", "http/endpoints/avi.rs"], &["clip", "avi"]),
    (&["http/endpoints/octolapse.rs"], &["octolapse"]),
    (&["http/endpoints/figures.rs"], &["figures", "metrics"]),
    (&["http/endpoints/page.rs"], &["page"]),
    (&["cli/compat/"], &["compat", "ustreamer", "mjpgsrv"]),
    (&["doctor.rs"], &["doctor"]),
    (&["fuzzing.rs"], &["fuzzing"]),
    (&["systemd.rs"], &["systemd"]),
];

/// Crates that are used in one folder only, so that replacing one is a change in one folder.
const CRATES: &[(&[&str], &str)] = &[(&["v4l", "v4l2_sys_mit"], "camera/v4l2/"), (&["tiny_http"], "http/")];

/// Words that were replaced by those of the field: no file in WORDED contains them as whole words, in this case. A word
/// that is ordinary English elsewhere stands here as code writes it.
#[rustfmt::skip]
const OLD_WORDS: &[&str] = &[
    // Limits, Permit, Full, evict, evict_stalled, same_client, stalled viewer
    "Places", "Place", "Full::House", "the house is full", "put_out", "make_room", "twin", "twins", "ghost", "ghosts",
    "is put out", "was put out", "are put out", "be put out", "never put out", "put out after",
    // serve_connection, respond, add_common_headers, set_client, set_send_timeout, drained, SendError, EndReason, Response
    "converse", "fn say", ".say(", "fn sign", ".sign(", "speaks_for", "hurry", "is_through", "Gone", "enum End", "type End",
    "End::", "Answer", "try_answer", "fn answer",
    // join_lockstep, read_all, LockstepMember, JITTER_TOLERANCE
    "step_in", "fn record", "Stepper", "TREMBLE",
    // mark_lost, probe, Need::Probe, health_problem, unexpected_size, last_iteration, is_gone
    "fn lose", ".lose(", "look_for_it", "Need::Knowledge", "Knowledge", "trouble", "strange", "round_at", "saw_it_go",
    // Effect::{Read, Interrupt, Write}, check, normalize_token
    "Effect::Looks", "Disturbs", "Effect::Changes", "struct Changes", "Changes::", "fn judge", ".judge(", "spelled",
    // {Ignored, Unsupported}, Builder, lan_addresses
    "Anyway", "Means::Not", "Draft", "clickable",
    // configure_allocator, daemonize, raise_limits, run, notify
    "tame_allocator", "leave_terminal", "budget::provide", "fn provide", "attend", "fn tell", ".tell(",
    // not found; invalid mode: expected newest, all or lockstep
    "there is nothing here", "is no mode", "; give ",
    "How many may look", "Who has a wrong credential", "waits so long", "Who takes longer", "the manager's store",
    "refuses nobody", "look after themselves", "looks after itself", "Who may look", "Pictures in a minute",
    "See the module's documentation", "See the module documentation",
    "so long", "For so long", "meanwhile", "Meanwhile", "anew", "of its own", "of their own",
    "client who", "clients who", "viewer who", "viewers who", "Viewers who", "A client who", "server who", "camera who",
    // Two things had each of these names.
    "Wish", "slot", "slots", "Slot",
];

/// Old words that programs outside this repository read: the word, the beginnings of the paths that may have it, why.
const KEPT_WORDS: &[(&str, &[&str], &str)] = &[(
    "trouble",
    &["src/http/endpoints/figures.rs", "src/assets/", "tests/state.rs", "tests/page/", "docs/metrics.md"],
    "a key of /state, which programs read",
)];

/// What OLD_WORDS is held against, without this file.
const WORDED: &[&str] = &["src", "tests", "docs", "README.md", "ARCHITECTURE.md"];

/// Names that each name one thing: at most one type in `src/` has each.
const ONE_THING: &[&str] = &["Mode", "Settings", "Wish", "Refusal", "Kind", "Camera", "State", "Slot"];

#[test]
fn no_old_word_is_left() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for path in WORDED {
        read_texts(root, &root.join(path), &mut texts);
    }
    assert!(texts.len() > 150, "the files are found: {}", texts.len());
    let mut problems = Vec::new();
    for (path, text) in &texts {
        let is_kept =
            |word: &str| KEPT_WORDS.iter().any(|(kept, paths, _)| *kept == word && starts_with_any(path, paths));
        let found = old_words(text).into_iter().filter(|(_, word)| !is_kept(word));
        problems.extend(found.map(|(line, word)| format!("{path}:{line} has the old word \"{word}\"")));
    }
    problems.extend(names_of_two_things(texts.iter().filter(|(path, _)| path.starts_with("src/"))));
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// All text files below `path`, by their paths below `root`, without this one.
fn read_texts(root: &Path, path: &Path, texts: &mut Vec<(String, String)>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            read_texts(root, &entry.expect("an entry").path(), texts);
        }
        return;
    }
    let name = path.strip_prefix(root).expect("a path below the root").display().to_string();
    if name == file!() || name.contains("/target/") || name.contains("/node_modules/") {
        return;
    }
    // Pictures are no text.
    if let Ok(text) = String::from_utf8(fs::read(path).expect("a file")) {
        texts.push((name, text));
    }
}

/// The old words in a text with the numbers of their lines, also where a phrase goes on in the next line.
fn old_words(text: &str) -> Vec<(usize, &'static str)> {
    let words = |line: &str| line.trim().trim_start_matches(['/', '!', '#']).trim().to_owned();
    let lines: Vec<_> = text.lines().map(words).collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let with_next = format!("{line} {}", lines.get(index + 1).map_or("", |next| next));
        let begins = |word: &&&str| whole_word(&with_next, word).is_some_and(|at| at < line.len());
        found.extend(OLD_WORDS.iter().filter(begins).map(|word| (index + 1, *word)));
    }
    found
}

/// Where a text first has this word, neither preceded nor followed by a letter, digit or underscore.
fn whole_word(text: &str, word: &str) -> Option<usize> {
    let is_inner = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut places = text.match_indices(word).map(|(at, _)| at);
    places.find(|at| {
        let before = text[..*at].chars().next_back().filter(|_| word.starts_with(is_inner));
        let after = text[at + word.len()..].chars().next().filter(|_| word.ends_with(is_inner));
        !before.into_iter().chain(after).any(is_inner)
    })
}

fn names_of_two_things<'a>(texts: impl Iterator<Item = &'a (String, String)>) -> Vec<String> {
    let mut types: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (path, text) in texts {
        for (index, line) in text.lines().enumerate() {
            let defined = |name: &&&str| {
                ["struct", "enum", "type", "trait"].iter().any(|kind| {
                    let definition = format!("{kind} {name}");
                    !line.trim_start().starts_with("//") && whole_word(line, &definition).is_some()
                })
            };
            for name in ONE_THING.iter().filter(defined) {
                types.entry(name).or_default().push(format!("{path}:{}", index + 1));
            }
        }
    }
    let twice = types.into_iter().filter(|(_, places)| places.len() > 1);
    twice.map(|(name, places)| format!("{name} names {} types: {}", places.len(), places.join(", "))).collect()
}

#[test]
fn an_old_word_is_found() {
    for (text, found) in [
        ("fn make_room() {}", vec![(1, "make_room")]),
        ("fn make_rooms(remake_room: u8) {}", vec![]),
        ("let x = Full::House;", vec![(1, "Full::House")]),
        ("\n/// The camera opens\n/// anew.", vec![(3, "anew")]),
        ("// Cameras that stall look\n// after themselves.", vec![(1, "look after themselves")]),
        ("a.say(); b.says(); essay(); a.sayings()", vec![(1, ".say(")]),
        ("Answers answer unanswered answering", vec![]),
        ("place places housed", vec![]),
    ] {
        assert_eq!(old_words(text), found, "{text}");
    }
    let texts = |texts: &[(&str, &str)]| -> Vec<(String, String)> {
        texts.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
    };
    let one = texts(&[("a.rs", "pub struct State;\nstruct StateKind;\n// struct State"), ("b.rs", "fn State() {}")]);
    assert_eq!(names_of_two_things(one.iter()), [""; 0]);
    let two = texts(&[("a.rs", "pub struct State;"), ("b.rs", "\nenum State<T> {}")]);
    assert_eq!(names_of_two_things(two.iter()), ["State names 2 types: a.rs:1, b.rs:2"]);
}

#[test]
fn structure_is_kept() {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.files.len() > 40, "the sources are found");
    let arrows = sources.arrows();
    assert!(arrows.len() > 100, "uses of files by others are found");
    // Not by println!, which would show it only when the test fails.
    write!(io::stdout(), "{}", figures(&sources, &arrows)).expect("stdout");

    let mut problems = Vec::new();
    let mut check = |what: &str, limit: usize, found: Vec<String>| {
        if found.len() > limit {
            problems.push(format!("{what}: {} instead of at most {limit}\n  {}", found.len(), found.join("\n  ")));
        }
    };
    check("forbidden arrows", FORBIDDEN_ARROWS, forbidden_arrows(&sources, &arrows));
    check("arrows in circles", CIRCULAR_ARROWS, circular_arrows(&sources, &arrows));
    check("features named in the core", NAMED_FEATURES, named_features(&sources));
    check("crates outside their folder", 0, misplaced_crates(&sources));
    check("sizes over their limits", 0, oversized(&sources, &Limits::default()));
    check("files beside a folder of the same name", 0, beside_folders(&sources));
    check("paths in this test that match no file", 0, stale_paths(&sources));
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

struct Limits {
    whole: usize,
    core: usize,
    core_file: usize,
    function: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { whole: WHOLE, core: CORE, core_file: CORE_FILE, function: FUNCTION }
    }
}

fn is_core(file: &SourceFile) -> bool {
    !FEATURES.iter().any(|(paths, _)| starts_with_any(&file.path, paths))
}

fn starts_with_any(path: &str, beginnings: &[&str]) -> bool {
    beginnings.iter().any(|beginning| path.starts_with(beginning))
}

fn lines<'a>(files: impl IntoIterator<Item = &'a SourceFile>) -> usize {
    files.into_iter().map(|file| file.code.len()).sum()
}

fn forbidden_arrows(sources: &Sources, arrows: &[Arrow]) -> Vec<String> {
    let forbidden = arrows.iter().filter_map(|arrow| {
        let [from, to] = [arrow.from, arrow.to].map(|file| sources.files[file].path.as_str());
        let mut rules = ARROWS.iter().filter(|(module, _)| from.starts_with(module)).peekable();
        if rules.peek().is_none() {
            return Some(format!("{from} has no rule"));
        }
        let is_allowed = rules.any(|(module, allowed)| to.starts_with(module) || starts_with_any(to, allowed));
        (!is_allowed).then(|| format!("{} uses {to}", arrow.place))
    });
    forbidden.collect()
}

fn circular_arrows(sources: &Sources, arrows: &[Arrow]) -> Vec<String> {
    let circles = sources.circles(arrows);
    let is_circular =
        |arrow: &&Arrow| circles.iter().any(|circle| circle.contains(&arrow.from) && circle.contains(&arrow.to));
    arrows
        .iter()
        .filter(is_circular)
        .map(|arrow| format!("{} uses {}", arrow.place, sources.files[arrow.to].path))
        .collect()
}

fn named_features(sources: &Sources) -> Vec<String> {
    let core = sources.files.iter().filter(|file| is_core(file) && !WIRING.contains(&file.path.as_str()));
    let named = core.flat_map(|file| {
        FEATURES.iter().filter_map(|(_, words)| {
            let (name, line) =
                file.names.iter().find(|(name, _)| words_of(name).any(|word| words.contains(&&*word)))?;
            Some(format!("{}:{line} names {name}", file.path))
        })
    });
    named.collect()
}

/// The words of a name in lower case: `ring` and `start` of `RingStart` and of `RING_START`.
fn words_of(name: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() && was_lower {
            words.push(String::new());
        }
        was_lower = !letter.is_uppercase();
        words.last_mut().expect("one at least").extend(letter.to_lowercase().filter(|letter| *letter != '_'));
    }
    words.into_iter()
}

fn misplaced_crates(sources: &Sources) -> Vec<String> {
    let names = sources.files.iter().flat_map(|file| file.names.iter().map(move |(name, line)| (file, name, line)));
    let is_misplaced = |file: &SourceFile, name: &str| {
        CRATES.iter().any(|(crates, folder)| crates.contains(&name) && !file.path.starts_with(folder))
    };
    let misplaced = names.filter(|(file, name, _)| is_misplaced(file, name));
    misplaced.map(|(file, name, line)| format!("{}:{line} names {name}", file.path)).collect()
}

fn oversized(sources: &Sources, limits: &Limits) -> Vec<String> {
    let files = &sources.files;
    let mut sizes = vec![
        ("the whole".to_owned(), lines(files), limits.whole),
        ("the core".to_owned(), lines(files.iter().filter(|file| is_core(file))), limits.core),
    ];
    for file in files {
        if is_core(file) {
            sizes.push((file.path.clone(), file.code.len(), limits.core_file));
        }
        sizes.extend(
            file.functions.iter().map(|(name, size)| (format!("{} fn {name}", file.path), *size, limits.function)),
        );
    }
    let over = sizes.into_iter().filter(|(_, size, limit)| size > limit);
    over.map(|(what, size, limit)| format!("{what} has {size} lines, at most {limit} are allowed")).collect()
}

/// A module with children lies in its folder, as `mod.rs`.
fn beside_folders(sources: &Sources) -> Vec<String> {
    let has_folder = |path: &str| {
        let folder = path.replace(".rs", "/");
        sources.files.iter().any(|file| file.path.starts_with(&folder))
    };
    sources.files.iter().map(|file| file.path.clone()).filter(|path| has_folder(path)).collect()
}

/// Paths in the tables above that a rename or a deletion has left behind.
fn stale_paths(sources: &Sources) -> Vec<String> {
    let rules = ARROWS.iter().map(|(path, _)| *path);
    let paths = FEATURES.iter().flat_map(|(paths, _)| paths.iter().copied()).chain(WIRING.iter().copied()).chain(rules);
    let is_stale = |path: &&str| !sources.files.iter().any(|file| file.path.starts_with(path));
    paths.filter(is_stale).map(str::to_owned).collect()
}

fn figures(sources: &Sources, arrows: &[Arrow]) -> String {
    let files = &sources.files;
    let module = |file: usize| files[file].path.split('/').next().expect("a path");
    let between_modules: BTreeSet<_> =
        arrows.iter().map(|arrow| (module(arrow.from), module(arrow.to))).filter(|(from, to)| from != to).collect();
    let circles = sources.circles(arrows);
    let mut folders: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        *folders.entry(file.path.rsplit_once('/').map_or(".", |(folder, _)| folder)).or_default() += file.code.len();
    }
    let folders: Vec<_> = folders.iter().map(|(folder, lines)| format!("{folder} {lines}")).collect();
    let mut functions: Vec<_> = files
        .iter()
        .flat_map(|file| file.functions.iter().map(|(name, size)| (*size, format!("{name} in {}", file.path))))
        .collect();
    let mut core_files: Vec<_> =
        files.iter().filter(|file| is_core(file)).map(|file| (file.code.len(), file.path.clone())).collect();
    let mut text = String::new();
    let whole = lines(files);
    let core = lines(files.iter().filter(|file| is_core(file)));
    let _ = writeln!(text, "structure: {whole} lines of code (at most {WHOLE}), {core} in the core (at most {CORE})");
    let _ = writeln!(text, "  by folder: {}", folders.join(", "));
    let _ = writeln!(
        text,
        "  arrows: {} between modules, {} between {} files; {} forbidden, {} in {} circles; \
         {} features named in the core",
        between_modules.len(),
        arrows.len(),
        files.len(),
        forbidden_arrows(sources, arrows).len(),
        circular_arrows(sources, arrows).len(),
        circles.len(),
        named_features(sources).len(),
    );
    for circle in &circles {
        let _ = writeln!(
            text,
            "  circle: {}",
            circle.iter().map(|file| &*files[*file].path).collect::<Vec<_>>().join(", ")
        );
    }
    let _ = writeln!(text, "  largest files of the core: {}", largest(&mut core_files));
    let _ = writeln!(text, "  longest functions of {}: {}", functions.len(), largest(&mut functions));
    text
}

/// The five largest, with their sizes.
fn largest(sizes: &mut [(usize, String)]) -> String {
    sizes.sort_by(|a, b| b.cmp(a));
    sizes.iter().take(5).map(|(size, name)| format!("{name} {size}")).collect::<Vec<_>>().join(", ")
}

// A test that cannot fail proves nothing: each of the following plants what the test above must find.

/// A crate of these files beside an empty root, and its arrows.
fn planted(files: &[(&'static str, &'static str)]) -> (Sources, Vec<Arrow>) {
    let root = ("lib.rs", "");
    let has_root = files.iter().any(|(path, _)| *path == root.0);
    let sources = Sources::new(files.iter().copied().chain((!has_root).then_some(root)));
    let arrows = sources.arrows();
    (sources, arrows)
}

#[test]
fn code_is_counted_without_tests_comments_and_blanks() {
    for (lines, text) in [
        (0, "\n// fn\n/* one\n/* two */\nfn x() {}\n*/\n\n//! three\n"),
        (3, "fn one() { // {\n\n    /* } */ two();\n}\n"),
        (3, "const TEXT: &str = \"one\n\n// three\";\n"),
        (2, "const RAW: &str = r#\"\"// one\n\"#;\n"),
        (
            2,
            "#[derive(Debug)]\nstruct Kept;\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n\
                 use super::*;\n    fn a() {}\n}\n",
        ),
        (
            1,
            "#[cfg(test)]\nuse a::{\n  b,\n};\n#[cfg(test)]\npub(crate) const fn f() -> [u8; 2] {\n\
               [1, 2]\n}\nfn kept() {}\n",
        ),
        (1, "#[cfg(test)]\nmod scripted;\n#[cfg(test)]\nconst A: [u8; 1] = {\n [1]\n};\nfn kept() {}\n"),
    ] {
        let (sources, _) = planted(&[("hub/mod.rs", text)]);
        assert_eq!(sources.files[0].code.len(), lines, "{text}");
    }
    let (sources, _) = planted(&[("hub/mod.rs", "#[cfg(test)]\nmod scripted;"), ("hub/scripted.rs", "fn test() {}")]);
    assert!(sources.files.iter().all(|file| file.path != "hub/scripted.rs"), "it is for tests only");
}

#[test]
fn a_forbidden_arrow_is_found() {
    let forbidden = [
        "use crate::http::App;",
        "use crate::{\n    frame::Frame,\n    http::{\n        server::{limits::Permit},\n    },\n};",
        "pub use crate::http::App as Application;",
        "fn f() { crate::http::run() }",
        "fn f() { super::http::route::find() }",
        "use crate::http;",
        "mod inner { use super::super::http::*; }",
        "impl From<u8> for crate::http::App {}",
        "fn f() -> Vec<crate::http::App> { use crate::frame::Frame; vec![] }",
        "const C: char = '\"'; use crate::http::App; const D: char = '\"';",
        "fn f<'a>(x: &'a str) -> &'a str { crate::http::App::name(x) }",
    ];
    let allowed = [
        "use crate::frame::Frame;",
        "use crate::system::{self, os};",
        "use ::http::Request;",
        "use http::Request;",
        "// use crate::http::App;",
        "/* crate::http::App */ fn f() {}",
        "const TEXT: &str = \"crate::http::App\";",
        "const TEXT: &str = r#\" \"crate::http::App\" \"#;",
        "#[cfg(test)] mod tests { use crate::http::App; }",
        "pub(in crate::http) fn f() {}",
        "use self::inner::http; mod inner { pub mod http {} }",
    ];
    let rest = [("http/mod.rs", "mod server;"), ("http/route.rs", ""), ("http/server/mod.rs", ""), ("frame.rs", "")];
    for (texts, found) in [(&forbidden[..], true), (&allowed[..], false)] {
        for text in texts {
            let (sources, arrows) =
                planted(&[&rest[..], &[("hub/mod.rs", text), ("system/mod.rs", ""), ("system/os.rs", "")]].concat());
            let problems = forbidden_arrows(&sources, &arrows);
            assert_eq!(!problems.is_empty(), found, "{text}: {problems:?}");
        }
    }
    let (sources, arrows) = planted(&[("hub/mod.rs", "\nuse crate::http::server::X;"), rest[0], rest[2]]);
    assert_eq!(forbidden_arrows(&sources, &arrows), ["hub/mod.rs:2 uses http/server/mod.rs"]);
    let (sources, arrows) =
        planted(&[("main.rs", "use framehub::hub;"), ("hub/mod.rs", ""), ("new.rs", "use crate::hub;")]);
    assert_eq!(forbidden_arrows(&sources, &arrows), ["new.rs has no rule"]);
    assert_eq!(arrows.len(), 2);
}

#[test]
fn an_arrow_behind_an_imported_module_is_found() {
    let limits = ("http/server/limits.rs", "");
    for text in [
        "use crate::http::server; fn f() { server::limits::run() }",
        "use crate::http as h; fn f() { h::server::limits::run() }",
    ] {
        let (sources, arrows) =
            planted(&[("http/mod.rs", ""), ("http/server/mod.rs", ""), limits, ("hub/mod.rs", text)]);
        let used: Vec<_> = arrows.iter().map(|arrow| sources.files[arrow.to].path.as_str()).collect();
        assert!(used.contains(&"http/server/limits.rs"), "{text}: {used:?}");
    }
}

#[test]
fn a_circle_is_found() {
    let circles = |files: &[(&'static str, &'static str)]| {
        let (sources, arrows) = planted(files);
        let names = |circle: Vec<usize>| {
            circle.iter().map(|file| sources.files[*file].path.as_str()).collect::<Vec<_>>().join(" ")
        };
        (
            sources.circles(&arrows).into_iter().map(names).collect::<Vec<_>>().join(" | "),
            circular_arrows(&sources, &arrows).len(),
        )
    };
    let none = (String::new(), 0);
    // A parent that only declares its children is no part of a circle; one that imports or exports them is.
    assert_eq!(circles(&[("hub/mod.rs", "pub mod ring; struct Hub;"), ("hub/ring.rs", "use super::Hub;")]), none);
    for parent in
        ["pub mod ring; use self::ring::Ring;", "mod ring; pub use ring::Ring;", "mod ring; fn f() { ring::new() }"]
    {
        let found = circles(&[("hub/mod.rs", parent), ("hub/ring.rs", "use super::Hub;")]);
        assert_eq!(found, ("hub/mod.rs hub/ring.rs".into(), 2), "{parent}");
    }
    assert_eq!(
        circles(&[
            ("hub/mod.rs", "mod ring; use self::ring::Ring;"),
            ("hub/ring.rs", "use super::pace::Pace;"),
            ("hub/pace.rs", "")
        ]),
        none
    );
    let three = [("a.rs", "use crate::b::B;"), ("b.rs", "fn f() { crate::c::run() }"), ("c.rs", "use super::a;")];
    assert_eq!(circles(&three), ("a.rs b.rs c.rs".into(), 3));
    let two = [three[0], ("b.rs", "use crate::a;"), ("c.rs", "use crate::a; use crate::d;"), ("d.rs", "use crate::c;")];
    assert_eq!(circles(&two), ("a.rs b.rs | c.rs d.rs".into(), 4));
}

#[test]
fn what_is_too_large_is_found() {
    let text = "trait T { fn none(&self, b: [u8; 2]); }\nfn long(x: [u8; 2]) {\n    let c = ['{', '\\''];\n\
     \n    // }\n    if x { \"}\" } else { r\"}\" }\n}\nfn short() {}\n";
    let (sources, _) = planted(&[("hub/mod.rs", text), ("hub/ring.rs", "fn f() {}\nfn g() {}\n")]);
    let hub = &sources.files[0];
    assert_eq!(hub.functions, [("long".into(), 4), ("short".into(), 1)]);
    let limits = |whole, core, core_file, function| Limits { whole, core, core_file, function };
    assert_eq!(oversized(&sources, &limits(8, 6, 6, 4)), [""; 0]);
    for (limits, found) in [
        (limits(7, 6, 6, 4), "the whole has 8 lines, at most 7 are allowed"),
        (limits(8, 5, 6, 4), "the core has 6 lines, at most 5 are allowed"),
        (limits(8, 6, 5, 4), "hub/mod.rs has 6 lines, at most 5 are allowed"),
        (limits(8, 6, 6, 3), "hub/mod.rs fn long has 4 lines, at most 3 are allowed"),
    ] {
        assert_eq!(oversized(&sources, &limits), [found]);
    }
}

#[test]
fn a_feature_named_in_the_core_is_found() {
    for (text, found) in [
        ("use self::ring::Ring;", true),
        ("struct LockstepMember;", true),
        ("fn join_lockstep() {}", true),
        ("const RING_START: u8 = 1;", true),
        ("pub mod ring;", false),
        ("fn string(wiring: &str) { bring() }", false),
        ("// the ring\nconst TEXT: &str = \"lockstep\";", false),
        ("#[cfg(test)] mod tests { use super::ring; }", false),
    ] {
        let (sources, _) =
            planted(&[("hub/mod.rs", text), ("hub/ring.rs", "struct Ring;"), ("http/route.rs", "fn clip() {}")]);
        assert_eq!(!named_features(&sources).is_empty(), found, "{text}");
    }
}

#[test]
fn a_crate_outside_its_folder_is_found() {
    for (path, text, found) in [
        ("camera/mod.rs", "use v4l::Device;", true),
        ("hub/mod.rs", "fn f() { ::tiny_http::Server::new() }", true),
        ("camera/v4l2/mod.rs", "use v4l::Device;", false),
        ("http/server/mod.rs", "use tiny_http::Method;", false),
        ("camera/mod.rs", "pub mod v4l2; use camera_v4l::X; // v4l\nconst NAME: &str = \"v4l\";", false),
    ] {
        let (sources, _) = planted(&[(path, text)]);
        assert_eq!(!misplaced_crates(&sources).is_empty(), found, "{path}: {text}");
    }
}

#[test]
fn a_file_beside_its_folder_and_a_stale_path_are_found() {
    let (sources, _) = planted(&[("hub.rs", ""), ("hub/ring.rs", ""), ("http/mod.rs", "")]);
    assert_eq!(beside_folders(&sources), ["hub.rs"]);
    let stale = stale_paths(&sources);
    assert!(stale.contains(&"doctor.rs".into()) && !stale.contains(&"hub/ring.rs".into()), "{stale:?}");
}
