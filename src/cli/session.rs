//! The options of `shell` and `login`: a user in a machine that runs.

use std::ffi::OsString;

use clap::Args;

/// `osier shell`.
#[derive(Debug, Args)]
#[command(
    override_usage = "osier shell [OPTIONS] [USER@]NAME [[--] COMMAND...]",
    after_help = "Escapes on a terminal, within one second:\n  ^]^]^] or ^]^]d  hang up"
)]
pub struct Shell {
    /// Machine, and the user inside
    #[arg(value_name = "[USER@]NAME")]
    pub name: String,
    /// Command and its arguments [default: the user's login shell]
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// User inside, by name or number [default: root]
    #[arg(short = 'u', long, alias = "user", value_name = "USER")]
    pub uid: Option<String>,
    /// Set an environment variable; without `=VALUE`, pass osier's own (repeatable)
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    pub setenv: Vec<String>,
    /// Working directory inside, absolute [default: the user's home]
    #[arg(long, value_name = "PATH", conflicts_with = "session")]
    pub chdir: Option<String>,
    /// Make it a login session of the machine's systemd, through systemd-machined
    #[arg(long)]
    pub session: bool,
}
/// `osier login`.
#[derive(Debug, Args)]
#[command(after_help = "Escapes on a terminal, within one second:\n  ^]^]^] or ^]^]d  hang up")]
pub struct Login {
    /// Machine
    #[arg(value_name = "NAME")]
    pub name: String,
}
