//! Which file imports which.
//!
//! An import is a path of a `use`, or a path in the code that begins with `crate`, `super`, `self`, `$crate` or the name
//! of a child module. It leads to the file that defines the item: re-exports and other `use` lines on the way are
//! followed, so `use super::X` in a child where another child defines X leads there and not to their parent. What no
//! `use` brings in is taken for an item of the file where the path's modules end (macros define many).
//!
//! Not an import: a `pub use` of something in a descendant (a parent that re-exports), `mod name;`, a path to another
//! crate, what is compiled for tests only, and what a macro of another file expands to: a macro's paths count where it is
//! defined.

use super::source::{group_end, test_modules, tokens};
use std::collections::{BTreeMap, BTreeSet};

/// A module's path within the crate, without the crate: `["machine", "channel"]`.
pub(crate) type Path = Vec<String>;

/// A path in a `use`, made absolute where it leads into the crate.
#[derive(Debug)]
struct Use {
    path: Path,
    /// The name it has from here on; `*` for all.
    name: String,
    is_public: bool,
}

#[derive(Debug, Default)]
struct Module {
    file: String,
    uses: Vec<Use>,
    /// Absolute paths in the code outside of `use`.
    mentions: Vec<Path>,
}

/// The modules of a crate that are files.
#[derive(Debug)]
pub(crate) struct Crate(BTreeMap<Path, Module>);

/// The module that a file is, by its place below `src/`.
pub(crate) fn module_path(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Path::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl Crate {
    /// Reads sources, each by its place below `src/`.
    pub(crate) fn new(files: &BTreeMap<String, String>) -> Self {
        let mut paths: BTreeMap<Path, &str> = files.keys().map(|f| (module_path(f), f.as_str())).collect();
        for (file, source) in files {
            for name in test_modules(source) {
                let tests = [module_path(file), vec![name]].concat();
                paths.retain(|path, _| !path.starts_with(&tests));
            }
        }
        let modules = paths.iter().map(|(path, file)| {
            let tokens = tokens(&files[*file]);
            let mut module = Module { file: (*file).to_owned(), ..Module::default() };
            read(&tokens, path, &paths, &mut module);
            (path.clone(), module)
        });
        Self(modules.collect())
    }

    /// Every import, as the files it leads from and to.
    pub(crate) fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (path, module) in &self.0 {
            let to = imports.entry(&module.file).or_default();
            let used = module.uses.iter().filter_map(|import| {
                let target = self.resolve(&import.path, &mut Vec::new())?;
                let re_exports = import.is_public && target.starts_with(path) && target != path;
                (!re_exports).then_some(target)
            });
            let mentioned = module.mentions.iter().filter_map(|path| self.resolve(path, &mut Vec::new()));
            to.extend(
                used.chain(mentioned).filter(|target| *target != path).map(|t| self.0[t].file.as_str()),
            );
        }
        imports
    }

    /// The module that defines what a path names; `None` for what is outside of the crate.
    fn resolve<'c>(&'c self, path: &[String], seen: &mut Vec<Path>) -> Option<&'c Path> {
        if seen.iter().any(|other| other == path) {
            return None;
        }
        seen.push(path.to_vec());
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let (module_path, module) = self.0.get_key_value(&path[..length])?;
        let Some(name) = path.get(length).filter(|name| *name != "*") else { return Some(module_path) };
        let mut named = module.uses.iter().filter(|import| import.name == *name);
        if let Some(import) = named.next() {
            // Another crate's item, which this module has brought in, counts as this module's own.
            return self.resolve(&import.path, seen).or(Some(module_path));
        }
        let globs = module.uses.iter().filter(|import| import.name == "*" && import.is_public);
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
    // Inline modules by the depth of the braces that they end at.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let (mut depth, mut at) = (0_usize, 0);
    let mut is_public = false;
    while let Some(token) = tokens.get(at) {
        let here: Path = path.iter().chain(inline.iter().map(|(_, name)| name)).cloned().collect();
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
                let end = at + tokens[at..].iter().take_while(|token| *token != ";").count();
                let mut leaves = Vec::new();
                use_tree(&tokens[at + 1..end], Path::new(), &mut leaves);
                for (leaf, name) in leaves {
                    if let Some(path) = absolute(&leaf, &here, modules) {
                        into.uses.push(Use { path, name, is_public });
                    }
                }
                at = end;
            }
            word if before != "::" && tokens.get(at + 1).is_some_and(|next| next == "::") => {
                let mut leaf = vec![word.to_owned()];
                while tokens.get(at + 1).is_some_and(|next| next == "::") {
                    let Some(next) = tokens.get(at + 2).filter(|next| is_name(next)) else { break };
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

/// The paths of a `use`, each with the name that it gives.
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
                        stop = if tokens[stop] == "{" { group_end(tokens, stop) } else { stop + 1 };
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

/// A path as seen from the crate's root; `None` when it leads to another crate or is no module's.
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

/// The cycles among imports: of each file that is part of one the shortest, as the files along it.
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
