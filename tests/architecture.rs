//! The structure of the source: modules import only from lower layers, no file is part of a cycle
//! of imports, the core depends on no runtime, and the state machine does no I/O, reads no clock,
//! and has no lock. Its types are small, and their files do not call each other in a cycle. The
//! documents about the code name paths and functions that exist. Lines of code, scripts and
//! documents have at most 100 columns, and comments, names and documents avoid marked words.
//!
//! The definition of an import is at the top of `architecture/imports.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

#[path = "architecture/detection.rs"]
mod detection;
#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/source.rs"]
mod source;
#[path = "architecture/text.rs"]
mod text;
#[path = "architecture/types.rs"]
mod types;

use detection::small;
use imports::{Crate, cycles, module_path};
use source::tokens;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};
use types::{Type, functions_above, types};

/// The layers of the crate, the lowest first. A module may import from its own layer and from those
/// below.
const LAYERS: [&[&str]; 9] = [
    &["protocol", "fairness"],
    // The contents of errors, which do not depend on the errors.
    &["message", "uri"],
    &["error"],
    &["options"],
    &["machine"],
    &["link", "tls"],
    &["driver", "client"],
    &["evented"],
    &["lib"],
];

/// Modules of one layer that must not import from each other.
const APART: [(&str, &str); 1] = [("driver", "client")];

/// Crates that would choose a runtime for the user.
const RUNTIMES: [&str; 17] = [
    "actix-rt",
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-net",
    "async-process",
    "async-std",
    "compio",
    "embassy-executor",
    "embassy-time",
    "glommio",
    "mio",
    "monoio",
    "smol",
    "tokio",
    "tokio-util",
    "wasm-bindgen-futures",
];

/// Names that must not be used in the state machine: I/O, clocks, locks, wakers, threads, shared
/// ownership.
const NOT_IN_THE_MACHINE: [&[&str]; 15] = [
    &["io", "::", "Read"],
    &["io", "::", "Write"],
    &["std", "::", "net"],
    &["std", "::", "fs"],
    &["TcpStream"],
    &["UdpSocket"],
    &["UnixStream"],
    &["Instant", "::", "now"],
    &["SystemTime"],
    &["Mutex"],
    &["RwLock"],
    &["Waker"],
    &["thread"],
    &["Arc"],
    &["async"],
];

/// Documents that lead into the code.
const DOCUMENTS: [&str; 3] = ["ARCHITECTURE.md", "CONTRIBUTING.md", "tests/README.md"];

/// The maximum number of lines of a file.
const MOST_LINES: usize = 500;

/// The maximum number of lines of a function.
const MOST_LINES_OF_A_FUNCTION: usize = 60;

/// The maximum size of the inherent impls of a type of the state machine: their lines together, and
/// the number of files that they are in.
const MOST_LINES_OF_A_TYPE: usize = 900;
const MOST_FILES_OF_A_TYPE: usize = 5;

/// The maximum number of fields and methods of `Connection`. Behaviour belongs to its parts.
const MOST_FIELDS: usize = 20;
const MOST_METHODS: usize = 90;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Returns every Rust file below a folder, by its path in it.
fn files_below(folder: &Path) -> BTreeMap<String, String> {
    selected_below(folder, |path| {
        path.extension().is_some_and(|extension| extension == "rs")
    })
}

