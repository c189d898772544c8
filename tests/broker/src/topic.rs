//! The patterns of a topic exchange (spec 3.1.3.3).

/// Returns `true` if a routing key matches a pattern. Words are separated by dots; `*` matches one
/// word, `#` any number.
pub(crate) fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = words(pattern);
    let key: Vec<&[u8]> = words(key);
    // `reached[j]` is `true` if the pattern's words so far match the first j words of the key.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        let mut next = vec![false; key.len() + 1];
        for j in 0..=key.len() {
            next[j] = if word == b"#" {
                reached[j] || (j > 0 && next[j - 1])
            } else {
                j > 0 && reached[j - 1] && (word == b"*" || word == key[j - 1])
            };
        }
        reached = next;
    }
    reached[key.len()]
}

/// Splits a key into words. An empty key has none.
fn words(key: &[u8]) -> Vec<&[u8]> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split(|&byte| byte == b'.').collect()
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn pattern_matches_words() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("*.b", "a.b", true),
            ("*", "a.b", false),
            ("*", "", false),
            ("#", "", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#.c", "a.b.c", true),
            ("#.b.#", "a.b.c", true),
            ("#.d.#", "a.b.c", false),
            ("a.*.#", "a", false),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), key.as_bytes()),
                expected,
                "{pattern} {key}"
            );
        }
    }
}
