//! What came of a sweep, for CI: the XML that JUnit's Ant task began and that CI systems read. A run is a test case; a failed
//! test is a `failure`, one that osier could not run an `error`.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use rustix::fs::Access;

use super::report::starts_at;
use super::{Finished, Outcome};
use crate::cli::Run;
use crate::error::{Context, Result};

fn what(path: &Path) -> String {
    format!("cannot write '{}'", path.display())
}

/// Whether the file can be written, found out by trying and without touching one that is there: the sweep may take long.
///
/// # Errors
/// What making a file beside it gives, or access(2) of what is no file; `EISDIR` for a directory.
pub(super) fn check(path: &Path) -> Result<()> {
    let looked = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
        // Such as /dev/stdout.
        Ok(metadata) if !metadata.is_file() => {
            rustix::fs::access(path, Access::WRITE_OK).map_err(io::Error::from)
        }
        _ => beside(&end_of(path)).and_then(|new| {
            fs::write(&new, "")?;
            fs::remove_file(&new)
        }),
    };
    looked.context(|| what(path))
}

/// Where a link leads to, so that it stays one.
fn end_of(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The file that becomes it.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id())))
}

/// Writes the report, whole or not at all.
///
/// # Errors
/// What writing beside it and rename(2) give.
pub(super) fn write(path: &Path, options: &Run, finished: &[Finished], took: Duration) -> Result<()> {
    xml(options, finished, took).and_then(|text| put(&end_of(path), &text)).context(|| what(path))
}

fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_char_device() || kind.is_fifo() || kind.is_socket()
    }) {
        return fs::write(path, text);
    }
    let new = beside(path)?;
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Numbers of a suite, as attributes.
fn counts(finished: &[Finished], took: Duration) -> [(&'static str, String); 4] {
    let count = |of: &dyn Fn(&Outcome) -> bool| finished.iter().filter(|run| of(&run.outcome)).count();
    [
        ("tests", finished.len().to_string()),
        (
            "failures",
            count(&|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::TimedOut(_))).to_string(),
        ),
        ("errors", count(&|outcome| matches!(outcome, Outcome::Error(_))).to_string()),
        ("time", seconds(took)),
    ]
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn xml(options: &Run, finished: &[Finished], took: Duration) -> io::Result<Vec<u8>> {
    let command: Vec<_> = options.command.iter().map(|word| word.to_string_lossy()).collect();
    let command = clean(&command.join(" "));
    let tree = clean(&options.tree.to_string_lossy());
    let counts = counts(finished, took);
    let counted = || counts.iter().map(|(key, value)| (*key, value.as_str()));
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let suites = writer.create_element("testsuites").with_attribute(("name", "osier run --clock-sweep"));
    suites.with_attributes(counted()).write_inner_content(|writer| {
        let suite = writer.create_element("testsuite").with_attribute(("name", command.as_str()));
        suite
            .with_attributes(counted())
            .write_inner_content(|writer| finished.iter().try_for_each(|run| case(writer, &tree, run)))?;
        Ok(())
    })?;
    let mut text = writer.into_inner();
    text.push(b'\n');
    Ok(text)
}

fn case(writer: &mut Writer<Vec<u8>>, tree: &str, run: &Finished) -> io::Result<()> {
    let time = seconds(run.took);
    let attributes = [("name", run.clock.text.as_str()), ("classname", tree), ("time", &time)];
    let case = writer.create_element("testcase").with_attributes(attributes);
    case.write_inner_content(|writer| {
        writer.create_element("properties").write_inner_content(|writer| {
            let starts = starts_at(&run.clock);
            let attributes = [("name", "clock-starts-at"), ("value", starts.as_str())];
            writer.create_element("property").with_attributes(attributes).write_empty()?;
            Ok(())
        })?;
        let bad = match run.outcome {
            Outcome::Passed => None,
            Outcome::Failed(_) => Some(("failure", "exit-status")),
            Outcome::TimedOut(_) => Some(("failure", "timeout")),
            Outcome::Error(_) => Some(("error", "osier")),
        };
        if let Some((element, kind)) = bad {
            let message = clean(&run.outcome.to_string());
            let last = clean(&run.output.last_lines());
            let element = writer.create_element(element);
            let element = element.with_attributes([("message", message.as_str()), ("type", kind)]);
            element.write_text_content(BytesText::new(&last))?;
        }
        for (element, tail) in [("system-out", &run.output.out), ("system-err", &run.output.err)] {
            let text = tail.text();
            if !text.is_empty() {
                writer.create_element(element).write_text_content(BytesText::new(&text))?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// What XML cannot hold (XML 1.0, 2.2 Characters) is no part of a command line that anybody wants to see.
fn clean(text: &str) -> String {
    let allowed = |char: char| {
        matches!(char, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..) && char != '\u{7f}'
    };
    text.chars().map(|char| if allowed(char) { char } else { char::REPLACEMENT_CHARACTER }).collect()
}
