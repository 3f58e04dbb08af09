//! Recipes: what `osier image build` makes, as TOML.
//!
//! A recipe names a source (`[debian]` or `[busybox]`) and what is changed in the tree afterwards. Unknown keys are
//! refused: a typing error must not give a tree that lacks something. man 7 osier-images lists the keys.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where recipes are looked up by name before the ones that come with osier.
const DIRECTORIES: [&str; 2] = ["/etc/osier/images", "/usr/share/osier/images"];

/// The recipes that come with osier.
const BUILT_IN: [(&str, &str); 11] = [
    ("busybox", include_str!("../../images/busybox.toml")),
    ("debian", include_str!("../../images/debian.toml")),
    ("debian-11", include_str!("../../images/debian-11.toml")),
    ("debian-12", include_str!("../../images/debian-12.toml")),
    ("finit", include_str!("../../images/finit.toml")),
    ("host", include_str!("../../images/host.toml")),
    ("minimal", include_str!("../../images/minimal.toml")),
    ("openrc", include_str!("../../images/openrc.toml")),
    ("runit", include_str!("../../images/runit.toml")),
    ("s6", include_str!("../../images/s6.toml")),
    ("sysvinit", include_str!("../../images/sysvinit.toml")),
];

/// How a tree is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Recipe {
    /// The name that the tree gets.
    pub name: FileName,
    /// One line for people.
    pub description: String,
    /// Who may log in as root at a login prompt.
    #[serde(default)]
    pub root_login: RootLogin,
    /// What /etc/hostname says; without it the file is removed, so that a machine is called what its operator calls it.
    pub hostname: Option<FileName>,
    /// A tree of Debian packages.
    pub debian: Option<Debian>,
    /// A tree that holds nothing but the host's busybox.
    pub busybox: Option<Busybox>,
    /// What is done to systemd's units.
    #[serde(default)]
    pub units: Units,
    /// Files, symlinks and directories that are written into the tree, in this order.
    #[serde(default, rename = "file")]
    pub files: Vec<Entry>,
}

/// The source `[debian]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Debian {
    /// The release, such as `trixie`.
    pub suite: Word,
    /// mmdebstrap's variant; debootstrap knows fewer of them.
    #[serde(default = "minbase")]
    pub variant: Word,
    /// Parts of the archive.
    #[serde(default = "main")]
    pub components: Vec<Word>,
    /// Packages beside those of the variant.
    #[serde(default)]
    pub packages: Vec<Word>,
    /// Where the packages come from; without it the Debian mirrors that this host's apt uses, and on other hosts what
    /// mmdebstrap takes by itself.
    pub mirror: Option<Word>,
}

/// The source `[busybox]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Busybox {
    /// Directories that the tree has, beside the one that busybox is in.
    pub directories: Vec<InsidePath>,
}

/// Who may log in as root at a login prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootLogin {
    /// Nobody: no password is right.
    #[default]
    Locked,
    /// Who reaches the prompt, without a password.
    NoPassword,
}

/// What is done to systemd's units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Units {
    /// Started at boot, as by `systemctl enable`.
    #[serde(default)]
    pub enable: Vec<FileName>,
    /// Never started, as by `systemctl mask`.
    #[serde(default)]
    pub mask: Vec<FileName>,
}

/// Something that is written into the tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// Where: absolute inside the tree. Directories above it are made.
    pub path: InsidePath,
    /// Its permissions, as in `mode = 0o755`.
    #[serde(default = "readable")]
    pub mode: u32,
    /// What it holds.
    pub text: Option<String>,
    /// What it points to, where it is a symlink.
    pub link: Option<PathBuf>,
}

/// A word that a program gets as an argument: it has no white space or commas, and is not taken for an option.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Word(String);

/// One component of a path, not hidden.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileName(String);

/// An absolute path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct InsidePath(PathBuf);

/// Why there is no recipe.
#[derive(Debug)]
pub enum RecipeError {
    /// No recipe has that name.
    NoSuchRecipe(String),
    /// It could not be read.
    Unreadable(PathBuf, io::Error),
    /// It says something that is wrong.
    Wrong {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchRecipe(name) => write!(f, "no recipe is called '{name}'"),
            Self::Unreadable(path, cause) => write!(f, "cannot read recipe '{}': {cause}", path.display()),
            Self::Wrong { file, line, reason } => write!(f, "{}:{line}: {reason}", file.display()),
        }
    }
}

impl std::error::Error for RecipeError {}

impl RecipeError {
    /// What the operator can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchRecipe(_) => Some(format!("there are {}", names().join(", "))),
            _ => None,
        }
    }
}

