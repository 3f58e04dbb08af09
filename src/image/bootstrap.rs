//! Filling an empty directory with an OS.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::build::{BuildError, Growing};
use super::os::Tree;
use super::recipe::{Busybox, Debian, Recipe, Word};
use super::scratch::Scratch;
use super::tool;

/// The programs that a recipe needs, found before anything is made.
#[derive(Debug)]
pub(super) enum Tools {
    /// Makes Debian trees; knows several mirrors and security updates.
    Mmdebstrap(PathBuf),
    /// Makes Debian trees from one mirror.
    Debootstrap(PathBuf),
    /// What the tree is made of.
    Busybox(PathBuf),
}

impl Tools {
    /// Finds them in the search path `search`.
    ///
    /// # Errors
    /// [`BuildError::MissingTool`].
    pub(super) fn find(recipe: &Recipe, search: &OsStr) -> Result<Self, BuildError> {
        let missing = |tool, package| BuildError::MissingTool { tool, package };
        if recipe.busybox.is_some() {
            let busybox = tool::find(search, "busybox").map(Self::Busybox);
            return busybox.ok_or(missing("busybox", "busybox-static"));
        }
        let mmdebstrap = tool::find(search, "mmdebstrap").map(Self::Mmdebstrap);
        let found = mmdebstrap
            .or_else(|| tool::find(search, "debootstrap").map(Self::Debootstrap))
            .ok_or(missing("mmdebstrap or debootstrap", "mmdebstrap"))?;
        for name in ["setpriv", "unshare"] {
            tool::find(search, name).ok_or(missing(name, "util-linux"))?;
        }
        Ok(found)
    }
}

/// Fills the tree of `scratch`.
///
/// # Errors
/// [`BuildError`].
pub(super) fn fill(recipe: &Recipe, scratch: &Scratch, growing: &mut Growing<'_>) -> Result<(), BuildError> {
    if let Some(busybox) = &recipe.busybox {
        return from_busybox(busybox, scratch, growing);
    }
    let Some(debian) = &recipe.debian else { return Ok(()) };
    let mirrors = match &debian.mirror {
        Some(mirror) => vec![mirror.as_ref().to_owned()],
        None => mirrors_of_host(debian, growing),
    };
    let (name, command) = match &growing.tools {
        Tools::Debootstrap(path) => ("debootstrap", debootstrap(path, debian, scratch, &mirrors)),
        Tools::Mmdebstrap(path) | Tools::Busybox(path) => {
            ("mmdebstrap", mmdebstrap(path, debian, scratch, &mirrors))
        }
    };
    growing.progress.stage(name);
    let progress = &mut growing.progress;
    let mut heard = |line: Option<&str>| match line.and_then(|line| line.strip_prefix("I: ")) {
        Some(stage) if !stage.starts_with("success") => progress.stage(stage.trim_end_matches('.')),
        _ => progress.tick(scratch.written()),
    };
    tool::run(name, command, &growing.interrupt, &mut heard)?;
    drop_downloads(&scratch.tree()).map_err(BuildError::at("remove the downloaded packages"))
}

