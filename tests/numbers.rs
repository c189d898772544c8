//! Compares the list of cases, `tests/numbers.txt`, with the tests that name their numbers: every
//! case has a test or a reason why it needs none, and no test names a number that is not in the
//! list. `tests/README.md` explains the numbers.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The letters of the kinds of cases, as `tests/README.md` lists them.
const KINDS: &str = "AESRIVM";

/// The letter of a kind, and the number of a case of this kind.
type Number = (char, u32);

/// A case of the list.
#[derive(Debug, Default)]
struct Case {
    /// The tests that show the case without its number.
    shown_by: Vec<String>,
    /// The reason why the case needs no test.
    untested_because: Option<String>,
}

/// Returns the numbers at the start of a name, such as those of `s10_s11_r10_close_wins`.
fn numbers_of(name: &str) -> Vec<Number> {
    name.split('_').map_while(number).collect()
}

/// Parses a number such as `s10`. Returns `None` for any other word.
fn number(word: &str) -> Option<Number> {
    let kind = word.chars().next()?.to_ascii_uppercase();
    let digits = word.get(1..)?;
    let is_number = KINDS.contains(kind) && (1..=2).contains(&digits.len());
    if is_number {
        Some((kind, digits.parse().ok()?))
    } else {
        None
    }
}

/// Parses the list of cases. Panics if it has a fault.
fn parse_list(text: &str) -> BTreeMap<Number, Case> {
    let mut cases = BTreeMap::new();
    let mut last = None;
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words = || line.split_whitespace();
        if line.starts_with(' ') {
            let case: &mut Case = last
                .and_then(|last| cases.get_mut(&last))
                .expect("a number precedes the line");
            match words().next() {
                Some("by") => case.shown_by.extend(words().skip(1).map(str::to_owned)),
                Some("not") if words().count() > 3 => {
                    case.untested_because = Some(line.trim().to_owned());
                }
                _ => panic!("expected `by TEST` or `not REASON`, found {line}"),
            }
            continue;
        }
        let number = words()
            .next()
            .and_then(number)
            .unwrap_or_else(|| panic!("expected a number, found {line}"));
        assert!(words().count() > 1, "the number has no description: {line}");
        assert!(
            cases.insert(number, Case::default()).is_none(),
            "the number is listed twice: {line}"
        );
        last = Some(number);
    }
    cases
}

/// Returns the functions that are tests: those after `#[test]`, and those with the world of the
/// suite as an argument.
fn tests(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    let mut lines = source.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.starts_with("#[test]") {
            is_test = true;
        } else if let Some((before, after)) = line.split_once("fn ") {
            let is_function = before.is_empty() || before.ends_with(' ');
            let name: String = after
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            // The arguments may be on lines of their own.
            let arguments = lines.clone().take_while(|line| !line.starts_with(')'));
            let takes_world = after.contains("World<")
                || after.ends_with('(')
                    && arguments.into_iter().any(|line| line.contains("World<"));
            if is_function && (is_test || takes_world) {
                tests.push(name);
            }
            is_test = false;
        }
    }
    tests
}

/// Adds the Rust files below a folder to a list.
fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Returns all tests of the project.
fn all_tests() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    ["src", "tests", "runtimes"]
        .iter()
        .for_each(|folder| rust_files(&root.join(folder), &mut files));
    files
        .iter()
        .flat_map(|file| tests(&fs::read_to_string(file).unwrap()))
        .collect()
}

/// Returns the cases of `tests/numbers.txt`.
fn listed_cases() -> BTreeMap<Number, Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/numbers.txt");
    parse_list(&fs::read_to_string(path).unwrap())
}

#[test]
fn every_case_has_a_test_or_a_reason() {
    let tests = all_tests();
    let names: BTreeSet<&str> = tests.iter().map(String::as_str).collect();
    let named: BTreeSet<Number> = tests.iter().flat_map(|name| numbers_of(name)).collect();
    let mut missing = Vec::new();
    for (number, case) in listed_cases() {
        for test in &case.shown_by {
            assert!(
                names.contains(&**test),
                "{number:?}: there is no test {test}"
            );
        }
        let is_shown = named.contains(&number) || !case.shown_by.is_empty();
        assert!(
            !is_shown || case.untested_because.is_none(),
            "{number:?} has a test, and the list says that it needs none"
        );
        if !is_shown && case.untested_because.is_none() {
            missing.push(format!("{}{}", number.0, number.1));
        }
    }
    assert!(missing.is_empty(), "no test shows {missing:?}");
}

#[test]
fn tests_name_only_listed_numbers() {
    let cases = listed_cases();
    for name in all_tests() {
        for number in numbers_of(&name) {
            assert!(cases.contains_key(&number), "{name} names {number:?}");
        }
    }
}

/// The table of kinds in `tests/README.md` has the same letters.
#[test]
fn readme_explains_each_kind() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/README.md");
    let text = fs::read_to_string(path).unwrap();
    let letters: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .filter(|(letter, _)| letter.len() == 1)
        .map(|(letter, _)| letter.to_ascii_uppercase())
        .collect();
    assert_eq!(letters, KINDS);
}

#[test]
fn numbers_are_read_from_a_names_start() {
    assert_eq!(
        numbers_of("s10_s11_r10_close_wins_a01"),
        [('S', 10), ('S', 11), ('R', 10)]
    );
    assert_eq!(numbers_of("a07_a_frame"), [('A', 7)]);
    for name in ["a_frame", "e100", "x01_all", "an_e5", "e"] {
        assert_eq!(numbers_of(name), [], "{name}");
    }
    assert_eq!(
        tests(
            "#[test]\nfn a01_x() {}\nfn helper() {}\npub async fn s2_y(w: World<R>) {}
            pub async fn e3_z<R: Runtime>(\nw: World<R>,\n) {\nfn other(\na: A,\n) {}"
        ),
        ["a01_x", "s2_y", "e3_z"]
    );
}

#[test]
#[should_panic(expected = "twice")]
fn numbers_are_listed_once() {
    parse_list("A1 one\nA1 another");
}
