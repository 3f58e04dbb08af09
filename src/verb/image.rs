//! Being written.

use crate::cli::Image;
use crate::error::{Error, Kind, Result};

/// `osier image …`.
///
/// # Errors
/// Whatever keeps the image from being made.
pub fn execute(options: &Image) -> Result<()> {
    let Image::Build(build) = options;
    Err(Error::new(Kind::Failed, format!("cannot build '{}' yet", build.recipe.display())))
}
