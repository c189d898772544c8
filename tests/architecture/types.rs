//! The methods of types, and how large functions and inherent impls are.
//!
//! The code is formatted, so that items begin and end in the first column, and fields in the fifth.

use crate::source::tokens;
use std::collections::{BTreeMap, BTreeSet};

/// A type, with the parts of it in all files.
#[derive(Default)]
pub(crate) struct Type {
    /// The number of named fields.
    pub(crate) fields: usize,
    /// The number of methods in inherent impls.
    pub(crate) methods: usize,
    /// The number of lines of the inherent impls, by file.
    pub(crate) lines: BTreeMap<String, usize>,
    /// The methods that each method calls on `self`, by file, those of traits included.
    calls: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Type {
    /// Returns the methods that each method calls.
    pub(crate) fn calls_among_methods(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (method, called) in self.calls.values().flatten() {
            let called = called.iter().map(String::as_str);
            all.entry(method).or_default().extend(called);
        }
        all
    }

    /// Returns the other files whose methods each file calls.
    pub(crate) fn calls_among_files(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut homes = BTreeMap::new();
        for (file, methods) in &self.calls {
            homes.extend(
                methods
                    .keys()
                    .map(|method| (method.as_str(), file.as_str())),
            );
        }
        let called = |(file, methods): (&'_ String, &BTreeMap<String, BTreeSet<String>>)| {
            let called = methods.values().flatten();
            let homes = called.filter_map(|method| homes.get(method.as_str()).copied());
            homes.filter(|home| home != file).collect()
        };
        let files = self.calls.iter();
        files.map(|it| (it.0.as_str(), called(it))).collect()
    }

    fn add_impl(&mut self, file: &str, lines: &[&str], is_inherent: bool) {
        let tokens = tokens(&lines.join("\n"));
        let calls = self.calls.entry(file.to_owned()).or_default();
        let mut method = None;
        for at in 0..tokens.len() {
            let words: Vec<&str> = tokens[at..].iter().take(4).map(String::as_str).collect();
            let called = match words[..] {
                ["fn", name, "(" | "<", ..] => {
                    self.methods += usize::from(is_inherent);
                    method = Some(name.to_owned());
                    calls.entry(name.to_owned()).or_default();
                    continue;
                }
                ["self", ".", name, "("] | ["Self", "::", name, "("] => name,
                _ => continue,
            };
            if let Some(method) = &method {
                calls
                    .entry(method.clone())
                    .or_default()
                    .insert(called.to_owned());
            }
        }
        if is_inherent {
            *self.lines.entry(file.to_owned()).or_default() += lines.len();
        }
    }
}

/// Returns the types of some files by name.
pub(crate) fn types(files: &BTreeMap<String, String>) -> BTreeMap<String, Type> {
    let mut types: BTreeMap<String, Type> = BTreeMap::new();
    for (file, source) in files {
        let lines: Vec<&str> = source.lines().collect();
        for at in 0..lines.len() {
            let is_impl = lines[at].starts_with("impl");
            if !is_impl && !lines[at].contains("struct ") || lines[at].starts_with([' ', '/']) {
                continue;
            }
            let header = head(&lines[at..]);
            let Some(name) = name_of(&header) else {
                continue;
            };
            let body = &lines[at + header.len()..];
            let length = body.iter().take_while(|line| **line != "}").count();
            let it = types.entry(name).or_default();
            if is_impl {
                let is_inherent = !header.join(" ").contains(" for ");
                it.add_impl(file, &body[..length], is_inherent);
            } else if header.last().is_some_and(|line| line.ends_with('{')) {
                it.fields += body[..length].iter().filter(|line| is_field(line)).count();
            }
        }
    }
    types
}

/// Returns the lines of an item up to its opening brace or semicolon.
fn head<'l>(lines: &[&'l str]) -> Vec<&'l str> {
    let ends = |line: &&str| line.ends_with(['{', '}', ';']);
    let length = lines.iter().position(ends).map_or(lines.len(), |at| at + 1);
    lines[..length].to_vec()
}

/// Returns the name of the type that a `struct` or an `impl` is about.
fn name_of(header: &[&str]) -> Option<String> {
    let mut tokens = tokens(&header.join("\n"));
    if let Some(at) = tokens.iter().position(|token| token == "for") {
        tokens.drain(..=at);
        return tokens
            .into_iter()
            .find(|token| token.starts_with(char::is_alphabetic));
    }
    let start = tokens
        .iter()
        .position(|token| token == "impl" || token == "struct")?
        + 1;
    let mut depth = 0;
    for token in tokens.drain(start..) {
        match token.as_str() {
            "<" => depth += 1,
            ">" => depth -= 1,
            name if depth == 0 && name.starts_with(char::is_alphabetic) => return Some(token),
            _ => {}
        }
    }
    None
}

fn is_field(line: &str) -> bool {
    let is_indented = line.starts_with("    ") && !line.starts_with("     ");
    let is_note = line.trim_start().starts_with(['/', '#', ')', '}']);
    is_indented && !is_note && line.contains(':')
}

/// Returns the functions that have more lines than that, each with its number of lines.
pub(crate) fn functions_above(most: usize, source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut above = Vec::new();
    for at in 0..lines.len() {
        let text = lines[at].trim_start();
        let indent = &lines[at][..lines[at].len() - text.len()];
        let words = text.split(['(', '<', ' ']).take_while(|word| *word != "//");
        let mut words = words.skip_while(|word| *word != "fn").skip(1);
        let Some(name) = words.next().filter(|_| is_function(text)) else {
            continue;
        };
        let header = head(&lines[at..]);
        if header.last().is_some_and(|line| line.ends_with('{')) {
            let end = format!("{indent}}}");
            let rest = lines[at..].iter().take_while(|line| **line != end);
            let length = rest.count() + 1;
            if length > most {
                above.push((name.to_owned(), length));
            }
        }
    }
    above
}

fn is_function(text: &str) -> bool {
    let modifiers = ["pub", "const", "async", "unsafe", "extern", "fn"];
    let first = text.split(['(', ' ']).next().unwrap_or_default();
    modifiers.contains(&first) && text.contains("fn ")
}
