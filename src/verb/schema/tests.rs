//! Writes the lists of keys in man/osier-json.5 from the types and holds the page to them.
//!
//! After a key was added: `UPDATE=1 cargo test --lib schema`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Busy, Cleaned, Clocked, Compared, Finding, Listed, Live, Others, Own};

const BEGIN: &str = ".\\\" Written by src/verb/schema/tests.rs from the types: change it there.\n";
const END: &str = ".\\\" End of what src/verb/schema/tests.rs writes.\n";

/// The page's sections: heading, what it says first, the type.
fn sections() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("osier list", "An array of objects, by name.", of::<Listed>()),
        ("osier show", "An object for each machine.", of::<Own>()),
        (
            "osier show, of a machine that osier did not boot",
            "Something else registered it with systemd\\-machined. Keys are those of a machine of osier's, as far as they are known.",
            of::<Others>(),
        ),
        (
            "osier status",
            "An object for each machine: what \\fBosier show\\fR prints of it, and these keys.",
            of::<Live>(),
        ),
        ("osier top", "For each snapshot a line with an array of objects.", of::<Busy>()),
        ("osier clock", "An object for each machine.", of::<Clocked>()),
        ("osier clock \\-\\-compare", "An object.", of::<Compared>()),
        ("osier check", "An array of objects.", of::<Finding>()),
        ("osier check \\-\\-clean", "An array of objects: what was removed.", of::<Cleaned>()),
    ]
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    serde_json::to_value(settings.into_generator().into_root_schema_for::<T>()).unwrap()
}

/// A key as the page lists it.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    /// Such as `processes.children[].name`.
    path: String,
    /// Such as `integer or null`.
    kind: String,
    /// What it is, one line.
    says: String,
}

struct Walk<'a> {
    definitions: &'a Map<String, Value>,
    /// Where each definition was met that is being walked.
    inside: Vec<(String, String)>,
    found: Vec<Key>,
}

fn keys(root: &Value) -> Vec<Key> {
    let none = Map::new();
    let definitions = root["$defs"].as_object().unwrap_or(&none);
    let mut walk = Walk { definitions, inside: Vec::new(), found: Vec::new() };
    walk.object(root, "");
    walk.found
}

impl Walk<'_> {
    fn object(&mut self, schema: &Value, prefix: &str) {
        let required: Vec<_> = schema["required"].as_array().unwrap().iter().collect();
        for (name, property) in schema["properties"].as_object().unwrap() {
            assert!(required.iter().any(|key| *key == name), "{prefix}{name}: a key is always there");
            let says = property["description"].as_str().unwrap_or_default();
            self.key(&format!("{prefix}{name}"), property, says);
        }
    }

    fn key(&mut self, path: &str, schema: &Value, says: &str) {
        let at = self.found.len();
        let kind = self.kind(path, schema);
        let says = says.replace("[`", "`").replace("`]", "`");
        assert!(!says.is_empty(), "{path}: what is it?");
        self.found.insert(at, Key { path: path.to_owned(), kind, says });
    }

    /// The name of a type; what it has below is found on the way.
    fn kind(&mut self, path: &str, schema: &Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
            if let Some((_, same)) = self.inside.iter().find(|(inside, _)| inside == name) {
                return format!("object as {}", same.trim_end_matches("[]"));
            }
            self.inside.push((name.to_owned(), path.to_owned()));
            let kind = self.kind(path, &self.definitions[name]);
            self.inside.pop();
            return kind;
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let kinds: Vec<_> = choices.iter().map(|choice| self.kind(path, choice)).collect();
            return kinds.join(" or ");
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let names: Vec<_> = choices.iter().filter_map(|choice| choice["const"].as_str()).collect();
            assert_eq!(names.len(), choices.len(), "{path}: {schema}");
            return format!("string ({})", names.join(", "));
        }
        match &schema["type"] {
            Value::Array(kinds) => {
                let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
                kinds.join(" or ")
            }
            Value::String(kind) if kind == "array" => {
                let items = self.kind(&format!("{path}[]"), &schema["items"]);
                format!("array of {}", plural(&items))
            }
            Value::String(kind) if kind == "object" && schema["properties"].is_object() => {
                self.object(schema, &format!("{path}."));
                kind.clone()
            }
            Value::String(kind) if kind == "object" => {
                let value = self.kind(path, &schema["additionalProperties"]);
                format!("object of {}", plural(&value))
            }
            Value::String(kind) => kind.clone(),
            _ => panic!("{path}: {schema}"),
        }
    }
}

