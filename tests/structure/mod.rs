//! Reads Rust sources for `tidy.rs`: their code lines, functions, names, and which file uses which.
//!
//! A tokenizer and as little grammar as that needs. Comments and `#[cfg(test)]` items are left out; strings count as
//! code, but their content is not read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// One source file below `src`.
pub struct SourceFile {
    /// From `src` on, as in `http/mod.rs`.
    pub path: String,
    /// The module that it holds, as in `["http", "route"]`.
    pub module: Vec<String>,
    /// The numbers of the lines with code.
    pub code: BTreeSet<usize>,
    /// Its functions: name and code lines.
    pub functions: Vec<(String, usize)>,
    /// Its identifiers with their lines, but for the modules that it declares.
    pub names: Vec<(String, usize)>,
    /// Modules declared inside it, each with its path. They hold the same file.
    inline: Vec<Vec<String>>,
    /// Children that are compiled for tests only.
    test_children: Vec<String>,
    uses: Vec<Use>,
}

/// A path with at least two parts, or an import.
struct Use {
    /// The module that it is written in.
    base: Vec<String>,
    parts: Vec<String>,
    /// For an import: the name by which it is known here.
    imported_as: Option<String>,
    line: usize,
}

/// All sources, and the modules that they hold.
pub struct Sources {
    pub files: Vec<SourceFile>,
    modules: BTreeMap<Vec<String>, usize>,
}

/// A use of one file by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrow {
    pub from: usize,
    pub to: usize,
    /// Where it is written, as in `http/mod.rs:12`.
    pub place: String,
}

impl Sources {
    /// Reads all files below a folder.
    pub fn read(folder: &Path) -> Self {
        let mut texts = Vec::new();
        collect(folder, folder, &mut texts);
        Self::new(texts.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    /// From paths below `src` with the content of the files.
    pub fn new<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files: Vec<_> = texts.into_iter().map(|(path, text)| SourceFile::new(path, text)).collect();
        let is_child = |of: &SourceFile, file: &SourceFile| {
            file.module
                .split_last()
                .is_some_and(|(name, parent)| parent == of.module && of.test_children.contains(name))
        };
        let for_tests: BTreeSet<_> = files
            .iter()
            .flat_map(|parent| files.iter().filter(|file| is_child(parent, file)).map(|file| file.path.clone()))
            .collect();
        files.retain(|file| !for_tests.contains(&file.path));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut modules = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for module in file.inline.iter().chain([&file.module]) {
                modules.insert(module.clone(), index);
            }
        }
        Self { files, modules }
    }

    /// Every use of another file, each pair of files once.
    pub fn arrows(&self) -> Vec<Arrow> {
        let mut found = BTreeMap::new();
        for (from, file) in self.files.iter().enumerate() {
            for used in &file.uses {
                if let Some(to) = self.absolute(file, used).map(|path| self.holder(&path)).filter(|to| *to != from) {
                    found.entry((from, to)).or_insert_with(|| format!("{}:{}", file.path, used.line));
                }
            }
        }
        found.into_iter().map(|((from, to), place)| Arrow { from, to, place }).collect()
    }

    /// The path from the crate's root, if it leads into this crate.
    fn absolute(&self, file: &SourceFile, used: &Use) -> Option<Vec<String>> {
        let (first, rest) = used.parts.split_first()?;
        let mut path = match first.as_str() {
            "crate" if file.path == "main.rs" => vec!["main".into()],
            "crate" | "framehub" => Vec::new(),
            "self" => used.base.clone(),
            "super" => used.base[..used.base.len().saturating_sub(1)].to_vec(),
            name => {
                // A module declared here, or imported.
                let child = [&used.base[..], &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    child
                } else {
                    let is_it = |other: &&Use| other.imported_as.as_deref() == Some(name) && other.parts != used.parts;
                    let import = file.uses.iter().filter(is_it).find(|other| other.parts[0] != name)?;
                    self.absolute(file, import).filter(|path| self.modules.contains_key(path))?
                }
            }
        };
        for part in rest {
            match part.as_str() {
                "self" => {}
                "super" => _ = path.pop(),
                name => path.push(name.to_owned()),
            }
        }
        Some(path)
    }

    /// The file with the innermost module on a path.
    fn holder(&self, path: &[String]) -> usize {
        let prefixes = (0..=path.len()).rev().map(|length| &path[..length]);
        prefixes.filter_map(|prefix| self.modules.get(prefix)).copied().next().expect("a crate has a root")
    }

