//! Man pages and completions, made from the command lines as the programs themselves parse them.

use std::path::Path;

use clap::Command;
use clap_complete::Shell;

use crate::roff;
use crate::tree::Tree;

/// A program: its command line and the section of the manual it stands in.
struct Program(Command, &'static str);

/// Documents that are pages of section 5: file, page, what it is about.
const DOCUMENTS: [(&str, &str, &str); 3] = [
    ("spread.conf.md", "spread.conf", "configuration of Spread daemons"),
    ("mod_log_spread.md", "mod_log_spread", "Apache directives: access log to Spread groups"),
    ("mod_backhand.md", "mod_backhand", "Apache directives: each request to the best machine"),
];

fn programs() -> Vec<Program> {
    let mut programs: Vec<Program> =
        spread_tools::cli::commands().into_iter().map(|command| Program(command, "1")).collect();
    programs.push(Program(monitors::cli::top_command(), "1"));
    programs.push(Program(monitors::cli::web_command(), "8"));
    programs.push(Program(log_writer::cli::command(), "8"));
    programs.push(Program(spreadd::cli::command(), "8"));
    programs.push(Program(spreadd::spmonitor::cli::command(), "8"));
    programs
}

/// Gives the names of all programs.
pub fn names() -> Vec<String> {
    programs().iter().map(|Program(command, _)| command.get_name().to_owned()).collect()
}

/// Stages the man pages; `root` is the folder of the sources.
///
/// # Errors
/// If something cannot be read or written.
pub fn stage_man(tree: &mut Tree, root: &Path) -> anyhow::Result<()> {
    for Program(command, section) in programs() {
        for (name, command) in with_subcommands(command) {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).section(section).manual("Spread").render(&mut page)?;
            tree.write(format!("share/man/man{section}/{name}.{section}"), page, 0o644)?;
        }
    }
    for (file, name, what) in DOCUMENTS {
        let path = root.join("docs/reference").join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        let page = roff::page(&text, name, what);
        tree.write(format!("share/man/man5/{name}.5"), page, 0o644)?;
    }
    Ok(())
}

/// The command and its subcommands with the names of their pages, which the page of the command refers to:
/// `spreadd`, `spreadd-status`.
fn with_subcommands(command: Command) -> Vec<(String, Command)> {
    let mut command = command.disable_help_subcommand(true);
    // Gives subcommands their full names.
    command.build();
    let mut all = vec![command];
    let mut at = 0;
    while let Some(command) = all.get(at) {
        let below: Vec<Command> =
            command.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
        all.extend(below);
        at += 1;
    }
    let name =
        |command: &Command| command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    all.into_iter().map(|command| (name(&command), command)).collect()
}

/// Stages the completions for bash, zsh and fish.
///
/// # Errors
/// If something cannot be written.
pub fn stage_completions(tree: &mut Tree) -> anyhow::Result<()> {
    for Program(mut command, _) in programs() {
        let name = command.get_name().to_owned();
        let places = [
            (Shell::Bash, format!("share/bash-completion/completions/{name}")),
            (Shell::Zsh, format!("share/zsh/site-functions/_{name}")),
            (Shell::Fish, format!("share/fish/vendor_completions.d/{name}.fish")),
        ];
        for (shell, path) in places {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut script);
            tree.write(path, script, 0o644)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_have_the_pages_that_are_referred_to() {
        let names: Vec<String> =
            with_subcommands(spreadd::cli::command()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["spreadd", "spreadd-status"]);
    }

    #[test]
    fn every_program_has_a_page_and_a_name_of_its_own() {
        let mut names = names();
        assert!(names.len() >= 8);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), programs().len());
    }
}