/// Several of a type.
fn plural(kind: &str) -> String {
    match kind.split_once(' ') {
        Some((word, rest)) => format!("{word}s {rest}"),
        None => format!("{kind}s"),
    }
}

fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('…', "\\&...");
    let mut quoted = false;
    text.chars().fold(String::new(), |text, char| {
        if char != '`' {
            return text + &char.to_string();
        }
        quoted = !quoted;
        text + if quoted { "\\fB" } else { "\\fR" }
    })
}

fn generated() -> String {
    let mut text = String::new();
    for (heading, first, schema) in sections() {
        let _ = write!(text, ".SS {heading}\n{first}\n");
        for key in keys(&schema) {
            let _ = write!(
                text,
                ".TP\n\\fB{}\\fR: {}\n{}\n",
                escape(&key.path),
                escape(&key.kind),
                escape(&key.says)
            );
        }
    }
    text
}

/// The keys of a page's text with their types, by section.
fn listed(text: &str) -> BTreeMap<(String, String), String> {
    let (mut section, mut found) = (String::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix(".SS ") {
            section = heading.to_owned();
        } else if let Some((path, kind)) =
            line.strip_prefix("\\fB").and_then(|line| line.split_once("\\fR: "))
        {
            found.insert((section.clone(), path.to_owned()), kind.to_owned());
        }
    }
    found
}

/// Keys that `before` promises and `after` does not keep.
fn broken(before: &str, after: &str) -> Vec<String> {
    let after = listed(after);
    let before = listed(before).into_iter();
    before.filter(|(key, kind)| after.get(key) != Some(kind)).map(|(key, _)| format!("{key:?}")).collect()
}

#[test]
fn the_page_lists_every_key_with_its_type() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/osier-json.5");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("no beginning of the generated part");
    let (found, after) = rest.split_once(END).expect("no end of the generated part");
    let wanted = generated();
    let broken = broken(found, &wanted);
    assert!(broken.is_empty(), "version {} promises these keys as they are: {broken:?}", super::VERSION);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(page, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert!(found == wanted, "man/osier-json.5 lacks a key: run UPDATE=1 cargo test --lib schema");
}

#[test]
fn a_key_that_goes_or_changes_is_seen() {
    let page =
        ".SS osier list\n.TP\n\\fBname\\fR: string\nIts name.\n.TP\n\\fBleader\\fR: integer\nIts pid.\n";
    assert_eq!(broken(page, page), [""; 0]);
    assert_eq!(broken(page, &format!("{page}.TP\n\\fBnew\\fR: string\n")), [""; 0], "a key may be added");
    assert_eq!(broken(page, &page.replace("fBname", "fBmachine")).len(), 1);
    assert_eq!(broken(page, &page.replace("integer", "string")).len(), 1);
    assert_eq!(broken(page, &page.replace("osier list", "osier show")).len(), 2);
}

#[test]
fn nested_and_recursive_keys_have_paths() {
    let found = keys(&of::<Live>());
    let kind = |path: &str| found.iter().find(|key| key.path == path).map(|key| key.kind.as_str());
    assert_eq!(kind("addresses"), Some("array of strings"));
    assert_eq!(kind("limits"), Some("object or null"));
    assert_eq!(kind("limits.memory_max"), Some("integer or null"));
    assert_eq!(kind("processes.children"), Some("array of objects as processes"));
    assert_eq!(kind("pressure.io"), Some("number or null"));
    let found = keys(&of::<Own>());
    assert!(
        found.iter().any(|key| key.path == "namespaces" && key.kind == "object of integers"),
        "{found:?}"
    );
    assert!(found.iter().any(|key| key.path == "service"), "{found:?}");
}
