//! The checks detect faults in small crates.

use crate::imports::{Crate, cycles};
use crate::{mentions, recursions, types_of_machine, upward};
use std::collections::BTreeMap;

#[test]
fn recursion_is_detected() {
    let files = small(&[
        (
            "machine/a.rs",
            "impl C {\n    fn answer(&mut self) {\n        self.dispose()\n    }\n\
             \x20   fn lone(&self) {\n        self.answer();\n    }\n}\n\
             impl D {\n    fn dispose(&mut self) {\n        self.answer()\n    }\n}\n",
        ),
        (
            "machine/b.rs",
            "impl<T> C<T>\nwhere\n    T: U,\n{\n    fn dispose(&mut self) {\n\
             \x20       if true { self.release(1); }\n    }\n}\n",
        ),
        (
            "machine/c.rs",
            "impl Drop for C {\n    fn release(&mut self, n: u16) {\n\
             \x20       Self::answer(self)\n    }\n}\n",
        ),
    ]);
    let types = types_of_machine(&files);
    assert_eq!(recursions(&types), [["answer", "dispose", "release"]]);
}

/// Returns the files of a small crate.
pub(crate) fn small(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files
        .iter()
        .map(|(name, source)| ((*name).to_owned(), (*source).to_owned()))
        .collect()
}

/// Returns the files that a file of a small crate imports from.
fn imports_of<'f>(source: &'f Crate, file: &str) -> Vec<&'f str> {
    source.imports()[file].iter().copied().collect()
}

#[test]
fn upward_import_is_detected() {
    for (line, found) in [
        ("use crate::machine::Machine;", true),
        ("use crate::{machine::{self, Machine}, error::Error};", true),
        ("fn f() -> crate::machine::Machine { todo!() }", true),
        (
            "macro_rules! m { () => { $crate::machine::Machine } }",
            true,
        ),
        ("use super::machine;", true),
        ("pub use crate::machine::Machine;", true),
        ("use crate::Machine;", true),
        ("use crate::error::Error;", true),
        (
            "#[cfg(test)] mod tests { use crate::machine::Machine; }",
            false,
        ),
        (
            "#[cfg(test)]\n#[expect(x, reason = \"y\")]\nfn f(_: [u8; 2]) { crate::machine::f() }",
            false,
        ),
        ("// use crate::machine::Machine;", false),
        ("/* use /* crate */ crate::machine::Machine; */", false),
        ("const A: &str = \"use crate::machine::Machine;\";", false),
        ("const A: &str = r#\"\" crate::machine::Machine\"#;", false),
        (
            "const A: char = '\"'; const B: &str = \"crate::machine::A\";",
            false,
        ),
        ("use bytes::Bytes; use std::fmt;", false),
    ] {
        let files = small(&[
            (
                "lib.rs",
                "mod error; mod machine; mod protocol; pub use machine::Machine;",
            ),
            ("error.rs", "pub struct Error;"),
            (
                "machine/mod.rs",
                "use crate::error::Error; pub struct Machine(Error);",
            ),
            ("protocol/mod.rs", line),
        ]);
        assert_eq!(!upward(&Crate::new(&files)).is_empty(), found, "{line}");
    }
}

#[test]
fn import_between_driver_and_client_is_found() {
    for (driver, client) in [("use crate::client::C;", ""), ("", "use crate::driver::D;")] {
        let files = small(&[
            ("lib.rs", ""),
            ("driver/mod.rs", driver),
            ("client/mod.rs", client),
        ]);
        assert_eq!(upward(&Crate::new(&files)).len(), 1);
    }
}

#[test]
fn module_without_a_layer_is_detected() {
    let files = small(&[("lib.rs", "use crate::helpers::help;"), ("helpers.rs", "")]);
    assert!(std::panic::catch_unwind(|| upward(&Crate::new(&files))).is_err());
}

