//! `osier boot`: a tree's init as PID 1 of a machine.

use crate::cli::Boot;
use crate::error::{Error, Kind, Result};
use crate::image::{FoundInit, Image, NoInit, Tree};

use super::{lifetime, prewarmed, said};

/// `osier boot`: the exit code to leave with.
///
/// # Errors
/// Whatever keeps the machine from running.
pub fn execute(options: &Boot) -> Result<u8> {
    let settings = said::settings(&options.options, &options.arguments);
    let tree = match (&options.source.from, &options.source.tree) {
        (Some(from), _) => return prewarmed::boot(options, from, &settings),
        (None, Some(tree)) => tree,
        (None, None) => return Err(Error::usage("no tree to boot")),
    };
    let what = format!("cannot boot '{}'", tree.display());
    lifetime::live(tree, &settings, &options.options.invocation, |image, tree| {
        find_init(image, tree).map(Some)
    })
    .map_err(|error| error.within(what))
}

pub(super) fn find_init(image: &Image, tree: &Tree) -> Result<FoundInit> {
    let path = image.path.display();
    match tree.is_os() {
        Ok(true) => {}
        Ok(false) => {
            return Err(Error::new(Kind::Failed, format!("'{path}' is not an OS tree"))
                .because("it has no os-release file")
                .hint("`osier image build debian` makes one; `osier run` needs less of a tree"));
        }
        Err(error) => return Err(Error::io(format!("cannot look into '{path}'"), &error)),
    }
    tree.find_init().map_err(|reason| {
        let what = match &reason {
            NoInit::Unreadable(..) => format!("cannot look for the init of '{path}'"),
            _ => format!("'{path}' has no init"),
        };
        let error = Error::new(Kind::Failed, what).because(&reason);
        match reason {
            NoInit::Missing => error.hint("`osier run` runs a command in a tree without one"),
            _ => error,
        }
    })
}