    /// Groups of files that use each other, directly or by way of others.
    pub fn circles(&self, arrows: &[Arrow]) -> Vec<Vec<usize>> {
        let reached = |start: usize| {
            let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
            while let Some(from) = next.pop() {
                next.extend(arrows.iter().filter(|arrow| arrow.from == from && reached.insert(arrow.to)).map(|a| a.to));
            }
            reached
        };
        let reached: Vec<_> = (0..self.files.len()).map(reached).collect();
        let mutual = |one: usize| -> Vec<usize> {
            (0..reached.len()).filter(|other| reached[one].contains(other) && reached[*other].contains(&one)).collect()
        };
        let mut circles: Vec<_> = (0..reached.len()).map(mutual).filter(|circle| !circle.is_empty()).collect();
        circles.sort();
        circles.dedup();
        circles
    }
}

fn collect(root: &Path, folder: &Path, texts: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").to_str().expect("a plain name");
            texts.push((name.to_owned(), fs::read_to_string(&path).expect("a source")));
        }
    }
}

impl SourceFile {
    fn new(path: &str, text: &str) -> Self {
        let (tokens, test_children) = without_tests(tokenize(text));
        let code: BTreeSet<usize> = tokens.iter().flat_map(|token| token.line..=token.last_line).collect();
        let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let mut file = Self {
            path: path.to_owned(),
            functions: functions(&tokens, &code),
            names: names(&tokens),
            module,
            code,
            inline: Vec::new(),
            test_children,
            uses: Vec::new(),
        };
        file.read_uses(&tokens);
        file
    }