impl Recipe {
    /// The recipe that `arg` means: a file when there is a `/` in it or it ends in `.toml`; otherwise a name, looked up
    /// in /etc/osier/images, /usr/share/osier/images and among those that come with osier.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub fn find(arg: &str) -> Result<Self, RecipeError> {
        if arg.contains('/') || arg.ends_with(".toml") {
            return Self::read(Path::new(arg));
        }
        for directory in DIRECTORIES {
            let path = Path::new(directory).join(format!("{arg}.toml"));
            if path.exists() {
                return Self::read(&path);
            }
        }
        match BUILT_IN.iter().find(|(name, _)| *name == arg) {
            Some((name, text)) => Self::parse(text, &Path::new("images").join(format!("{name}.toml"))),
            None => Err(RecipeError::NoSuchRecipe(arg.to_owned())),
        }
    }

    fn read(path: &Path) -> Result<Self, RecipeError> {
        let text =
            fs::read_to_string(path).map_err(|cause| RecipeError::Unreadable(path.to_owned(), cause))?;
        Self::parse(&text, path)
    }

    /// Reads a recipe's text; `file` is what errors call it.
    ///
    /// # Errors
    /// [`RecipeError::Wrong`].
    pub fn parse(text: &str, file: &Path) -> Result<Self, RecipeError> {
        let wrong = |span: Option<Range<usize>>, reason: &str| RecipeError::Wrong {
            file: file.to_owned(),
            line: text[..span.map_or(0, |span| span.start.min(text.len()))].matches('\n').count() + 1,
            reason: reason.lines().collect::<Vec<_>>().join("; "),
        };
        let recipe: Self = toml::from_str(text).map_err(|error| wrong(error.span(), error.message()))?;
        if recipe.debian.is_some() == recipe.busybox.is_some() {
            return Err(wrong(None, "a recipe has either a table [debian] or a table [busybox]"));
        }
        if recipe.busybox.is_some() && recipe.units != Units::default() {
            return Err(wrong(None, "[units] is for trees with systemd, which [busybox] does not make"));
        }
        for entry in &recipe.files {
            if entry.text.is_some() == entry.link.is_some() {
                let path = entry.path.as_ref().display();
                return Err(wrong(None, &format!("[[file]] '{path}' has either 'text' or 'link'")));
            }
        }
        Ok(recipe)
    }
}

/// The names of all recipes, sorted.
pub fn names() -> Vec<String> {
    let files = DIRECTORIES.iter().filter_map(|path| fs::read_dir(path).ok()).flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|file| file.file_name().to_str()?.strip_suffix(".toml").map(ToOwned::to_owned))
        .chain(BUILT_IN.iter().map(|(name, _)| (*name).to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn minbase() -> Word {
    Word("minbase".to_owned())
}

fn main() -> Vec<Word> {
    vec![Word("main".to_owned())]
}

fn readable() -> u32 {
    0o644
}

impl TryFrom<String> for Word {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = |char: char| char.is_whitespace() || char.is_control() || char == ',';
        if text.is_empty() || text.starts_with('-') || text.contains(bad) {
            return Err(format!("'{text}' is not one word"));
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for FileName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bad = |char: char| char == '/' || char.is_control();
        if text.is_empty() || text.starts_with(['.', '-']) || text.contains(bad) {
            return Err(format!("'{text}' is not a file name"));
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for InsidePath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = PathBuf::from(&text);
        if !path.is_absolute() || path.file_name().is_none() || text.split('/').any(|part| part == "..") {
            return Err(format!("'{text}' is not an absolute path without '..'"));
        }
        Ok(Self(path))
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for FileName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for InsidePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Recipe::parse(text, Path::new("x.toml")).unwrap_err().to_string()
    }

    #[test]
    fn the_recipes_that_come_with_osier_are_right_and_called_what_they_are() {
        for (name, text) in BUILT_IN {
            let recipe = Recipe::parse(text, Path::new(name)).unwrap();
            assert_eq!(recipe.name.as_ref(), name);
            assert!(names().contains(&name.to_owned()));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let head = "name = \"x\"\ndescription = \"\"\n";
        assert!(wrong(&format!("{head}colour = 1\n[busybox]\ndirectories=[]\n")).starts_with("x.toml:3: "));
        assert!(wrong(&format!("{head}[debian]\nsuite = \"--hook\"\n")).starts_with("x.toml:4: '--hook'"));
        let file = "[busybox]\ndirectories = []\n[[file]]\npath = \"/../etc/shadow\"\ntext = \"\"\n";
        assert!(wrong(&format!("{head}{file}")).starts_with("x.toml:6: '/../etc/shadow'"));
        assert!(wrong("name = \"a/b\"\n").starts_with("x.toml:1: 'a/b'"));
        assert!(wrong("name = \n").starts_with("x.toml:1: "));
        assert!(wrong(head).contains("either"));
        assert!(matches!(Recipe::find("trixie"), Err(RecipeError::NoSuchRecipe(_))));
        assert!(matches!(Recipe::find("./none.toml"), Err(RecipeError::Unreadable(..))));
    }
}
