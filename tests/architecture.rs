//! Holds the source to the house (DESIGN §3, §10): arrows between modules, where unsafe code is, how long files are,
//! what they are called. The floors are read from lib.rs, so that the page and the rule cannot differ.
//!
//! Each rule is a function of source texts and has a test that plants a violation: the rule can fail.
#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Arrows between modules of one floor, with the reason for each.
const SIDEWAYS: [(&str, &str); 15] = [
    ("verb", "cli"),             // a verb gets its parsed options
    ("launch", "machine"),       // what was launched becomes a machine
    ("machine", "session"),      // an init that knows no signal is asked by a command inside
    ("plan", "spec"),            // Settings → MachineSpec → LaunchPlan
    ("spec", "settings"),        // the same line, one step before
    ("image", "mount"),          // an image is built and run from mounts
    ("image", "clock"),          // where its machine's clocks are stands beside it
    ("transfer", "image"),       // a machine's side of a copy is a tree
    ("migration", "checkpoint"), // what is sent is one, piece by piece
    ("migration", "criu"),       // pages of memory that come later
    ("checkpoint", "cgroup"),    // a checkpoint has the machine's cgroups in their own type
    ("checkpoint", "net"),       // and what the host made of its link
    ("criu", "namespace"),       // which kinds CRIU can save
    ("host", "clock"),           // HostFacts holds the facts of these two
    ("host", "namespace"),       // in their own types
];

/// Lines of a file, without its tests.
const LINES: usize = 500;

/// Names that say nothing about what is in a module.
const EMPTY_NAMES: [&str; 14] = [
    "util", "utils", "common", "helper", "helpers", "manager", "handler", "handlers", "info", "data", "misc",
    "base", "core", "shared",
];

/// A file of the package: its path from the root, its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The module of lib.rs that it belongs to; none for the two roots.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module =
            inside.split_once('/').map_or_else(|| inside.strip_suffix(".rs"), |(module, _)| Some(module))?;
        (module != "lib" && module != "main").then_some(module)
    }

    fn is_tests(&self) -> bool {
        self.path.starts_with("src/") && self.path.ends_with("/tests.rs")
    }

    /// What stands before the tests at its end; nothing of a file of tests (`mod tests;` beside what it tests).
    fn without_tests(&self) -> &str {
        if self.is_tests() {
            return "";
        }
        self.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default()
    }
}

fn package() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for directory in ["src", "tests"] {
        collect(root, Path::new(directory), &mut found);
    }
    assert!(found.len() > 20, "the sources have moved: {} files", found.len());
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(directory)).unwrap() {
        let entry = entry.unwrap();
        let path = directory.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            found.push(Source { path: path.to_str().unwrap().to_owned(), text });
        }
    }
}

/// The floor of each module, from the headings `// Floor N: …` in lib.rs.
fn floors(lib: &str) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    let mut floor = None;
    for line in lib.lines() {
        if let Some(heading) = line.strip_prefix("// Floor ") {
            floor = heading.split(':').next().and_then(|number| number.parse().ok());
        } else if let Some(module) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            floors.insert(module.to_owned(), floor.expect("a module before the first floor"));
        }
    }
    floors
}

/// The words and signs of a Rust text, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            ['/', '/', ..] => rest.iter().take_while(|char| **char != '\n').count(),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => string(rest),
            ['r', '#' | '"', ..] | ['b', 'r', ..] if raw_string(rest).is_some() => raw_string(rest).unwrap(),
            ['\'', '\\', ..] => 3 + rest[3..].iter().take_while(|char| **char != '\'').count(),
            ['\'', _, '\'', ..] => 3,
            [char, ..] if char.is_alphabetic() || *char == '_' => {
                let length = rest.iter().take_while(|char| char.is_alphanumeric() || **char == '_').count();
                tokens.push(rest[..length].iter().collect());
                length
            }
            [char, ..] => {
                if !char.is_whitespace() {
                    tokens.push(char.to_string());
                }
                1
            }
            [] => 1,
        };
    }
    tokens
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let start = rest.iter().take_while(|char| matches!(char, 'b' | 'r')).count();
    let hashes = rest[start..].iter().take_while(|char| **char == '#').count();
    (rest.get(start + hashes) == Some(&'"')).then_some(())?;
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = &rest[start + hashes + 1..];
    let length = body.windows(end.len()).position(|window| window == end)?;
    Some(start + hashes + 1 + length + end.len())
}

