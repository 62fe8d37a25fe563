//! Documents that must not drift from the program: the headings of docs/troubleshooting.md are its very words.

use std::fs;
use std::path::{Path, PathBuf};

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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
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
