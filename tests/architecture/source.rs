//! Rust source as tokens, without comments, strings and test code.
//!
//! This is not a compiler: it is enough to find paths, declarations and forbidden names.

/// Returns the tokens of a source: identifiers (raw ones without `r#`), `::` as one token, other
/// punctuation as single characters.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    without_tests(&lex(source))
}

/// Returns the tokens of a source with its test code.
pub(crate) fn lex(source: &str) -> Vec<String> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        at = match c {
            '/' if next == Some('/') => line_end(&chars, at),
            '/' if next == Some('*') => comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            'r' | 'b' | 'c' if literal_prefix(&chars, at).is_some() => {
                literal_prefix(&chars, at).unwrap()
            }
            '\'' => quote_end(&chars, at),
            ':' if next == Some(':') => {
                tokens.push("::".to_owned());
                at + 2
            }
            c if is_word(c) => {
                let end = word_end(&chars, at);
                let word: String = chars[at..end].iter().collect();
                let is_raw = word == "r" && chars.get(end) == Some(&'#');
                if !is_raw {
                    tokens.push(word);
                }
                if is_raw { end + 1 } else { end }
            }
            c if c.is_whitespace() => at + 1,
            c => {
                tokens.push(c.to_string());
                at + 1
            }
        };
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_end(chars: &[char], at: usize) -> usize {
    at + chars[at..].iter().take_while(|c| is_word(**c)).count()
}

fn line_end(chars: &[char], at: usize) -> usize {
    at + chars[at..].iter().take_while(|c| **c != '\n').count()
}

/// Returns the end of a block comment. Block comments nest.
fn comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns the end of a string, from after its opening quote.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// Returns the end of a raw, byte or C string, or of a byte, that begins here; `None` for an
/// ordinary word.
fn literal_prefix(chars: &[char], at: usize) -> Option<usize> {
    let end = word_end(chars, at);
    let prefix: String = chars[at..end].iter().collect();
    if !["r", "b", "br", "c", "cr"].contains(&prefix.as_str()) {
        return None;
    }
    if prefix == "b" && chars.get(end) == Some(&'\'') {
        return Some(quote_end(chars, end));
    }
    let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
    if chars.get(end + hashes) != Some(&'"') || (hashes > 0 && !prefix.contains('r')) {
        return None;
    }
    if !prefix.contains('r') {
        return Some(string_end(chars, end + 1));
    }
    let close: Vec<char> = std::iter::once('"')
        .chain(std::iter::repeat_n('#', hashes))
        .collect();
    let body = end + hashes + 1;
    let length = chars[body..]
        .windows(close.len())
        .position(|window| window == close);
    Some(length.map_or(chars.len(), |length| body + length + close.len()))
}

/// Returns the end of a character literal, or of the quote of a lifetime.
fn quote_end(chars: &[char], at: usize) -> usize {
    match chars.get(at + 1) {
        Some('\\') => at + 3 + chars[at + 3..].iter().take_while(|c| **c != '\'').count() + 1,
        Some(_) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at + 1,
    }
}

/// Removes every item after `#[cfg(test)]` or `#[test]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let is_at = |at: usize, words: &[&str]| {
        tokens
            .get(at..at + words.len())
            .is_some_and(|found| found.iter().eq(words.iter()))
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_at(at, &["#", "[", "cfg", "(", "test", ")", "]"])
            || is_at(at, &["#", "[", "test", "]"])
        {
            at = item_end(tokens, at);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the end of the item that begins here with its attributes: the end of its block, or its
/// semicolon.
fn item_end(tokens: &[String], mut at: usize) -> usize {
    while tokens.get(at).is_some_and(|token| token == "#") {
        at = group_end(tokens, at + 1);
    }
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => return group_end(tokens, at),
            ";" => return at + 1,
            "(" | "[" => at = group_end(tokens, at),
            _ => at += 1,
        }
    }
    at
}

/// Returns the token after the group that begins here.
pub(crate) fn group_end(tokens: &[String], mut at: usize) -> usize {
    let mut depth = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns the names of the modules that have their own file and are compiled for tests only.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let all = lex(source);
    let kept = without_tests(&all);
    let declared = |tokens: &[String]| -> Vec<String> {
        let declarations = tokens
            .windows(3)
            .filter(|window| window[0] == "mod" && window[2] == ";");
        declarations.map(|window| window[1].clone()).collect()
    };
    let outside = declared(&kept);
    declared(&all)
        .into_iter()
        .filter(|name| !outside.contains(name))
        .collect()
}