/// The modules that a text names as `crate::module` or in `crate::{module, …}`.
fn references(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let path = tokens[at + 1..].strip_prefix([":", ":"].map(str::to_owned).as_slice());
        let Some(path) = path.filter(|_| token == "crate") else { continue };
        if path.first().is_some_and(|first| first == "{") {
            found.extend(group(path));
        } else {
            found.extend(path.first().cloned());
        }
    }
    found
}

/// The first word of each member of a use group.
fn group(tokens: &[String]) -> Vec<String> {
    let (mut depth, mut first) = (0, true);
    let mut found = Vec::new();
    for token in tokens {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => break,
            "}" => depth -= 1,
            "," if depth == 1 => first = true,
            word if depth == 1 && first => {
                found.push(word.to_owned());
                first = false;
            }
            _ => {}
        }
    }
    found
}

fn arrows(sources: &[Source]) -> Vec<String> {
    let lib = sources.iter().find(|source| source.path == "src/lib.rs").expect("no lib.rs");
    let floors = floors(&lib.text);
    let mut wrong = Vec::new();
    for source in sources {
        let Some(from) = source.module() else { continue };
        let Some(floor) = floors.get(from) else {
            wrong.push(format!("{}: '{from}' has no floor in lib.rs", source.path));
            continue;
        };
        for to in references(&source.text) {
            let down = floors.get(&to).is_some_and(|below| below < floor);
            if !down && to != from && !SIDEWAYS.contains(&(from, to.as_str())) {
                wrong.push(format!("{}: crate::{to} is not below '{from}'", source.path));
            }
        }
    }
    wrong
}

/// Paths that climb to the crate's root would get round [`arrows`].
fn climbs(sources: &[Source]) -> Vec<String> {
    let climbing = |source: &&Source| {
        let Some(module) = source.module() else { return false };
        let top = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")].contains(&source.path);
        let tokens = tokens(source.without_tests()).join(" ");
        tokens.contains("super : : super :") || top && tokens.contains("super : :")
    };
    sources.iter().filter(climbing).map(|source| format!("{}: write crate:: instead", source.path)).collect()
}

fn unsafe_words(sources: &[Source]) -> Vec<String> {
    let outside = sources.iter().filter(|source| !source.path.starts_with("src/sys/"));
    outside
        .filter(|source| tokens(&source.text).iter().any(|token| token == "unsafe"))
        .map(|source| format!("{}: unsafe code stands in src/sys/", source.path))
        .collect()
}

fn lengths(sources: &[Source]) -> Vec<String> {
    let measured = sources.iter().filter(|source| source.path.starts_with("src/"));
    let measured = measured.map(|source| (source, source.without_tests().lines().count()));
    measured
        .filter(|(_, lines)| *lines >= LINES)
        .map(|(source, lines)| format!("{}: {lines} lines without tests", source.path))
        .collect()
}

fn names(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let parts = source.path.split('/').map(|part| part.trim_end_matches(".rs").to_owned());
        let tokens = tokens(&source.text);
        let inline = tokens.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].clone());
        let empty = parts.chain(inline).find(|name| EMPTY_NAMES.contains(&name.as_str()));
        wrong.extend(empty.map(|name| format!("{}: '{name}' says nothing", source.path)));
    }
    wrong
}

fn headless(sources: &[Source]) -> Vec<String> {
    let headless = sources.iter().filter(|source| !source.is_tests() && !source.text.starts_with("//! "));
    headless.map(|source| format!("{}: does not say first what it is responsible for", source.path)).collect()
}

fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn arrows_point_down() {
    none(arrows(&package()));
    none(climbs(&package()));
}

#[test]
fn unsafe_code_stands_in_sys() {
    none(unsafe_words(&package()));
}

#[test]
fn files_are_short() {
    none(lengths(&package()));
}

#[test]
fn names_say_something() {
    none(names(&package()));
}

#[test]
fn files_say_first_what_they_are_for() {
    none(headless(&package()));
}

mod planted {
    use super::*;

    const LIB: &str = "// Floor 5: a\npub mod cli;\npub mod verb;\n// Floor 4: b\npub mod launch;\npub mod machine;\n\
        // Floor 2: c\npub mod image;\npub mod mount;\npub mod net;\n// Floor 1: d\npub mod name;\n";