    fn read_uses(&mut self, tokens: &[Token]) {
        let mut base = self.module.clone();
        // For each open brace, whether it belongs to a module.
        let mut braces = Vec::new();
        let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
        let mut at = 0;
        while at < tokens.len() {
            match text(at) {
                "{" => {
                    let is_module = at > 1 && text(at - 2) == "mod";
                    if is_module {
                        base.push(text(at - 1).to_owned());
                        self.inline.push(base.clone());
                    }
                    braces.push(is_module);
                }
                "}" if braces.pop() == Some(true) => _ = base.pop(),
                // Not the `use<'a>` of a type.
                "use" if text(at + 1) != "<" => {
                    let line = tokens[at].line;
                    at += 1;
                    let mut trees = Vec::new();
                    if text(at) != "::" {
                        use_trees(tokens, &mut at, Vec::new(), &mut trees);
                    }
                    self.uses.extend(trees.into_iter().map(|(parts, imported_as)| {
                        let base = base.clone();
                        Use { base, parts, imported_as, line }
                    }));
                    while !matches!(text(at), ";" | "") {
                        at += 1;
                    }
                }
                _ if tokens[at].is_name && text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") => {
                    let start = at;
                    let mut parts = vec![text(at).to_owned()];
                    while text(at + 1) == "::" && tokens.get(at + 2).is_some_and(|token| token.is_name) {
                        at += 2;
                        parts.push(text(at).to_owned());
                    }
                    // Not the path in `pub(in crate::jpeg)`.
                    let is_visibility =
                        start > 2 && [text(start - 3), text(start - 2), text(start - 1)] == ["pub", "(", "in"];
                    if !is_visibility {
                        self.uses.push(Use { base: base.clone(), parts, imported_as: None, line: tokens[start].line });
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }
}

/// The paths of a `use` from `at` on, each with the name that it gives.
fn use_trees(tokens: &[Token], at: &mut usize, mut parts: Vec<String>, out: &mut Vec<(Vec<String>, Option<String>)>) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    loop {
        match text(*at) {
            "{" => {
                *at += 1;
                while !matches!(text(*at), "}" | "") {
                    use_trees(tokens, at, parts.clone(), out);
                    if text(*at) == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "*" => {
                *at += 1;
                out.push((parts, None));
                return;
            }
            "self" if !parts.is_empty() => {}
            name => parts.push(name.to_owned()),
        }
        *at += 1;
        if text(*at) == "::" {
            *at += 1;
            continue;
        }
        let mut name = parts.last().cloned();
        if text(*at) == "as" {
            name = Some(text(*at + 1).to_owned());
            *at += 2;
        }
        out.push((parts, name));
        return;
    }
}

/// Each function's name and its code lines, from its first line to its last.
fn functions(tokens: &[Token], code: &BTreeSet<usize>) -> Vec<(String, usize)> {
    let starts =
        (0..tokens.len()).filter(|at| tokens[*at].text == "fn" && tokens.get(at + 1).is_some_and(|t| t.is_name));
    starts
        .filter_map(|start| {
            // `;` ends a function without body, but not inside the brackets of an array.
            let body = item_end(tokens, start, true);
            (tokens[body].text == "}").then(|| {
                let lines = code.range(tokens[start].line..=tokens[body].line).count();
                (tokens[start + 1].text.clone(), lines)
            })
        })
        .collect()
}

/// The last token of an item: a `;` outside all brackets or, if braces end it, the brace that closes its body.
fn item_end(tokens: &[Token], start: usize, braces_end_it: bool) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && braces_end_it {
                    return at;
                }
            }
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    tokens.len() - 1
}

fn names(tokens: &[Token]) -> Vec<(String, usize)> {
    let is_declaration =
        |at: usize| at > 0 && tokens[at - 1].text == "mod" && tokens.get(at + 1).is_some_and(|token| token.text == ";");
    let names = (0..tokens.len()).filter(|at| tokens[*at].is_name && !is_declaration(*at));
    names.map(|at| (tokens[at].text.clone(), tokens[at].line)).collect()
}

/// Takes out the items under `#[cfg(test)]`, and returns the names of the child modules among them.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut children) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let is_test = tokens[at..].iter().map(|token| token.text.as_str()).take(ATTRIBUTE.len()).eq(ATTRIBUTE);
        if !is_test {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut start = at + ATTRIBUTE.len();
        // Other attributes of the same item.
        while tokens.get(start).is_some_and(|token| token.text == "#") {
            start = 1 + (start..tokens.len()).find(|at| tokens[*at].text == "]").unwrap_or(start);
        }
        const KEYWORDS: [&str; 11] =
            ["use", "const", "static", "type", "fn", "mod", "impl", "struct", "enum", "trait", "let"];
        let mut words = tokens[start..].iter().map(|token| token.text.as_str());
        let keyword = words.find(|word| KEYWORDS.contains(word)).unwrap_or_default();
        let is_const_function = keyword == "const" && words.next() == Some("fn");
        let braces_end_it = is_const_function || !matches!(keyword, "use" | "const" | "static" | "type" | "let");
        let end = item_end(&tokens, start, braces_end_it);
        if keyword == "mod" && tokens[end].text == ";" {
            children.push(tokens[end - 1].text.clone());
        }
        at = end + 1;
    }
    (kept, children)
}

#[derive(Debug, Clone)]
struct Token {
    /// A name, a keyword, `::`, or one other character; of a literal only its first.
    text: String,
    is_name: bool,
    line: usize,
    last_line: usize,
}

fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let get = |at: usize| chars.get(at).copied().unwrap_or('\0');
    let starts = |at: usize, with: &str| with.chars().enumerate().all(|(i, c)| get(at + i) == c);
    let word_end = |at: usize| (at..chars.len()).find(|at| !is_word(chars[*at])).unwrap_or(chars.len());
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < chars.len() {
        let start = at;
        let mut is_name = false;
        let mut token: Option<String> = None;
        match chars[at] {
            '/' if starts(at, "//") => at = (at..chars.len()).find(|at| chars[*at] == '\n').unwrap_or(chars.len()),
            '/' if starts(at, "/*") => at = comment_end(&chars, at),
            c if c.is_whitespace() => at += 1,
            '"' => {
                at = string_end(&chars, at);
                token = Some("\"".into());
            }
            // A character, or a lifetime, which is left out.
            '\'' if get(at + 1) == '\\' || get(at + 2) == '\'' => {
                let quote = if get(at + 1) == '\\' { at + 3 } else { at + 2 };
                at = 1 + (quote..chars.len()).find(|at| chars[*at] == '\'').unwrap_or(quote);
                token = Some("'".into());
            }
            '\'' => at = word_end(at + 1),
            c if c.is_ascii_digit() => {
                at = word_end(at);
                token = Some("0".into());
            }
            c if is_word(c) => {
                at = word_end(at);
                let word: String = chars[start..at].iter().collect();
                match word.as_str() {
                    "b" | "c" if get(at) == '"' => {
                        at = string_end(&chars, at);
                        token = Some("\"".into());
                    }
                    "r" | "br" | "cr" if get(at) == '"' || (get(at) == '#' && matches!(get(at + 1), '#' | '"')) => {
                        at = raw_string_end(&chars, at);
                        token = Some("\"".into());
                    }
                    // The prefix of a raw name; the name follows.
                    "r" if get(at) == '#' => at += 1,
                    _ => {
                        is_name = true;
                        token = Some(word);
                    }
                }
            }
            ':' if starts(at, "::") => {
                at += 2;
                token = Some("::".into());
            }
            c => {
                at += 1;
                token = Some(c.into());
            }
        }
        let last_line = line + chars[start..at].iter().filter(|c| **c == '\n').count();
        tokens.extend(token.map(|text| Token { text, is_name, line, last_line }));
        line = last_line;
    }
    tokens
}

/// Behind a comment that may hold others.
fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match [chars[at], chars[at + 1]] {
            ['/', '*'] => depth += 1,
            ['*', '/'] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// Behind the string whose quote is at `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Behind the raw string whose first `#` or quote is at `at`.
fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    let is_end = |end: &usize| {
        chars[*end] == '"' && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (at + hashes + 1..chars.len()).find(is_end).map_or(chars.len(), |end| end + 1 + hashes)
}
