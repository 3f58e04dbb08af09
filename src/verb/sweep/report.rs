//! What came of a sweep, for people: a table, the last lines of what failed, a sentence.

use std::fmt::Write;
use std::time::Duration;

use super::clocks::Clock;
use super::{Finished, Outcome};
use crate::clock::Wanted;
use crate::duration;
use crate::verb::table;

/// The report.
pub(super) fn text(finished: &[Finished]) -> String {
    let rows: Vec<_> = finished
        .iter()
        .map(|run| {
            let took = format!("{:.2}s", run.took.as_secs_f64());
            [run.clock.text.clone(), starts_at(&run.clock), took, run.outcome.to_string()]
        })
        .collect();
    let mut text = table::columns(Some(["CLOCK", "STARTS AT", "TOOK", "RESULT"]), &rows);
    let failed: Vec<_> = finished.iter().filter(|run| run.outcome != Outcome::Passed).collect();
    for run in &failed {
        let last = last_words(run);
        let what = if last.is_empty() { "it wrote nothing" } else { "the last that it wrote" };
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{}: {}; {what}\n", run.clock.text, run.outcome);
        last.lines().for_each(|line| {
            let _ = writeln!(text, "  {line}");
        });
    }
    let (count, all) = (failed.len(), finished.len());
    let plural = if all == 1 { "" } else { "s" };
    let names: Vec<_> = failed.iter().map(|run| run.clock.text.as_str()).collect();
    let _ = match count {
        0 => writeln!(text, "\nPassed under {all} clock{plural}."),
        _ => writeln!(text, "\nFailed under {count} of {all} clock{plural}: {}.", names.join(", ")),
    };
    text
}

/// What it wrote last; not once more what osier said about it.
fn last_words(run: &Finished) -> String {
    let last = run.output.last_lines();
    let Outcome::Error(error) = &run.outcome else { return last };
    let error = error.to_string();
    let others = last.lines().filter(|line| !(line.starts_with("osier: ") && line.ends_with(&error)));
    others.map(|line| format!("{line}\n")).collect()
}

/// What the clocks of a run show when it starts.
pub(super) fn starts_at(clock: &Clock) -> String {
    match clock.wanted {
        Wanted::At(nanoseconds) => duration::format(nanoseconds),
        Wanted::Host | Wanted::Offset(_) => "the host's".to_owned(),
    }
}

/// A length of time as it can be written on a command line.
pub(super) fn length(length: Duration) -> String {
    duration::format(i64::try_from(length.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::output::{Output, Stream};
    use super::*;
    use crate::error::{Error, Kind};

    fn run(clock: &str, outcome: Outcome, wrote: &[u8]) -> Finished {
        let mut output = Output::default();
        output.add(Stream::Err, wrote);
        let clock = super::super::clocks::parse(clock).unwrap().remove(0);
        Finished { clock, outcome, took: Duration::from_millis(120), output }
    }

    #[test]
    fn a_sweep_without_failures_is_a_table_and_a_sentence() {
        let runs = [run("host", Outcome::Passed, b"x\n"), run("1d", Outcome::Passed, b"")];
        assert_eq!(
            text(&runs),
            "CLOCK STARTS AT  TOOK  RESULT\nhost  the host's 0.12s passed\n1d    1d         0.12s passed\n\n\
             Passed under 2 clocks.\n"
        );
        assert!(text(&runs[..1]).ends_with("Passed under 1 clock.\n"));
    }

    #[test]
    fn what_failed_is_shown_with_its_last_words() {
        let error =
            Error::new(Kind::CommandNotFound, "cannot execute 'x'").because("no such file or directory");
        let runs = [
            run("0", Outcome::Passed, b"fine\n"),
            run("1d", Outcome::Failed(1), b"one\n\x1b]0;title\x07two"),
            run("2d", Outcome::TimedOut(Duration::from_secs(90)), b""),
            run(
                "3d",
                Outcome::Error(error.clone()),
                format!("osier: cannot run in '/t': {error}\n").as_bytes(),
            ),
        ];
        let text = text(&runs);
        assert!(text.contains("\n1d: exit status 1; the last that it wrote\n  one\n  two\n"), "{text}");
        assert!(text.contains("\n2d: took longer than 1min 30s; it wrote nothing\n"), "{text}");
        assert!(text.contains("not run: cannot execute 'x': no such file or directory"), "{text}");
        assert!(!text.contains("cannot run in") && text.matches("it wrote nothing").count() == 2, "{text}");
        assert!(text.ends_with("\nFailed under 3 of 4 clocks: 1d, 2d, 3d.\n"), "{text}");
        assert!(!text.contains("fine") && !text.contains('\x1b'), "{text}");
    }
}
