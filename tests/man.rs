//! Holds the verbs and options in man/osier.1 to the definition of the command line.
//!
//! After a change of cli.rs: `UPDATE=1 cargo test --test man` writes them anew.
#![expect(clippy::unwrap_used, reason = "a test that cannot read the page has failed")]

use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command as Program;

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory};
use osier::cli::Cli;
use osier::image::{Init, Shutdown};

const BEGIN: &str = ".\\\" Written by tests/man.rs from src/cli.rs: change it there.\n";
const END: &str = ".\\\" End of what tests/man.rs writes.\n";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("man/osier.1")
}

/// A text in roff: no hyphen may become a dash, no line's first dot a request.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('±', "\\[+-]")
}

/// The definition with every verb's usage worked out, `image build` as one verb.
fn verbs() -> Vec<Command> {
    let mut command = Cli::command();
    command.build();
    let mut verbs = Vec::new();
    for verb in command.get_subcommands() {
        let below: Vec<_> = verb.get_subcommands().cloned().collect();
        if below.is_empty() { verbs.push(verb.clone()) } else { verbs.extend(below) }
    }
    verbs
}

/// Arguments as clap_mangen writes them, without the section around them and with short lists of values.
fn options(arguments: &[&Arg]) -> String {
    let arguments = arguments.iter().map(|argument| {
        let values: Vec<_> =
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        // Those that it contradicts or needs may be in another section.
        let argument = (*argument).clone().help_heading(None::<&str>);
        let argument = argument.conflicts_with(Resettable::Reset).requires(Resettable::Reset);
        if values.is_empty() || !argument.get_action().takes_values() {
            return argument;
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        argument.help(format!("{help}; one of {}", values.join(", "))).hide_possible_values(true)
    });
    let command = Command::new("osier").disable_help_flag(true).args(arguments);
    let mut text = Vec::new();
    clap_mangen::Man::new(command).render_options_section(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap().replace('±', "\\[+-]").replace("\\*(Aq", "\\(aq");
    let kept = text.lines().filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "));
    kept.filter(|line| *line != ".SH OPTIONS").map(|line| line.to_owned() + "\n").collect()
}

fn is_own(argument: &&Arg) -> bool {
    !["help", "version"].contains(&argument.get_id().as_str())
}

fn generated() -> String {
    let mut verbs = verbs();
    let find = |name: &str| verbs.iter().find(|verb| verb.get_name() == name).unwrap().clone();
    let (boot, run) = (find("boot"), find("run"));
    let is_shared = |argument: &&Arg| {
        let id = argument.get_id();
        argument.get_long().is_some()
            && [&boot, &run].iter().all(|verb| verb.get_arguments().any(|other| other.get_id() == id))
    };
    let mut text = String::from(".SH VERBS\n");
    for verb in &mut verbs {
        let usage = verb.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ");
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, ".SS {}\n{}.\n", escape(usage), escape(&about));
        let launches = ["boot", "run"].contains(&verb.get_name());
        if launches {
            text.push_str("Takes the options of the next section too.\n");
        }
        let own: Vec<_> = verb
            .get_arguments()
            .filter(is_own)
            .filter(|argument| !launches || !is_shared(argument))
            .collect();
        text.push_str(&options(&own));
    }
    text.push_str(".SH OPTIONS OF BOOT AND RUN\n");
    let shared: Vec<_> = boot.get_arguments().filter(is_own).filter(is_shared).collect();
    let mut headings: Vec<_> = shared.iter().map(|argument| argument.get_help_heading()).collect();
    headings.dedup();
    for heading in headings {
        if let Some(heading) = heading {
            let _ = writeln!(text, ".SS {}", escape(heading));
        }
        let group: Vec<_> =
            shared.iter().filter(|argument| argument.get_help_heading() == heading).copied().collect();
        text.push_str(&options(&group));
    }
    text
}

#[test]
fn verbs_and_options_are_those_of_the_command_line() {
    let text = std::fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("no beginning of the generated part");
    let (found, after) = rest.split_once(END).expect("no end of the generated part");
    let wanted = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(page(), format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    assert!(found == wanted, "man/osier.1 is not what cli.rs says: run UPDATE=1 cargo test --test man");
}

#[test]
fn every_option_is_in_the_page() {
    let text = std::fs::read_to_string(page()).unwrap();
    for verb in verbs() {
        for argument in verb.get_arguments().filter(is_own) {
            let Some(long) = argument.get_long() else { continue };
            let written = format!("\\fB\\-\\-{}\\fR", long.replace('-', "\\-"));
            assert!(text.contains(&written), "--{long} of {} is not in the page", verb.get_name());
        }
    }
}

/// groff warns of unknown requests, fonts, glyphs and unbalanced macros.
#[test]
fn the_pages_render_without_warnings() {
    let pages = std::fs::read_dir(page().parent().unwrap()).unwrap().map(|page| page.unwrap().path());
    for page in pages {
        let output = Program::new("groff").args(["-ww", "-z", "-man", "-Tutf8", "-k"]).arg(&page).output();
        let output = output.expect("groff, of the package groff-base, has to be installed");
        let warnings = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warnings.is_empty(), "{}: {warnings}", page.display());
    }
}

/// Each key that settings files can have, as a word in bold.
#[test]
fn every_key_of_settings_files_is_in_their_page() {
    let text = std::fs::read_to_string(page().with_file_name("osier.nspawn.5")).unwrap();
    let bold: Vec<_> =
        text.lines().filter(|line| line.starts_with(".B")).flat_map(str::split_whitespace).collect();
    let documented: Vec<_> = bold.iter().filter_map(|word| word.strip_suffix('=')).collect();
    for (section, key) in osier::settings::nspawn::keys() {
        assert!(documented.contains(&key), "{key}= of [{section}] is not in the page");
        let heading = format!(".SH [{}]", section.to_uppercase().replace('-', "\\-"));
        assert!(text.lines().any(|line| line == heading), "there is no {heading}");
    }
}

#[test]
fn the_page_says_how_each_init_is_asked() {
    let page = std::fs::read_to_string(page()).unwrap();
    for init in Init::ALL {
        let ways =
            [Shutdown::Halt, Shutdown::PowerOff, Shutdown::Reboot].map(|wanted| init.way(wanted).to_string());
        let row = format!("|{}", ways.join("|"));
        let named =
            |line: &str| line.split_once('|').is_some_and(|(name, _)| name.contains(&init.to_string()));
        assert!(page.lines().any(|line| named(line) && line.ends_with(&row)), "{init}: no row {row}");
    }
}
