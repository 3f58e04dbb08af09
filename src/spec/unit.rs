//! The unit that holds a machine, with its slice, its properties and its limits.

use super::Unit;
use crate::bus::Property;
use crate::cgroup::limits::{self, Limit};
use crate::error::Result;
use crate::settings::{LimitSetting, Origin, Setting, Settings};

pub(super) fn resolve(settings: &Settings) -> Result<Unit> {
    let Some(keep) = &settings.keep_unit else {
        return Ok(Unit::Scope {
            slice: settings.slice.as_ref().map_or_else(|| Ok("machine.slice".to_owned()), parse_slice)?,
            properties: settings.property.iter().map(parse_property).collect::<Result<_>>()?,
        });
    };
    match settings.slice.iter().chain(&settings.property).next() {
        Some(setting) => {
            Err(setting
                .refuse(format!("is for a scope of the machine's own, which {} rules out", keep.origin)))
        }
        None => Ok(Unit::Keep),
    }
}

pub(super) fn resolve_limits(settings: &Settings) -> Result<Vec<Limit>> {
    let mut found = Vec::new();
    for said in &settings.limits {
        let parsed = limits::parse(said.key, &said.setting.text);
        let mut parsed = parsed.map_err(|reason| said.setting.refuse(reason))?;
        parsed.retain(|limit| !is_overruled(limit, said, settings));
        limits::add(&mut found, parsed);
    }
    Ok(found)
}

/// The command line wins over a file, whichever of two names for the same it uses.
fn is_overruled(limit: &Limit, said: &LimitSetting, settings: &Settings) -> bool {
    let (name, _) = limit.setting();
    let is_flag = |setting: &Setting| matches!(setting.origin, Origin::Flag(_));
    let says = |property: &Setting| is_flag(property) && property.text.split('=').next() == Some(name);
    !is_flag(&said.setting) && settings.property.iter().any(says)
}

fn parse_property(setting: &Setting) -> Result<Property> {
    Property::parse(&setting.text).map_err(|reason| setting.refuse(reason))
}

fn parse_slice(setting: &Setting) -> Result<String> {
    let text = setting.text.as_str();
    let name = text.strip_suffix(".slice").unwrap_or(text);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.\\:".contains(&byte);
    let parts_are_named = name.split('-').all(|part| !part.is_empty()) || name == "-";
    if name.is_empty()
        || name.len() > 200
        || !name.bytes().all(valid)
        || name.starts_with('.')
        || !parts_are_named
    {
        return Err(setting.refuse("not the name of a slice, such as machine.slice or machine-web.slice"));
    }
    Ok(format!("{name}.slice"))
}
