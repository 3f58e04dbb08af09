//! The environment that a login in a machine has, from the machine's own files: login.defs(5), environment(7), locale.

use std::ffi::OsString;

use crate::image::Tree;
use crate::user::User;

/// Where there is no login.defs(5): what Debian's has.
const PATH_OF_ROOT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH_OF_OTHERS: &str = "/usr/local/bin:/usr/bin:/bin";

/// Lines of `KEY=VALUE` that PAM's login stacks read (man 7 pam_env); later ones win.
const FILES: [&str; 3] = ["/etc/locale.conf", "/etc/default/locale", "/etc/environment"];

/// The environment of `user` in the machine with this root, as a login has it; `term` is the type of the terminal that it
/// is on. Files that are missing or cannot be read say nothing.
pub fn environment(root: &Tree, user: &User, term: Option<&str>) -> Vec<(String, OsString)> {
    let mut found = Variables::default();
    let text = |path: &str| root.read_text(path).ok().flatten().unwrap_or_default();
    found.set("PATH", &path(&text("/etc/login.defs"), user));
    found.set("HOME", &user.home);
    found.set("USER", &user.name);
    found.set("LOGNAME", &user.name);
    found.set("SHELL", &user.shell);
    found.set("container", "osier");
    if let Some(term) = term {
        found.set("TERM", term);
    }
    for file in FILES {
        for (key, value) in assignments(&text(file)) {
            found.set(&key, &value);
        }
    }
    found.0
}

#[derive(Default)]
struct Variables(Vec<(String, OsString)>);

impl Variables {
    fn set(&mut self, key: &str, value: &str) {
        self.0.retain(|(known, _)| known != key);
        self.0.push((key.to_owned(), value.into()));
    }
}

/// `ENV_SUPATH` and `ENV_PATH` of login.defs(5), whose values may begin with `PATH=`.
fn path(defs: &str, user: &User) -> String {
    let (key, fallback) =
        if user.uid == 0 { ("ENV_SUPATH", PATH_OF_ROOT) } else { ("ENV_PATH", PATH_OF_OTHERS) };
    let value = defs.lines().find_map(|line| {
        let (name, value) = line.trim_start().split_once(char::is_whitespace)?;
        (name == key).then(|| value.trim())
    });
    let value = value.map(|value| value.strip_prefix("PATH=").unwrap_or(value));
    value.filter(|value| !value.is_empty()).unwrap_or(fallback).to_owned()
}

/// `KEY=VALUE` lines, with or without `export` and quotes; `#` begins a comment.
fn assignments(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (key, value) = line.split_once('=')?;
            let named = key.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
            let value = value.trim();
            let bare = ['"', '\'']
                .into_iter()
                .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
                .unwrap_or(value);
            (named && !key.is_empty()).then(|| (key.to_owned(), bare.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_that_of_login_defs() {
        let defs = "# ENV_PATH no\nENV_SUPATH\tPATH=/usr/sbin:/sbin\nENV_PATH /usr/bin\n";
        let other = User { uid: 1000, ..User::root() };
        assert_eq!(path(defs, &User::root()), "/usr/sbin:/sbin");
        assert_eq!(path(defs, &other), "/usr/bin");
        assert_eq!(path("", &other), PATH_OF_OTHERS);
        assert_eq!(path("ENV_SUPATH \n", &User::root()), PATH_OF_ROOT);
    }

    #[test]
    fn files_of_variables_are_read_as_pam_reads_them() {
        let text = "# no\nLANG=\"de_DE.UTF-8\"\nexport EDITOR='vi'\nA B=1\n=x\nURL=a=b\nbad-name=1\n";
        let pairs = assignments(text);
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("LANG", "de_DE.UTF-8"), ("EDITOR", "vi"), ("URL", "a=b")]);
    }
}
