//! The imports between files.
//!
//! An import is a path of a `use`, or a path in the code that begins with `crate`, `super`, `self`,
//! `$crate` or the name of a child module. Its target is the file that defines the item: re-exports
//! and other `use` lines are followed, so `use super::X` in a child, where another child defines X,
//! is an import from that child and not from the parent. A name that no `use` introduces counts as
//! an item of the file in which the modules of its path end (macros define many).
//!
//! Not an import: a `pub use` of an item of a descendant (a re-export by the parent), `mod name;`,
//! a path to another crate, test code, and the expansion of a macro from another file: a macro's
//! paths count where it is defined.

use super::source::{group_end, test_modules, tokens};
use std::collections::{BTreeMap, BTreeSet};

/// A module's path within the crate, without the crate: `["machine", "channel"]`.
pub(crate) type Path = Vec<String>;

/// A path in a `use`, made absolute if it refers to this crate.
#[derive(Debug)]
struct Use {
    path: Path,
    /// The name that it introduces; `*` for all.
    name: String,
    is_public: bool,
}

#[derive(Debug, Default)]
struct Module {
    file: String,
    uses: Vec<Use>,
    /// The absolute paths in the code outside of `use`.
    mentions: Vec<Path>,
}

/// The modules of a crate that have their own file.
#[derive(Debug)]
pub(crate) struct Crate(BTreeMap<Path, Module>);

/// Returns the module of a file, from its path below `src/`.
pub(crate) fn module_path(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" {
        Path::new()
    } else {
        path.split('/').map(str::to_owned).collect()
    }
}

impl Crate {
    /// Creates a crate from its sources, each with its path below `src/`.
    pub(crate) fn new(files: &BTreeMap<String, String>) -> Self {
        let mut paths: BTreeMap<Path, &str> =
            files.keys().map(|f| (module_path(f), f.as_str())).collect();
        for (file, source) in files {
            for name in test_modules(source) {
                let tests = [module_path(file), vec![name]].concat();
                paths.retain(|path, _| !path.starts_with(&tests));
            }
        }
        let modules = paths.iter().map(|(path, file)| {
            let tokens = tokens(&files[*file]);
            let mut module = Module {
                file: (*file).to_owned(),
                ..Module::default()
            };
            read(&tokens, path, &paths, &mut module);
            (path.clone(), module)
        });
        Self(modules.collect())
    }

    /// Returns every import, as the importing file and the files that it imports from.
    pub(crate) fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (path, module) in &self.0 {
            let to = imports.entry(&module.file).or_default();
            let used = module.uses.iter().filter_map(|import| {
                let target = self.resolve(&import.path, &mut Vec::new())?;
                let re_exports = import.is_public && target.starts_with(path) && target != path;
                (!re_exports).then_some(target)
            });
            let mentioned = module
                .mentions
                .iter()
                .filter_map(|path| self.resolve(path, &mut Vec::new()));
            to.extend(
                used.chain(mentioned)
                    .filter(|target| *target != path)
                    .map(|t| self.0[t].file.as_str()),
            );
        }
        imports
    }

    /// Returns the module that defines the item of a path; `None` for a path outside of the crate.
    fn resolve<'c>(&'c self, path: &[String], seen: &mut Vec<Path>) -> Option<&'c Path> {
        if seen.iter().any(|other| other == path) {
            return None;
        }
        seen.push(path.to_vec());
        let length = (0..=path.len())
            .rev()
            .find(|length| self.0.contains_key(&path[..*length]))?;
        let (module_path, module) = self.0.get_key_value(&path[..length])?;
        let Some(name) = path.get(length).filter(|name| *name != "*") else {
            return Some(module_path);
        };
        let mut named = module.uses.iter().filter(|import| import.name == *name);
        if let Some(import) = named.next() {
            // An item of another crate that this module imports counts as its own.
            return self.resolve(&import.path, seen).or(Some(module_path));
        }
        let globs = module
            .uses
            .iter()
            .filter(|import| import.name == "*" && import.is_public);
        for glob in globs {
            let through = [&glob.path[..glob.path.len() - 1], &path[length..]].concat();
            if let Some(found) = self.resolve(&through, seen) {
                return Some(found);
            }
        }
        Some(module_path)
    }
}