/// mmdebstrap has done this already; debootstrap leaves as much again as the tree is large.
fn drop_downloads(root: &Path) -> io::Result<()> {
    for directory in ["var/cache/apt/archives", "var/lib/apt/lists"] {
        let entries = match fs::read_dir(root.join(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn mmdebstrap(path: &Path, debian: &Debian, scratch: &Scratch, mirrors: &[String]) -> Command {
    let mut command = tool::contained(path.as_os_str());
    command.arg("--mode=root").arg("--format=directory").env("TMPDIR", scratch.temporary());
    options(&mut command, debian);
    command.arg("--").arg(debian.suite.as_ref()).arg(scratch.tree()).args(mirrors);
    command
}

fn debootstrap(path: &Path, debian: &Debian, scratch: &Scratch, mirrors: &[String]) -> Command {
    let mut command = tool::contained(path.as_os_str());
    command.env("TMPDIR", scratch.temporary());
    options(&mut command, debian);
    command.arg(debian.suite.as_ref()).arg(scratch.tree());
    // It knows one mirror, and as a URL instead of a line of sources.list.
    let url = mirrors.first().and_then(|line| line.split(' ').find(|word| word.contains("://")));
    command.args(url);
    command
}

/// What both spell the same.
fn options(command: &mut Command, debian: &Debian) {
    let list = |words: &[Word]| words.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(",");
    command.arg(format!("--variant={}", debian.variant.as_ref()));
    command.arg(format!("--components={}", list(&debian.components)));
    if !debian.packages.is_empty() {
        command.arg(format!("--include={}", list(&debian.packages)));
    }
}

/// The mirrors that this host's apt uses for Debian, as lines of sources.list for the recipe's release; empty on a host
/// that is not Debian or whose apt knows none: then the tool takes its own.
fn mirrors_of_host(debian: &Debian, growing: &Growing<'_>) -> Vec<String> {
    let release = Tree::open(Path::new("/")).and_then(|host| host.read_os_release());
    let Ok(Some(host)) = release else { return Vec::new() };
    let Some(codename) = host.version_codename.filter(|_| host.id == "debian") else { return Vec::new() };
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Created-By: Packages"]);
    let listed = tool::run("apt-get", command, &growing.interrupt, &mut |_| {});
    listed.map_or_else(|_| Vec::new(), |text| translate_mirrors(&text, &codename, debian))
}

/// `listed` has lines `ORIGIN URL RELEASE`; those of the host's release `codename` become the recipe's.
fn translate_mirrors(listed: &str, codename: &str, debian: &Debian) -> Vec<String> {
    let suite = debian.suite.as_ref();
    let components: Vec<&str> = debian.components.iter().map(AsRef::as_ref).collect();
    // Debian's unstable has neither updates nor security updates of its own.
    let pockets = if ["sid", "unstable", "experimental"].contains(&suite) { 1 } else { 3 };
    let mut lines = Vec::new();
    for pocket in &["", "-updates", "-security"][..pockets] {
        let release = format!("{codename}{pocket}");
        let url = listed.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            ["Debian", url, found] if found == release && url.starts_with("http") => Some(url),
            _ => None,
        });
        match url {
            Some(url) => lines.push(format!("deb {url} {suite}{pocket} {}", components.join(" "))),
            None if pocket.is_empty() => return Vec::new(),
            None => {}
        }
    }
    lines
}

fn from_busybox(busybox: &Busybox, scratch: &Scratch, growing: &mut Growing<'_>) -> Result<(), BuildError> {
    let Tools::Busybox(path) = &growing.tools else { return Ok(()) };
    growing.progress.stage("copying busybox");
    let root = scratch.tree();
    lay_out(busybox, path, &root).map_err(BuildError::at("lay out the tree"))?;
    let applets = applets(&root, growing)?;
    for applet in applets.lines() {
        // Its own init reads /etc/inittab; the recipe brings one that knows what a machine is asked.
        if !applet.contains('/') && !["busybox", "init", "linuxrc", ""].contains(&applet) {
            symlink("busybox", root.join("usr/bin").join(applet)).map_err(BuildError::at("link busybox"))?;
        }
    }
    Ok(())
}

/// One directory for programs, as in every OS of today, with the other three as symlinks.
fn lay_out(busybox: &Busybox, program: &Path, root: &Path) -> io::Result<()> {
    let programs = Path::new("/usr/bin");
    let directories = busybox.directories.iter().map(AsRef::<Path>::as_ref).chain([programs]);
    for directory in directories {
        let mode = match directory.to_str() {
            Some("/tmp" | "/var/tmp") => 0o1777,
            Some("/root") => 0o700,
            _ => 0o755,
        };
        let inside = root.join(directory.strip_prefix("/").unwrap_or(directory));
        fs::DirBuilder::new().recursive(true).mode(mode).create(&inside)?;
        fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    }
    symlink("usr/bin", root.join("bin"))?;
    symlink("usr/bin", root.join("sbin"))?;
    symlink("bin", root.join("usr/sbin"))?;
    fs::copy(program, root.join("usr/bin/busybox")).map(drop)
}

/// Runs the copy inside the tree: that shows whether it needs libraries, and lists what it can do.
fn applets(root: &Path, growing: &Growing<'_>) -> Result<String, BuildError> {
    let mut command = Command::new("chroot");
    command.arg(root).args(["/bin/busybox", "--list"]);
    let listed = tool::run("busybox", command, &growing.interrupt, &mut |_| {});
    listed.map_err(|error| match error {
        // The loader that it asks for is not in the tree, for which execve(2) has ENOENT and chroot(1) has 127.
        BuildError::Tool { ended, .. } if ended.ends_with(" 127") => {
            BuildError::MissingTool { tool: "statically linked busybox", package: "busybox-static" }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(suite: &str) -> Debian {
        let text = format!("name=\"x\"\ndescription=\"\"\n[debian]\nsuite=\"{suite}\"\n");
        Recipe::parse(&text, Path::new("x")).unwrap().debian.unwrap()
    }

    #[test]
    fn the_hosts_mirrors_are_asked_for_the_recipes_release() {
        let listed = "Other http://o.example/ bookworm\nDebian http://m.example/debian/ bookworm\n\
                      Debian http://m.example/debian/ bookworm-updates\n\
                      Debian http://s.example/ bookworm-security\n";
        assert_eq!(
            translate_mirrors(listed, "bookworm", &debian("trixie")),
            [
                "deb http://m.example/debian/ trixie main",
                "deb http://m.example/debian/ trixie-updates main",
                "deb http://s.example/ trixie-security main"
            ]
        );
        assert_eq!(translate_mirrors(listed, "bookworm", &debian("sid")).len(), 1);
        assert!(translate_mirrors(listed, "trixie", &debian("trixie")).is_empty());
    }
}