    fn arrows_of(path: &str, text: &str) -> Vec<String> {
        arrows(&[Source::new("src/lib.rs", LIB), Source::new(path, text)])
    }

    #[test]
    fn an_arrow_up_or_sideways_is_found() {
        for (path, text) in [
            ("src/net/link.rs", "use crate::launch::Running;"),
            ("src/net/link.rs", "use crate::mount::op;"),
            ("src/machine/mod.rs", "fn f() { crate :: launch::start() }"),
            ("src/mount.rs", "use crate::{name::Name, image};"),
            ("src/mount.rs", "use crate::{\n    name::{A, B},\n    verb,\n};"),
            ("src/name.rs", "#[cfg(test)]\nmod tests { use crate::net; }"),
            ("src/stranger.rs", ""),
        ] {
            assert_eq!(arrows_of(path, text).len(), 1, "{path}: {text}");
        }
    }

    #[test]
    fn an_arrow_down_and_the_named_ones_are_not() {
        for (path, text) in [
            ("src/launch/mod.rs", "use crate::{machine, net::{self, link}, name::Name};"),
            ("src/image/build.rs", "use crate::mount; use crate::image::lock;"),
            (
                "src/verb/list.rs",
                "use crate::cli::List; // not crate::nothing\nconst A: &str = \"crate::x\";",
            ),
            (
                "src/net.rs",
                "/* crate::verb /* crate::cli */ crate::cli */ const A: &str = r#\"\"crate::cli\"#;",
            ),
            ("src/net.rs", "fn f<'a>(c: &'a char) -> bool { *c == '\"' || *c == '\\'' } /* \" crate::cli */"),
        ] {
            assert_eq!(arrows_of(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }

    #[test]
    fn a_climb_is_found() {
        let climb = |path: &str, text: &str| climbs(&[Source::new(path, text)]).len();
        assert_eq!(climb("src/net.rs", "use super::verb;"), 1);
        assert_eq!(climb("src/net/mod.rs", "use super::verb;"), 1);
        assert_eq!(climb("src/net/link.rs", "use super::super::verb;"), 1);
        assert_eq!(climb("src/net/link.rs", "use super::name;"), 0);
        assert_eq!(climb("src/net/link/tests.rs", "use super::super::name;"), 0);
        assert_eq!(climb("src/net.rs", "\n#[cfg(test)]\nmod tests {\n    use super::*;\n}"), 0);
    }

    #[test]
    fn unsafe_code_is_found() {
        let wrong = |path: &str, text: &str| unsafe_words(&[Source::new(path, text)]).len();
        assert_eq!(wrong("src/net.rs", "fn f() { unsafe { g() } }"), 1);
        assert_eq!(wrong("tests/boot.rs", "unsafe fn f() {}"), 1);
        assert_eq!(wrong("src/sys/process.rs", "fn f() { unsafe { g() } }"), 0);
        assert_eq!(wrong("src/net.rs", "#![deny(unsafe_code)] // unsafe\nconst A: &str = \"unsafe\";"), 0);
    }

    #[test]
    fn a_long_file_is_found() {
        let wrong = |text: &str| lengths(&[Source::new("src/net.rs", text)]).len();
        assert_eq!(wrong(&"\n".repeat(500)), 1);
        assert_eq!(wrong(&"\n".repeat(499)), 0);
        assert_eq!(
            wrong(&format!("{}\n#[cfg(test)]\nmod tests {{{}}}", "\n".repeat(400), "\n".repeat(400))),
            0
        );
    }

    #[test]
    fn an_empty_name_is_found() {
        let wrong = |path: &str, text: &str| names(&[Source::new(path, text)]).len();
        assert_eq!(wrong("src/util.rs", ""), 1);
        assert_eq!(wrong("src/net/common/link.rs", ""), 1);
        assert_eq!(wrong("tests/helpers/mod.rs", ""), 1);
        assert_eq!(wrong("src/net.rs", "mod helper { }"), 1);
        assert_eq!(wrong("src/net/link.rs", "use nix::common; // mod util"), 0);
    }

    #[test]
    fn a_headless_file_is_found() {
        assert_eq!(headless(&[Source::new("src/net.rs", "use std::io;\n")]).len(), 1);
    }
}
