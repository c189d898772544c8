//! The text of the project: no line over 100 columns, and no marked words in comments, names,
//! documents and scripts.

use crate::source::lex;
use crate::{root, selected_below};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders of the project, except those for generated files.
const FOLDERS: [&str; 7] = [
    "src", "runtimes", "tests", "fuzz", "benches", "examples", ".ci",
];

/// The extensions of the files that people write and read. JSON files are generated, or are tables
/// with an entry on each line.
const WRITTEN: [&str; 8] = ["c", "go", "md", "py", "rs", "sh", "toml", "txt"];

/// The maximum number of columns of a line.
const WIDTH: usize = 100;

/// Words that mark a sentence or a name to rewrite, because it is inverted, has no subject, or uses
/// a metaphor. `hang up` also finds the names `hang_up` and `HangUp`.
const MARKED: [&str; 17] = [
    "whoever",
    "whom",
    "nobody",
    "most often",
    "anew",
    "so many",
    "stands for",
    "in its hands",
    "is told of",
    "what there is to",
    "as it is",
    "bell",
    "doomed",
    "graveyard",
    "hang up",
    "hangs up",
    "sated",
];

/// A file, and the headings around the part of it that lists the marked words.
const LIST_OF_WORDS: (&str, &str, &str) = ("CONTRIBUTING.md", "## How we write text", "## Commits");

/// Returns `true` if people write this file: it has one of the extensions, or it is a script
/// without one.
fn is_written(path: &Path) -> bool {
    match path.extension() {
        Some(extension) => WRITTEN.iter().any(|written| extension == *written),
        None => fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!")),
    }
}

/// Returns every written file of the project, by its path.
fn written_files() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        for (file, text) in selected_below(&root().join(folder), is_written) {
            files.insert(format!("{folder}/{file}"), text);
        }
    }
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && is_written(&path) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
    files
}

/// Returns the text of a line comment.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start().strip_prefix("//")?;
    Some(text.trim_start_matches(['/', '!']).trim())
}

/// Returns the numbers of the lines that are too long. A row of a table cannot be wrapped, in a
/// comment or a document.
fn long_lines(file: &str, source: &str) -> Vec<usize> {
    let is_document = file.ends_with(".md");
    let is_row = |line: &str| {
        let text = if is_document {
            Some(line)
        } else {
            comment(line)
        };
        text.is_some_and(|text| text.starts_with('|'))
    };
    (1..)
        .zip(source.lines())
        .filter(|(_, line)| line.chars().count() > WIDTH && !is_row(line))
        .map(|(number, _)| number)
        .collect()
}

/// Returns the words of a text in lower case. A name such as `hang_up` or `HangUp` is two words.
fn words_of(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower_case = false;
    for c in text.chars() {
        let is_hump = c.is_uppercase() && after_lower_case;
        after_lower_case = c.is_lowercase();
        if is_hump || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut()
            && c.is_alphanumeric()
        {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns the marked words and phrases of a text.
fn marked_in(text: &str) -> impl Iterator<Item = &'static str> + use<> {
    let words = words_of(text);
    let count = move |marked: &str| {
        let phrase: Vec<&str> = marked.split(' ').collect();
        words
            .windows(phrase.len())
            .filter(|window| window.iter().eq(&phrase))
            .count()
    };
    MARKED
        .iter()
        .flat_map(move |marked| std::iter::repeat_n(*marked, count(marked)))
}

/// Returns the comments of a Rust source. Each block of consecutive lines is one text, because a
/// phrase may continue on the next line.
fn comments_of(source: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in source.lines() {
        match (comment(line), blocks.last_mut()) {
            (Some(comment), Some(block)) => block.extend([comment, " "]),
            _ => blocks.push(String::new()),
        }
    }
    blocks
}

/// Returns the marked words of a file: those in the comments and in the names of a Rust file, where
/// a name counts once, and those anywhere in another file. String literals of Rust files may
/// contain any data.
fn marked_words(file: &str, source: &str) -> Vec<&'static str> {
    if file.ends_with(".rs") {
        let names: BTreeSet<String> = lex(source).into_iter().collect();
        let texts = comments_of(source).into_iter().chain(names);
        return texts.flat_map(|text| marked_in(&text)).collect();
    }
    let (listing, first, next) = LIST_OF_WORDS;
    let without_list = if file == listing {
        let (before, list) = source.split_once(first).unwrap();
        before.to_owned() + list.split_once(next).unwrap().1
    } else {
        source.to_owned()
    };
    marked_in(&without_list).collect()
}

#[test]
fn lines_have_at_most_100_columns() {
    let files = written_files();
    for file in ["Cargo.toml", ".ci/run", "tests/mutants", "fuzz/Cargo.toml"] {
        assert!(files.contains_key(file), "{file} must be found");
    }
    let mut wrong = Vec::new();
    for (file, source) in files {
        let lines = long_lines(&file, &source);
        wrong.extend(lines.iter().map(|line| format!("{file}:{line}")));
    }
    assert!(
        wrong.is_empty(),
        "lines over {WIDTH} columns:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn comments_names_and_documents_avoid_marked_words() {
    let mut found = Vec::new();
    for (file, source) in written_files() {
        let words = marked_words(&file, &source);
        // This file lists the words and tests them.
        if file != "tests/architecture/text.rs" {
            found.extend(words.iter().map(|word| format!("{file}: {word}")));
        }
    }
    assert!(found.is_empty(), "to rewrite:\n{}", found.join("\n"));
}

#[test]
fn long_lines_are_found_except_table_rows() {
    let (fits, long) = ("\u{e9}".repeat(WIDTH), "x".repeat(WIDTH + 1));
    let source = format!("{fits}\n/// | {long} |\n{long}\n// {long}\n| {long} |\n");
    assert_eq!(long_lines("a.rs", &source), [3, 4, 5]);
    assert_eq!(long_lines("a.md", &source), [2, 3, 4]);
}

#[test]
fn marked_words_are_found_outside_strings() {
    for (file, source, found) in [
        ("a.rs", "// Nobody reads it.", 1),
        ("a.rs", "/// After so\n/// many bytes.", 1),
        ("a.rs", "//! Nobody, and nobody else.", 2),
        ("a.rs", "// After so\nlet many = 1;\n// many bytes.", 0),
        ("a.rs", "let text = \"nobody\";", 0),
        ("a.rs", "stream.hang_up(); // It ends.", 1),
        ("a.rs", "struct HangUp { bell: Bell, bellow: u8 }", 3),
        ("a.rs", "fn hang(up: bool) {}", 0),
        ("a.md", "After so\nmany bytes, \"nobody\" reads.", 2),
        ("a.py", "bell = 1  # The bell.", 2),
        (
            "CONTRIBUTING.md",
            "anew\n## How we write text\nnobody\n## Commits\n",
            1,
        ),
    ] {
        assert_eq!(marked_words(file, source).len(), found, "{source}");
    }
}
