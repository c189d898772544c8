//! The text of the project: no line over 100 columns, and no words that mark a sentence to rewrite.

use crate::{files_below, root, selected_below};
use std::collections::BTreeMap;
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

/// Words that mark a sentence to rewrite, because it is inverted, has no subject, or uses a
/// metaphor.
const WORDS: [&str; 11] = [
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
];

/// The maximum number of these words in all comments. A quotation may contain one.
const MOST_WORDS: usize = 5;

/// Returns the files below the folders of the project, by their paths.
fn in_folders(below: impl Fn(&Path) -> BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for folder in FOLDERS {
        for (file, text) in below(&root().join(folder)) {
            files.insert(format!("{folder}/{file}"), text);
        }
    }
    files
}

/// Returns every Rust file of the project, by its path.
fn sources() -> BTreeMap<String, String> {
    in_folders(files_below)
}

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
    let mut files = in_folders(|folder| selected_below(folder, is_written));
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

/// Returns the marked words of a file's comments. A phrase may continue on the next line.
fn marked_words(source: &str) -> Vec<&'static str> {
    let mut text = String::new();
    for line in source.lines() {
        match comment(line) {
            Some(comment) => text.extend([comment, " "]),
            // Phrases do not continue behind the code.
            None => text.push('\n'),
        }
    }
    let text = text.to_lowercase();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let count = |word: &str| {
        text.match_indices(word)
            .filter(|(at, _)| {
                !text[..*at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
            })
            .count()
    };
    WORDS
        .iter()
        .flat_map(|word| std::iter::repeat_n(*word, count(word)))
        .collect()
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
fn comments_avoid_marked_words() {
    let mut found = Vec::new();
    for (file, source) in sources() {
        let words = marked_words(&source);
        found.extend(words.iter().map(|word| format!("{file}: {word}")));
    }
    assert!(
        found.len() <= MOST_WORDS,
        "sentences to rewrite:\n{}",
        found.join("\n")
    );
}

#[test]
fn long_lines_are_found_except_table_rows() {
    let (fits, long) = ("\u{e9}".repeat(WIDTH), "x".repeat(WIDTH + 1));
    let source = format!("{fits}\n/// | {long} |\n{long}\n// {long}\n| {long} |\n");
    assert_eq!(long_lines("a.rs", &source), [3, 4, 5]);
    assert_eq!(long_lines("a.md", &source), [2, 3, 4]);
}

#[test]
fn marked_words_are_found_only_in_comments() {
    for (source, found) in [
        ("// Nobody reads it.", 1),
        ("/// After so\n/// many bytes.", 1),
        ("//! Nobody, and nobody else.", 2),
        ("// After so\nlet many = 1;\n// many bytes.", 0),
        ("// The nobody_reads option.", 0),
        ("let nobody = \"as it is\";", 0),
    ] {
        assert_eq!(marked_words(source).len(), found, "{source}");
    }
}
