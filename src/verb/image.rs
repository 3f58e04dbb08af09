//! `osier image …`; here, build: a recipe becomes a tree, with a display of how far it is.

pub(super) mod carried;
pub(super) mod clone;
mod export;
mod import;
mod prewarm;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use indicatif::{BinaryBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli;
use crate::error::{Error, Kind, Result};
use crate::image::{self, BuildError, Built, LookupError, MACHINES, Progress, Recipe, RecipeError};

/// `osier image …`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the image from being made.
pub fn execute(options: &cli::Image) -> Result<u8> {
    match options {
        cli::Image::Prewarm(options) => return prewarm::execute(options),
        cli::Image::Build(options) => build(&options.recipe.to_string_lossy(), options.to.as_deref()),
        cli::Image::Clone(options) => clone::execute(options),
        cli::Image::Export(options) => export::execute(options),
        cli::Image::Import(options) => import::execute(options),
    }?;
    Ok(0)
}

/// Builds the recipe that `recipe` names (a name, or the path of a TOML file) as the tree `to`, or else under
/// /var/lib/machines by the recipe's name.
///
/// # Errors
/// Whatever keeps the tree from being made; nothing is left of it then.
fn build(recipe: &str, to: Option<&Path>) -> Result<()> {
    let recipe = Recipe::find(recipe).map_err(|error| no_recipe(&error))?;
    let name = recipe.name.as_ref();
    let to = to.map_or_else(|| Path::new(MACHINES).join(name), PathBuf::from);
    let mut display = Display::open();
    let built = image::build(&recipe, &to, display.progress());
    display.close();
    let built = built.map_err(|error| not_built(name, &error))?;
    // A closed standard output does not undo the tree.
    let _ = writeln!(std::io::stdout(), "{}", summary(name, &built));
    Ok(())
}

/// The error for an argument that means no image.
pub(super) fn no_image(error: &LookupError) -> Error {
    let kind = match error {
        LookupError::NoSuchImage { .. } | LookupError::NoSuchPath(_) => Kind::NotFound,
        LookupError::NotADirectory(_) | LookupError::Unreadable(..) => Kind::Failed,
        LookupError::DiskImage(_) => Kind::Unsupported,
    };
    with_hint(Error::new(kind, error.to_string()), error.hint())
}

fn no_recipe(error: &RecipeError) -> Error {
    let kind = match error {
        RecipeError::NoSuchRecipe(_) => Kind::NotFound,
        RecipeError::Unreadable(..) => Kind::Failed,
        RecipeError::Wrong { .. } => Kind::Usage,
    };
    with_hint(Error::new(kind, error.to_string()), error.hint())
}

fn not_built(name: &str, error: &BuildError) -> Error {
    let kind = match error {
        BuildError::NotRoot => Kind::Permission,
        BuildError::Exists(_) => Kind::InUse,
        BuildError::NoParent(_) => Kind::NotFound,
        BuildError::NoName(_) => Kind::Usage,
        BuildError::MissingTool { .. } => Kind::Unsupported,
        BuildError::Tool { .. } | BuildError::Interrupted | BuildError::Io { .. } => Kind::Failed,
    };
    with_hint(Error::new(kind, format!("cannot build '{name}'")).because(error), error.hint())
}

fn with_hint(error: Error, hint: Option<String>) -> Error {
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn summary(name: &str, built: &Built) -> String {
    let took = format!("{:.1} s", built.took.as_secs_f64());
    format!("built '{name}' in {took}: {}, {}", built.path.display(), BinaryBytes(built.size))
}

/// How far it is: a line that changes on a terminal, a line per stage elsewhere.
enum Display {
    Bar(Bar),
    Lines(Lines),
}

impl Display {
    fn open() -> Self {
        if std::io::stderr().is_terminal() { Self::Bar(Bar::open()) } else { Self::Lines(Lines) }
    }

    fn progress(&mut self) -> &mut dyn Progress {
        match self {
            Self::Bar(bar) => bar,
            Self::Lines(lines) => lines,
        }
    }

    fn close(self) {
        if let Self::Bar(Bar(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

struct Bar(ProgressBar);

impl Bar {
    fn open() -> Self {
        // No steady tick: that would be a thread. The build calls often enough.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {wide_msg} {binary_bytes:>10} {elapsed:>4}");
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }
}

impl Progress for Bar {
    fn stage(&mut self, stage: &str) {
        self.0.set_message(stage.to_owned());
        self.0.tick();
    }

    fn tick(&mut self, written: u64) {
        self.0.set_position(written);
        self.0.tick();
    }
}

struct Lines;

impl Progress for Lines {
    fn stage(&mut self, stage: &str) {
        let _ = writeln!(std::io::stderr(), "osier: {stage}");
    }

    fn tick(&mut self, _written: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_said_in_one_line() {
        let built =
            Built { path: "/m/x".into(), size: 2 << 20, took: std::time::Duration::from_millis(1250) };
        assert_eq!(summary("x", &built), "built 'x' in 1.2 s: /m/x, 2.00 MiB");
    }
}