/// Collects what a file imports.
fn read(tokens: &[String], path: &Path, modules: &BTreeMap<Path, &str>, into: &mut Module) {
    // The inline modules, each with the depth of the braces at which it ends.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let (mut depth, mut at) = (0_usize, 0);
    let mut is_public = false;
    while let Some(token) = tokens.get(at) {
        let here: Path = path
            .iter()
            .chain(inline.iter().map(|(_, name)| name))
            .cloned()
            .collect();
        let before = at.checked_sub(1).map_or("", |before| &tokens[before]);
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(end, _)| *end <= depth);
            }
            "mod" if tokens.get(at + 2).is_some_and(|next| next == "{") => {
                inline.push((depth + 1, tokens[at + 1].clone()));
            }
            "pub" => {
                is_public = true;
                at += 1;
                if tokens.get(at).is_some_and(|next| next == "(") {
                    at = group_end(tokens, at);
                }
                continue;
            }
            "use" => {
                let end = at
                    + tokens[at..]
                        .iter()
                        .take_while(|token| *token != ";")
                        .count();
                let mut leaves = Vec::new();
                use_tree(&tokens[at + 1..end], Path::new(), &mut leaves);
                for (leaf, name) in leaves {
                    if let Some(path) = absolute(&leaf, &here, modules) {
                        into.uses.push(Use {
                            path,
                            name,
                            is_public,
                        });
                    }
                }
                at = end;
            }
            word if before != "::" && tokens.get(at + 1).is_some_and(|next| next == "::") => {
                let mut leaf = vec![word.to_owned()];
                while tokens.get(at + 1).is_some_and(|next| next == "::") {
                    let Some(next) = tokens.get(at + 2).filter(|next| is_name(next)) else {
                        break;
                    };
                    leaf.push(next.clone());
                    at += 2;
                }
                into.mentions.extend(absolute(&leaf, &here, modules));
            }
            _ => {}
        }
        is_public = false;
        at += 1;
    }
}

fn is_name(token: &str) -> bool {
    token.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Collects the paths of a `use`, each with the name that it introduces.
fn use_tree(tokens: &[String], prefix: Path, leaves: &mut Vec<(Path, String)>) {
    let mut path = prefix.clone();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                let end = group_end(tokens, at);
                let mut part = at + 1;
                while part < end - 1 {
                    let mut stop = part;
                    while stop < end - 1 && tokens[stop] != "," {
                        stop = if tokens[stop] == "{" {
                            group_end(tokens, stop)
                        } else {
                            stop + 1
                        };
                    }
                    use_tree(&tokens[part..stop], path.clone(), leaves);
                    part = stop + 1;
                }
                return;
            }
            "as" => break,
            "::" | "$" => {}
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    if path == prefix && tokens.first().is_none_or(|token| token != "self") {
        return;
    }
    let name = match tokens.get(at) {
        Some(_) => tokens.last().cloned(),
        None => path.last().cloned(),
    };
    leaves.push((path, name.unwrap_or_default()));
}

/// Returns a path from the crate's root; `None` if it refers to another crate or to no module.
fn absolute(path: &[String], here: &[String], modules: &BTreeMap<Path, &str>) -> Option<Path> {
    let mut base = here.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => (base, rest) = (Path::new(), &rest[1..]),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        name => {
            base.push(name.to_owned());
            if !modules.contains_key(&base) {
                return None;
            }
            rest = &rest[1..];
        }
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// Returns the cycles of imports, each as its files: the shortest cycle of each file that is part
/// of one.
pub(crate) fn cycles<'f>(imports: &BTreeMap<&'f str, BTreeSet<&'f str>>) -> Vec<Vec<&'f str>> {
    let ways = imports.keys().filter_map(|start| {
        let mut ways = vec![vec![*start]];
        let mut seen = BTreeSet::new();
        while !ways.is_empty() {
            let mut longer = Vec::new();
            for way in ways {
                for next in imports.get(way[way.len() - 1]).into_iter().flatten() {
                    if next == start {
                        return Some(way);
                    }
                    if seen.insert(*next) {
                        longer.push([&way[..], &[*next]].concat());
                    }
                }
            }
            ways = longer;
        }
        None
    });
    let mut distinct: BTreeMap<BTreeSet<&str>, Vec<&str>> = BTreeMap::new();
    for way in ways {
        distinct.entry(way.iter().copied().collect()).or_insert(way);
    }
    distinct.into_values().collect()
}