/// Returns the selected files below a folder, by their paths in it.
fn selected_below(folder: &Path, is_selected: fn(&Path) -> bool) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else if is_selected(&path) {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_string_lossy()
                    .replace('\\', "/");
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn sources() -> BTreeMap<String, String> {
    let files = files_below(&root().join("src"));
    assert!(files.contains_key("lib.rs"), "src/lib.rs is missing");
    files
}

/// Returns the top-level module of a file, `lib` for the crate itself.
fn top(file: &str) -> String {
    module_path(file)
        .first()
        .cloned()
        .unwrap_or_else(|| "lib".to_owned())
}

fn layer(file: &str) -> usize {
    let top = top(file);
    LAYERS
        .iter()
        .position(|layer| layer.contains(&top.as_str()))
        .unwrap_or_else(|| {
            panic!("{file}: no layer has `{top}`; give it one in tests/architecture.rs")
        })
}

/// Returns the imports from higher layers, and those between modules that must not import from each
/// other.
fn upward(source: &Crate) -> Vec<String> {
    let mut wrong = Vec::new();
    for (from, targets) in source.imports() {
        for to in targets {
            let apart = |a: &str, b: &str| top(from) == a && top(to) == b;
            if layer(to) > layer(from) || APART.iter().any(|(a, b)| apart(a, b) || apart(b, a)) {
                wrong.push(format!("{from} imports from {to}"));
            }
        }
    }
    wrong
}

fn mentions(source: &str, words: &[&str]) -> bool {
    tokens(source)
        .windows(words.len())
        .any(|window| window.iter().eq(words.iter()))
}

#[test]
fn no_module_imports_from_a_layer_above() {
    let wrong = upward(&Crate::new(&sources()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let files = sources();
    let source = Crate::new(&files);
    let cycles: Vec<String> = cycles(&source.imports())
        .iter()
        .map(|cycle| cycle.join(" -> "))
        .collect();
    assert!(
        cycles.is_empty(),
        "files that import each other in a cycle:\n{}",
        cycles.join("\n")
    );
}

#[test]
fn core_depends_on_no_runtime() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args([
            "tree",
            "--edges",
            "normal",
            "--all-features",
            "--package",
            "puka",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        names.contains(&"puka") && names.contains(&"bytes"),
        "not the dependency tree of puka: {tree}"
    );
    let runtimes: Vec<_> = names
        .iter()
        .filter(|name| RUNTIMES.contains(name))
        .collect();
    assert!(runtimes.is_empty(), "the core depends on {runtimes:?}");
}

#[test]
fn machine_is_sans_io() {
    for (file, source) in sources() {
        if top(&file) != "machine" {
            continue;
        }
        for words in NOT_IN_THE_MACHINE {
            assert!(
                !mentions(&source, words),
                "src/{file} mentions {}",
                words.concat()
            );
        }
    }
}

#[test]
fn only_the_link_has_a_lock() {
    for (file, source) in sources() {
        assert!(
            top(&file) == "link" || !mentions(&source, &["Mutex"]),
            "src/{file} names Mutex"
        );
    }
}

#[test]
fn every_file_begins_with_a_module_comment() {
    for folder in [
        "src",
        "runtimes",
        "tests/broker/src",
        "tests/vectors",
        "tests/architecture",
    ] {
        let files = files_below(&root().join(folder));
        assert!(!files.is_empty(), "{folder} has no files");
        for (file, source) in files {
            assert!(
                source.starts_with("//! "),
                "{folder}/{file} does not begin with //!"
            );
        }
    }
}

#[test]
fn no_file_exceeds_the_line_limit() {
    for (file, source) in sources() {
        let lines = source.lines().count();
        assert!(
            lines <= MOST_LINES,
            "src/{file} has {lines} lines; split it"
        );
    }
}

/// Returns the words in backticks of a document, without its code blocks.
fn quoted(document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let prose: String = text.split("```").step_by(2).collect();
    let words: Vec<String> = prose
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(words.len() > 50, "{document}: the words must be found");
    words
}

#[test]
fn documents_name_existing_paths() {
    let sources = sources();
    for document in DOCUMENTS {
        for path in quoted(document) {
            let is_path = path.contains('/') || path.ends_with(".rs");
            // A command is more than a path.
            if is_path && !path.contains(' ') {
                // A table may name files from the folder that it is about.
                let is_source = sources
                    .keys()
                    .any(|file| file.ends_with(&format!("/{path}")));
                assert!(
                    is_source || root().join(&path).exists(),
                    "{document} names {path}"
                );
            }
        }
    }
}

#[test]
fn architecture_names_existing_functions() {
    let sources: String = sources().into_values().collect();
    for word in quoted("ARCHITECTURE.md") {
        let name = word.rsplit("::").next().unwrap_or_default();
        let is_snake_case = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_snake_case && (name.contains('_') || name != word) {
            let is_function = ["(", "<"]
                .iter()
                .any(|next| sources.contains(&format!("fn {name}{next}")));
            assert!(is_function, "ARCHITECTURE.md names {word}");
        }
    }
}

/// Returns the types of the state machine, or of a small crate.
fn types_of_machine(files: &BTreeMap<String, String>) -> BTreeMap<String, Type> {
    let mut files = files.clone();
    files.retain(|file, _| top(file) == "machine");
    types(&files)
}

/// Returns the types that are too large to be understood.
fn oversized(types: &BTreeMap<String, Type>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, it) in types {
        let (files, lines) = (it.lines.len(), it.lines.values().sum::<usize>());
        if files > MOST_FILES_OF_A_TYPE {
            wrong.push(format!("the impls of {name} are in {files} files"));
        }
        if lines > MOST_LINES_OF_A_TYPE {
            wrong.push(format!("the impls of {name} have {lines} lines"));
        }
        if name == "Connection" && it.fields > MOST_FIELDS {
            wrong.push(format!("{name} has {} fields", it.fields));
        }
        if name == "Connection" && it.methods > MOST_METHODS {
            wrong.push(format!("{name} has {} methods", it.methods));
        }
    }
    wrong
}

#[test]
fn types_of_the_state_machine_are_small() {
    let types = types_of_machine(&sources());
    let connection = &types["Connection"];
    assert!(
        connection.fields >= 3 && connection.methods > 50,
        "the parts must be found"
    );
    assert_eq!(oversized(&types), Vec::<String>::new());
}

/// Returns a small crate with one type in the state machine.
fn small_type(
    files: usize,
    fields: usize,
    methods: usize,
    lines: usize,
) -> BTreeMap<String, String> {
    let body = "        self.field;\n".repeat(lines);
    let method = |n: usize| format!("    pub(crate) fn method{n}(&self) {{\n{body}    }}\n");
    let field = |n: usize| format!("    pub(crate) field{n}: Vec<(u8, u8)>,\n");
    let fields: String = (0..fields).map(field).collect();
    let methods: String = (0..methods).map(method).collect();
    let structure = format!("pub struct Connection {{\n    /// A: b.\n{fields}}}\n");
    let mut all = BTreeMap::from([("machine/mod.rs".to_owned(), structure)]);
    for n in 1..files {
        all.insert(
            format!("machine/{n}.rs"),
            "impl Connection {\n}\n".to_owned(),
        );
    }
    all.insert(
        "machine/methods.rs".to_owned(),
        format!("impl Connection {{\n{methods}}}\n"),
    );
    all
}

#[test]
fn an_oversized_type_is_found() {
    for ((files, fields, methods, lines), found) in [
        ((5, 20, 90, 1), None),
        (
            (6, 20, 90, 1),
            Some("the impls of Connection are in 6 files"),
        ),
        ((5, 21, 90, 1), Some("Connection has 21 fields")),
        ((5, 20, 91, 1), Some("Connection has 91 methods")),
        ((5, 20, 9, 98), None),
        (
            (5, 20, 9, 99),
            Some("the impls of Connection have 909 lines"),
        ),
    ] {
        let wrong = oversized(&types_of_machine(&small_type(
            files, fields, methods, lines,
        )));
        assert_eq!(wrong.first().map(String::as_str), found, "{wrong:?}");
        assert!(wrong.len() < 2, "{wrong:?}");
    }
}

#[test]
fn impls_of_traits_are_not_inherent() {
    let files = small(&[(
        "machine/mod.rs",
        "impl fmt::Debug for Connection {\n    fn fmt(&self) {\n    }\n}\n",
    )]);
    let connection = &types_of_machine(&files)["Connection"];
    assert_eq!((connection.methods, connection.lines.len()), (0, 0));
}

#[test]
fn no_function_exceeds_the_line_limit() {
    for (file, source) in sources() {
        let above = functions_above(MOST_LINES_OF_A_FUNCTION, &source);
        assert!(
            above.is_empty(),
            "split these functions of src/{file}: {above:?}"
        );
    }
}

#[test]
fn a_long_function_is_found() {
    for (before, end, found) in [
        ("fn f() {\n", "}\n", true),
        (
            "    pub(crate) async fn f<T>(\n        it: T,\n    ) {\n",
            "    }\n",
            true,
        ),
        ("    fn f();\n", "", false),
        ("    fn g();\n    fn f() {}\n", "}\n", false),
        ("// fn f() {\n", "}\n", false),
    ] {
        let source = |lines: usize| format!("{before}{}{end}", "        x;\n".repeat(lines));
        let names: Vec<_> = functions_above(60, &source(60))
            .into_iter()
            .map(|(it, _)| it)
            .collect();
        assert_eq!(names, if found { vec!["f"] } else { vec![] }, "{before}");
        assert!(functions_above(60, &source(50)).is_empty(), "{before}");
    }
}

/// Returns the cycles of calls on `self` among the methods of each type.
fn recursions(types: &BTreeMap<String, Type>) -> Vec<Vec<&str>> {
    let cycles_of = |it| cycles(&Type::calls_among_methods(it));
    types.values().flat_map(cycles_of).collect()
}

/// Users and peers decide how many consumers, requests or messages there are, so they would decide
/// the depth of a recursion, too.
#[test]
fn no_method_of_the_state_machine_recurses() {
    let types = types_of_machine(&sources());
    let methods = types.values().map(|it| it.calls_among_methods().len());
    assert!(methods.sum::<usize>() > 500, "the methods must be found");
    assert_eq!(recursions(&types), Vec::<Vec<&str>>::new());
}

/// Returns the cycles of calls on `self` among the files of each type.
fn knots(types: &BTreeMap<String, Type>) -> Vec<Vec<&str>> {
    let cycles_of = |it| cycles(&Type::calls_among_files(it));
    types.values().flat_map(cycles_of).collect()
}

/// A reader can begin with the file that calls no other file, and never needs to understand two
/// files at once.
#[test]
fn no_files_of_a_type_call_each_other_in_a_cycle() {
    assert_eq!(
        knots(&types_of_machine(&sources())),
        Vec::<Vec<&str>>::new()
    );
}

#[test]
fn cycle_of_calls_among_files_is_detected() {
    let one =
        "impl C {\n    fn one(&self) {\n        self.two()\n    }\n    fn three(&self) {}\n}\n";
    for (call, found) in [("self.three()", true), ("self.parts.three()", false)] {
        let two = format!("impl C {{\n    fn two(&self) {{\n        {call}\n    }}\n}}\n");
        let types = types_of_machine(&small(&[("machine/a.rs", one), ("machine/b.rs", &two)]));
        let expected: &[[&str; 2]] = if found {
            &[["machine/a.rs", "machine/b.rs"]]
        } else {
            &[]
        };
        assert_eq!(knots(&types), expected, "{call}");
        assert_eq!(recursions(&types), Vec::<Vec<&str>>::new());
    }
}
