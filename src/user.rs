//! A user or group of a tree: from its own passwd(5) and group(5), never through the host's name services.

use std::fmt;
use std::io;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// What a process needs to become a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User ID.
    pub uid: u32,
    /// Primary group ID.
    pub gid: u32,
    /// Supplementary group IDs.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// Login shell; `/bin/sh` where passwd(5) names none.
    pub shell: String,
}

/// There is no such user in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchUser;

impl fmt::Display for NoSuchUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such user in the machine's /etc/passwd")
    }
}

impl User {
    /// root, as it is where a tree has no passwd(5) at all.
    pub fn root() -> Self {
        Self {
            name: "root".to_owned(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".to_owned(),
            shell: "/bin/sh".to_owned(),
        }
    }

    /// Makes the calling process this user's: groups, then group and user ID, real, effective and saved.
    ///
    /// # Errors
    /// What setgroups(2), setresgid(2) and setresuid(2) give; `EINVAL` for an ID that the user namespace does not map.
    pub fn assume(&self) -> io::Result<()> {
        if self.uid == 0 && self.gid == 0 && self.groups.is_empty() {
            // What the caller's supplementary groups were is none of the payload's.
            return Ok(setgroups(&[])?);
        }
        let groups: Vec<_> = [self.gid].iter().chain(&self.groups).map(|gid| Gid::from_raw(*gid)).collect();
        take_ids(&groups, Uid::from_raw(self.uid), Gid::from_raw(self.gid))
    }

    /// Makes the calling process root of a user namespace that it has entered: what it was outside is no ID in there.
    ///
    /// # Errors
    /// As [`User::assume`].
    pub fn become_root() -> io::Result<()> {
        take_ids(&[], Uid::from_raw(0), Gid::from_raw(0))
    }

    /// Looks `wanted` (a name, or a number) up in the texts of passwd(5) and group(5). A number that has no entry is a
    /// user all the same, with `/` as home and the group of the same number.
    ///
    /// # Errors
    /// [`NoSuchUser`] for a name that is not there; root is always there.
    pub fn find(wanted: &str, passwd: &str, group: &str) -> Result<Self, NoSuchUser> {
        let number = parse_id(wanted);
        let entry = passwd.lines().find_map(|line| {
            let entry = parse_passwd(line)?;
            (entry.name == wanted || number == Some(entry.uid)).then_some(entry)
        });
        match (entry, number) {
            (Some(mut user), _) => {
                user.groups = find_groups(&user.name, group);
                Ok(user)
            }
            (None, Some(0)) => Ok(Self::root()),
            (None, Some(uid)) => {
                Ok(Self { name: uid.to_string(), uid, gid: uid, home: "/".to_owned(), ..Self::root() })
            }
            (None, None) if wanted == "root" => Ok(Self::root()),
            (None, None) => Err(NoSuchUser),
        }
    }
}

/// Groups first: without root's user ID they could not be set any more.
fn take_ids(groups: &[Gid], uid: Uid, gid: Gid) -> io::Result<()> {
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// There is no such group in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSuchGroup;

/// Looks `wanted` (a name, or a number) up in the text of group(5), and gives its ID.
///
/// # Errors
/// [`NoSuchGroup`] for a name that is not there; root is always there.
pub fn find_group(wanted: &str, group: &str) -> Result<u32, NoSuchGroup> {
    if let Ok(gid) = wanted.parse() {
        return Ok(gid);
    }
    let found = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(wanted)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.or((wanted == "root").then_some(0)).ok_or(NoSuchGroup)
}

/// An ID; not the one that is none: to setresuid(2) and its like it says "leave it as it is".
fn parse_id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

fn parse_passwd(line: &str) -> Option<User> {
    let fields: Vec<_> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return None };
    let shell = if shell.is_empty() { "/bin/sh" } else { shell };
    Some(User {
        name: name.to_owned(),
        uid: parse_id(uid)?,
        gid: parse_id(gid)?,
        groups: Vec::new(),
        home: home.to_owned(),
        shell: shell.to_owned(),
    })
}

fn find_groups(user: &str, group: &str) -> Vec<u32> {
    group
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [_, _, gid, members] = fields[..] else { return None };
            members.split(',').any(|member| member == user).then(|| gid.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken line\nweb:x:33:34::/srv/web:\n";
    const GROUP: &str = "root:x:0:\nssl:x:110:mail,web\nwebby:x:111:webby\n";

    #[test]
    fn groups_are_the_trees_own() {
        assert_eq!(find_group("ssl", GROUP), Ok(110));
        assert_eq!(find_group("4711", GROUP), Ok(4711));
        assert_eq!(find_group("root", ""), Ok(0));
        assert_eq!(find_group("mail", GROUP), Err(NoSuchGroup));
    }

    #[test]
    fn users_are_the_trees_own() {
        let web = User::find("web", PASSWD, GROUP).unwrap();
        assert_eq!((web.uid, web.gid, web.groups.as_slice()), (33, 34, &[110][..]));
        assert_eq!((web.home.as_str(), web.shell.as_str()), ("/srv/web", "/bin/sh"));
        assert_eq!(User::find("33", PASSWD, GROUP).unwrap(), web);
        assert_eq!(User::find("nobody", PASSWD, GROUP), Err(NoSuchUser));
        assert_eq!(User::find("4711", "", "").unwrap().gid, 4711);
        assert_eq!(User::find("root", "", "").unwrap(), User::root());
    }
}
