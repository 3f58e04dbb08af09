//! Scenarios inside a host with systemd as PID 1: the real bus, machined, and the distribution's machinectl and
//! systemctl on machines that osier booted.
//!
//! tests/run carries this program into the machine of the tiers `host` and `vm` (OSIER_TIER). It stops machined and
//! installs units, so nowhere else does it do anything: there the scenarios are listed as another tier's. They run one
//! after the other, and what is left of each is looked for on the whole host.

mod leftovers;
mod machine;
mod terminal;

mod background;
mod checkpoint;
mod ends;
mod inits;
mod limits;
mod machinectl;
mod names;
mod reading;
mod registration;
mod scope;
mod service;
mod session;
mod users;

use std::panic;
use std::process::ExitCode;
use std::time::Instant;

use leftovers::Host;

const SCENARIOS: &[(&str, fn())] = &[
    ("machined_knows_what_osier_booted", machinectl::known),
    ("machinectl_shell_and_login_have_terminals", machinectl::shell_and_login),
    ("machinectl_copies_both_ways", machinectl::copies),
    ("machinectl_binds_into_a_running_machine", machinectl::binds),
    ("machinectl_poweroff_is_exit_0", machinectl::poweroff),
    ("machinectl_reboot_is_in_place_and_registered_anew", machinectl::reboot),
    ("machinectl_terminate_shuts_down", machinectl::terminate),
    ("machinectl_kill_reaches_the_leader_and_all", machinectl::kill),
    ("a_shell_is_below_the_scope_s_payload", session::shell),
    ("a_session_of_the_machine_s_systemd", session::session),
    ("a_login_prompt_of_the_machine_s_systemd", session::login),
    ("a_machine_with_users_of_its_own_is_one_like_any_other", users::registered),
    ("stopping_the_scope_shuts_down", scope::stopped),
    ("the_scope_s_cgroup_is_delegated", scope::delegated),
    ("slice_and_properties_reach_the_scope", scope::properties),
    ("a_wrong_property_is_refused_before_anything_is_made", scope::wrong_property),
    ("a_property_that_pid_1_refuses_leaves_nothing", scope::refused_property),
    ("a_slice_is_one", scope::wrong_slice),
    ("keep_unit_stays_in_a_transient_service", service::kept),
    ("keep_unit_makes_its_own_supervisor_group", service::kept_without_subgroup),
    ("keep_unit_stays_in_a_scope", service::kept_scope),
    ("keep_unit_wants_delegation", service::kept_undelegated),
    ("the_unit_boots_reboots_and_stops", service::template),
    ("the_unit_runs_an_init_with_signals_of_its_own", inits::busybox),
    ("the_unit_runs_an_init_that_wants_a_command", inits::commanded),
    ("the_unit_fails_where_the_tree_is_none", service::template_without_tree),
    ("start_in_the_background_is_the_unit", background::started),
    ("what_the_unit_in_the_background_says_comes_back", background::refused_by_the_unit),
    ("enable_in_the_background_is_machines_target", background::enabled),
    ("a_memory_hog_is_killed_and_nobody_else", limits::memory),
    ("a_fork_bomb_stops_at_its_limit", limits::tasks),
    ("cpu_time_is_held_within_a_tenth", limits::cpu),
    ("io_limits_reach_the_disk", limits::io),
    ("set_holds_at_once_and_over_a_reboot", limits::set),
    ("set_keeps_the_rest_of_the_file", limits::set_in_files),
    ("a_unit_that_is_kept_is_limited", limits::kept_unit),
    ("limits_are_files_without_systemd", limits::without_systemd),
    ("a_machine_in_a_scope_is_saved_and_goes_on", checkpoint::saved_and_restored),
    ("a_checkpoint_that_fails_leaves_it_registered", checkpoint::saved_in_vain),
    ("a_restore_that_fails_leaves_no_scope", checkpoint::restored_in_vain),
    ("a_machine_of_the_unit_is_saved_and_not_restarted", checkpoint::of_the_unit),
    ("a_unit_of_ones_own_does_not_boot_what_is_saved", checkpoint::of_a_unit_of_its_own),
    ("limits_come_back_with_a_machine", checkpoint::limited),
    ("a_machine_that_migrates_is_registered_once", checkpoint::migrated),
    ("precopy_where_the_kernel_tracks_pages", checkpoint::precopied),
    ("register_no_keeps_machined_out", registration::none),
    ("register_yes_wants_machined", registration::without_machined),
    ("register_yes_wants_a_bus", registration::without_bus),
    ("a_bus_that_restarts_leaves_the_machine_alone", registration::machined_restarts),
    ("list_shows_the_machines_of_others", registration::others),
    ("show_has_every_property_of_machinectl", reading::own),
    ("show_and_status_tell_of_machines_of_others", reading::others),
    ("a_name_that_osier_uses_is_refused", names::own),
    ("a_name_that_nspawn_uses_is_refused", names::of_nspawn),
    ("a_unit_of_the_name_is_refused", names::of_unit),
    ("a_tree_that_nspawn_uses_is_refused", names::tree_of_nspawn),
    ("nspawn_refuses_a_tree_that_osier_uses", names::tree_of_osier),
    ("read_only_machines_share_a_tree_with_nspawn", names::shared_tree),
    ("sigterm_shuts_down_and_a_second_one_kills", ends::sigterm),
    ("a_killed_supervisor_leaves_nothing", ends::killed_supervisor),
    ("a_killed_supervisor_under_the_unit_leaves_nothing", ends::killed_service),
    ("a_killed_registrar_leaves_the_machine_alone", ends::killed_registrar),
    ("osier_terminate_leaves_nothing", ends::terminate),
    ("osier_verbs_steer_a_machine_in_a_scope", ends::steer),
    ("osier_refuses_another_user_as_machined_does", ends::another_user),
    ("many_machines_at_once", ends::many),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = |name: &&(&str, fn())| filter.is_none_or(|part| name.0.contains(part));
    let wanted: Vec<_> = SCENARIOS.iter().filter(wanted).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !std::env::var("OSIER_TIER").is_ok_and(|tier| tier == "host" || tier == "vm") {
        println!("\ntest result: ok. 0 passed; 0 failed; 0 ignored; {} for another tier", wanted.len());
        return ExitCode::SUCCESS;
    }
    let failed = wanted.iter().filter(|(name, scenario)| !passes(name, *scenario)).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {} passed; {failed} failed; 0 ignored", wanted.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a scenario and looks for what is left of it.
fn passes(name: &str, scenario: fn()) -> bool {
    let (before, start) = (Host::look(), Instant::now());
    let ran = panic::catch_unwind(scenario).is_ok();
    let took = start.elapsed().as_secs_f32();
    let clean = panic::catch_unwind(|| before.assert_restored()).is_ok();
    println!("test {name} ... {} ({took:.1} s)", if ran && clean { "ok" } else { "FAILED" });
    ran && clean
}
