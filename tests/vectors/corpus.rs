//! The corpus of the fuzz targets, replayed by an ordinary compiler. It contains seeds made from
//! the vectors.
//!
//! `PUKA_WRITE_CORPUS=1 cargo test -p puka --test vectors the_seeds` writes the missing seeds.

use super::bodies;
use super::json::{Vector, vectors};
use super::tools::{FRAME_MAX, decode_stream};
use puka::protocol::FrameKind;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The body of a target.
type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 12] = [
    ("frame", bodies::frame),
    ("method", bodies::method),
    ("properties", bodies::properties),
    ("table", bodies::table),
    ("uri", bodies::uri),
    ("encoder", bodies::encoder),
    ("handshake", bodies::handshake),
    ("connection", bodies::connection),
    ("content", bodies::content),
    ("confirms", bodies::confirms),
    ("topology", bodies::topology),
    ("recovery", bodies::recovery),
];

/// The targets whose inputs are choices and not bytes of a peer. Random inputs are useful for
/// these.
const OF_CHOICES: [(&str, Body); 6] = [
    ("encoder", bodies::encoder),
    ("connection", bodies::connection),
    ("content", bodies::content),
    ("confirms", bodies::confirms),
    ("topology", bodies::topology),
    ("recovery", bodies::recovery),
];

/// The largest seed, and the maximum number of inputs of all targets, to keep the repository small.
const LARGEST: usize = 2048;
const MOST: usize = 900;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target)
}

/// Returns the seeds of a vector: the targets and their inputs.
fn seeds(vector: &Vector) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = vector.bytes();
    match vector.text("feed").unwrap() {
        "table" => vec![("table", bytes.get(4..).unwrap_or_default().to_vec())],
        "frames" => vec![("frame", [&[0, 7, 7, 1], &bytes[..]].concat())],
        "frame" => {
            let (frames, error, _) = decode_stream(&bytes, FRAME_MAX);
            match frames.first() {
                Some(frame) if frame.kind == FrameKind::Method => {
                    vec![("method", frame.payload.clone())]
                }
                Some(frame) if frame.kind == FrameKind::Header => {
                    vec![("properties", frame.payload.clone())]
                }
                None if error.is_some() => vec![("frame", [&[0, 7, 7, 1], &bytes[..]].concat())],
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

fn all_seeds() -> BTreeMap<(&'static str, String), Vec<u8>> {
    let mut all = BTreeMap::new();
    for vector in vectors() {
        // Vectors that differ only in a number add little.
        let name = vector.name();
        let alike = name.starts_with("methods/") && !name.starts_with("methods/typical/");
        if alike
            || name.starts_with("sasl")
            || ["/zero", "/one", "/minus-one"]
                .iter()
                .any(|n| name.ends_with(n))
        {
            continue;
        }
        for (target, bytes) in seeds(&vector) {
            if bytes.len() <= LARGEST {
                all.insert((target, vector.name().replace('/', "-")), bytes);
            }
        }
    }
    all
}

#[test]
fn seeds_equal_the_vectors() {
    for ((target, name), bytes) in all_seeds() {
        let path = folder(target).join(name);
        if std::env::var_os("PUKA_WRITE_CORPUS").is_some() {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        assert_eq!(
            found,
            bytes,
            "{}: write it again with PUKA_WRITE_CORPUS=1",
            path.display()
        );
    }
}

#[test]
fn corpus_finds_no_fault() {
    let mut inputs = 0;
    for (target, body) in TARGETS {
        let mut of_target = 0;
        for file in fs::read_dir(folder(target)).unwrap() {
            let path = file.unwrap().path();
            println!("{}", path.display());
            body(&fs::read(&path).unwrap());
            of_target += 1;
        }
        assert!(of_target > 0, "no input for {target}");
        inputs += of_target;
    }
    assert!(inputs <= MOST, "{inputs} inputs: minimise the corpus");
}

#[test]
fn random_choices_find_nothing() {
    // `PUKA_SEED=n` replays one seed, `PUKA_SEEDS=n` tries more of them.
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("PUKA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PUKA_SEEDS").unwrap_or(150),
    };
    for seed in seeds {
        for (target, body) in OF_CHOICES {
            println!("{target}: PUKA_SEED={seed}");
            body(&random_bytes(seed));
        }
    }
}

/// Returns up to 700 bytes, the same for the same seed: xorshift64*.
fn random_bytes(seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    };
    let length = next() % 700;
    (0..length).map(|_| next() as u8).collect()
}