#[test]
fn import_cycle_is_detected() {
    for (a, b, c, found) in [
        ("use super::b::B;", "use super::a::A;", "", true),
        ("use super::B;", "use super::A;", "", true),
        (
            "use super::b::B;",
            "use crate::m::c::C;",
            "use crate::m::A;",
            true,
        ),
        (
            "fn f(b: super::b::B) {}",
            "type A = crate::m::a::A;",
            "",
            true,
        ),
        (
            "mod inner { use super::super::b::B; }",
            "use super::a::*;",
            "",
            true,
        ),
        ("use super::B as Bee;", "use super::c::C;", "", false),
        (
            "use super::b::B;",
            "use self::inner::A; mod inner { pub struct A; }",
            "",
            false,
        ),
        (
            "use super::b::B;",
            "#[cfg(test)] mod tests { use crate::m::a::A; }",
            "",
            false,
        ),
        (
            "use super::Own;",
            "use super::{Own, c::{self, C}};",
            "",
            false,
        ),
    ] {
        let files = small(&[
            ("lib.rs", "pub mod m;"),
            (
                "m/mod.rs",
                "mod a; mod b; mod c; pub use a::A; pub use b::B; pub(crate) use c::*; pub struct \
                 Own;",
            ),
            ("m/a.rs", a),
            ("m/b.rs", b),
            ("m/c.rs", c),
        ]);
        let source = Crate::new(&files);
        assert_eq!(
            !cycles(&source.imports()).is_empty(),
            found,
            "{a} | {b} | {c}"
        );
    }
}

#[test]
fn mutual_parent_child_imports_are_a_cycle() {
    for (parent, child, found) in [
        (
            "mod child; pub use child::C; pub struct P;",
            "use super::P;",
            false,
        ),
        (
            "mod child; use child::C; pub struct P(C);",
            "use super::P;",
            true,
        ),
        ("mod child; pub struct P(child::C);", "use super::P;", true),
        (
            "mod child; use child::C; pub struct P(C);",
            "use super::super::lib_item;",
            false,
        ),
    ] {
        let files = small(&[
            ("lib.rs", "mod m;"),
            ("m.rs", parent),
            ("m/child.rs", child),
        ]);
        let source = Crate::new(&files);
        assert_eq!(
            !cycles(&source.imports()).is_empty(),
            found,
            "{parent} | {child}"
        );
    }
}

#[test]
fn import_resolves_to_the_defining_file() {
    let files = small(&[
        (
            "lib.rs",
            "mod a; mod b; pub use a::{Deep as Renamed, deeper};",
        ),
        (
            "a/mod.rs",
            "mod deeper; pub use deeper::Deep; use bytes::Bytes; pub struct Shallow;",
        ),
        (
            "a/deeper.rs",
            "pub struct Deep; pub const N: u8 = b'\\''; pub fn life<'a>(_: &'a u8) {}",
        ),
        (
            "b.rs",
            "use crate::Renamed; use crate::a::Shallow; use crate::a::Bytes; fn f() { \
             super::deeper::g() }",
        ),
        (
            "c.rs",
            "use crate::a::{Deep, self}; #[cfg(test)] mod tests;",
        ),
        ("c/tests.rs", "use crate::b::*;"),
        ("d.rs", "use crate::{a::{self as x, deeper::{N}}, b as y};"),
    ]);
    let source = Crate::new(&files);
    assert_eq!(imports_of(&source, "b.rs"), ["a/deeper.rs", "a/mod.rs"]);
    assert_eq!(imports_of(&source, "c.rs"), ["a/deeper.rs", "a/mod.rs"]);
    assert_eq!(
        imports_of(&source, "d.rs"),
        ["a/deeper.rs", "a/mod.rs", "b.rs"]
    );
    assert_eq!(imports_of(&source, "lib.rs"), Vec::<&str>::new());
    assert!(
        !source.imports().contains_key("c/tests.rs"),
        "test modules must be ignored"
    );
}

#[test]
fn forbidden_names_are_found_only_in_code() {
    for (source, found) in [
        ("let now = Instant::now();", true),
        ("let now = std::time::Instant :: now();", true),
        ("/// Never calls `Instant::now`.", false),
        (
            "#[cfg(test)] mod tests { fn f() { Instant::now(); } }",
            false,
        ),
        ("let a = \"Instant::now\";", false),
        ("let instant = now;", false),
    ] {
        assert_eq!(
            mentions(source, &["Instant", "::", "now"]),
            found,
            "{source}"
        );
    }
}
