//! The syntax of systemd's settings files (man 7 systemd.syntax): sections, assignments, comments, continued lines. What
//! they mean is not known here.

/// `KEY=VALUE` in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The section that it is in, without brackets.
    pub section: String,
    /// The key.
    pub key: String,
    /// The value, without the blanks around it, continued lines joined.
    pub value: String,
    /// Its first line; 1 is the file's first.
    pub line: usize,
    /// Its last line: another one where it is continued.
    pub last: usize,
}

/// A line that is none of what may be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Which line.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Everything that is assigned in `text`, in order.
///
/// # Errors
/// The first line that is neither a section, an assignment nor a comment.
pub fn parse(text: &str) -> Result<Vec<Assignment>, Malformed> {
    let mut found = Vec::new();
    let mut section: Option<String> = None;
    let mut lines = text.lines().enumerate().map(|(at, text)| (at + 1, text.trim()));
    while let Some((line, text)) = lines.next() {
        if is_void(text) {
            continue;
        }
        let (mut whole, mut last) = (text.to_owned(), line);
        while whole.ends_with('\\') {
            whole.pop();
            // A comment in the middle of a continued line does not end it.
            let Some((at, more)) = lines.by_ref().find(|(_, text)| !text.starts_with(['#', ';'])) else {
                break;
            };
            whole = format!("{} {more}", whole.trim_end());
            last = at;
        }
        let malformed = |reason: String| Malformed { line, reason };
        if let Some(name) = whole.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| malformed(format!("'{whole}' has no end")))?;
            section = Some(name.to_owned());
            continue;
        }
        let (key, value) = whole
            .split_once('=')
            .ok_or_else(|| malformed(format!("'{whole}' is neither [SECTION] nor KEY=VALUE")))?;
        let section =
            section.clone().ok_or_else(|| malformed(format!("'{whole}' is before any [SECTION]")))?;
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        found.push(Assignment { section, key, value, line, last });
    }
    Ok(found)
}

fn is_void(line: &str) -> bool {
    line.is_empty() || line.starts_with(['#', ';'])
}

/// The words of a value; quotes keep blanks together, a backslash takes the next character as it is (man 5 systemd.service,
/// Command Lines). Not a shell's words: `#` begins no comment.
///
/// # Errors
/// A quote that has no end.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let (mut word, mut quote): (Option<String>, Option<char>) = (None, None);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', _) => word.get_or_insert_default().push(chars.next().unwrap_or('\\')),
            (char, Some(end)) if char == end => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (char, None) if char.is_whitespace() => words.extend(word.take()),
            (char, _) => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    match quote {
        Some(quote) => Err(format!("a {quote} has no end")),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_know_their_lines() {
        let text = "# of the machine\n[Exec]\nParameters=one \\\n  # between\n  two\n; no\n\n[Files]\n Bind = /a:/b \n";
        let found: Vec<_> = parse(text)
            .unwrap()
            .into_iter()
            .map(|one| (one.section, one.key, one.value, one.line, one.last))
            .collect();
        let expected = |section: &str, key: &str, value: &str, line, last| {
            (section.to_owned(), key.to_owned(), value.to_owned(), line, last)
        };
        assert_eq!(
            found,
            [expected("Exec", "Parameters", "one two", 3, 5), expected("Files", "Bind", "/a:/b", 9, 9)]
        );
    }

    #[test]
    fn a_line_that_is_nothing_is_said() {
        for (text, line, reason) in [
            ("[Exec]\nBoot\n", 2, "'Boot' is neither"),
            ("Boot=yes", 1, "before any"),
            ("\n\n[Exec", 3, "has no end"),
        ] {
            let malformed = parse(text).unwrap_err();
            assert_eq!(malformed.line, line);
            assert!(malformed.reason.contains(reason), "{malformed:?}");
        }
    }

    #[test]
    fn quotes_keep_blanks() {
        assert_eq!(words(r#"a "b c" 'd e'f \"g #h """#).unwrap(), ["a", "b c", "d ef", "\"g", "#h", ""]);
        assert!(words("a 'b").is_err());
        assert_eq!(words("  ").unwrap(), [""; 0]);
    }
}
