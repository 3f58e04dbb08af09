//! Holds man/osier-clocks.7 to the cases: a line of it that nothing tries, and a case that it does not mention, is a failure.

use std::collections::BTreeSet;

/// Before each tagged paragraph of the page, the cases that try it.
const MARK: &str = ".\\\" tests/truths: ";

/// Cases that are no line's.
const OTHERS: [&str; 1] = ["page"];

pub(crate) fn every_line_is_tried() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/man/osier-clocks.7")).unwrap();
    let problems = look(&page);
    assert!(problems.is_empty(), "{problems:?}");
    // And this can fail.
    assert!(!look(&page.replacen(MARK, ".\\\" ", 1)).is_empty());
    assert!(!look(&page.replacen(MARK, &format!("{MARK}nothing "), 1)).is_empty());
}

fn look(page: &str) -> Vec<String> {
    let known: BTreeSet<_> = super::names().filter(|name| !OTHERS.contains(name)).collect();
    let mut found = BTreeSet::new();
    let mut problems = Vec::new();
    let (mut in_truths, mut marked) = (false, false);
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix(".SH ") {
            in_truths = ["WHAT FOLLOWS", "WHAT DOES NOT", "WHO IS IN"]
                .iter()
                .any(|truths| heading.starts_with(truths));
        }
        if let Some(names) = line.strip_prefix(MARK) {
            for name in names.split_whitespace() {
                if !known.contains(name) {
                    problems.push(format!("there is no case {name}"));
                }
                found.insert(name);
            }
        } else if line == ".TP" && in_truths && !marked {
            problems.push("a line that nothing tries".to_owned());
        }
        marked = line.starts_with(MARK);
    }
    problems.extend(known.difference(&found).map(|name| format!("{name} is in no line")));
    problems
}
