//! Completion of `kubectl sidetrack …` by kubectl itself: for a plugin it runs an executable `kubectl_complete-NAME` and
//! reads a candidate a line, then a directive (github.com/spf13/cobra, `ShellCompDirective`).

use super::Cli;
use super::connection::Connection;
use crate::kubernetes::client::Settings;
use clap::{Command, CommandFactory as _};
use serde_json::Value;
use std::time::Duration;

/// The executable: it is to be called `kubectl_complete-sidetrack`, and to stand on the PATH.
pub(super) const SCRIPT: &str = "#!/bin/sh\nexec kubectl sidetrack __complete -- \"$@\"\n";
/// No file names.
const NO_FILES: &str = ":4";
/// Time for a cluster to say which Canaries it has.
const PATIENCE: Duration = Duration::from_secs(2);

/// Candidates for the last word.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// These.
    Words(Vec<String>),
    /// Names of Canaries, of this namespace.
    Canaries(Option<String>),
}

/// Answers kubectl.
pub(super) async fn run(words: &[String]) -> String {
    let last = words.last().map(String::as_str).unwrap_or_default();
    let words = match wanted(&Cli::command(), words) {
        Wanted::Words(words) => words,
        Wanted::Canaries(namespace) => canaries(namespace).await,
    };
    let mut text = String::new();
    for word in words.iter().filter(|word| word.starts_with(last)) {
        text.push_str(word);
        text.push('\n');
    }
    text + NO_FILES + "\n"
}

/// Without a cluster that answers in time there are none.
async fn canaries(namespace: Option<String>) -> Vec<String> {
    let read = async {
        let at = Connection::new(&Settings::default(), namespace).await?;
        at.canaries(false, "").await
    };
    let found = tokio::time::timeout(PATIENCE, read).await.ok().and_then(Result::ok).unwrap_or_default();
    let name = |canary: &Value| canary.pointer("/metadata/name")?.as_str().map(str::to_owned);
    found.iter().filter_map(name).collect()
}

fn wanted(root: &Command, words: &[String]) -> Wanted {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, all)| (last.as_str(), all));
    let mut command = root;
    let mut namespace = None;
    let mut value_of: Option<&clap::Arg> = None;
    let mut given = 0;
    for word in before {
        if let Some(option) = value_of.take() {
            if option.get_id() == "namespace" {
                namespace = Some(word.clone());
            }
        } else if word.starts_with('-') {
            value_of = option(root, command, word).filter(|arg| arg.get_action().takes_values());
        } else if let Some(below) = command.find_subcommand(word) {
            command = below;
        } else {
            given += 1;
        }
    }
    if let Some(option) = value_of {
        return Wanted::Words(values(option));
    }
    if last.starts_with('-') {
        let all = command.get_arguments().chain(root.get_arguments());
        let mut all: Vec<String> = all.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect();
        all.sort();
        all.dedup();
        return Wanted::Words(all);
    }
    let below: Vec<String> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(|command| command.get_name().to_owned())
        .collect();
    if !below.is_empty() {
        return Wanted::Words(below);
    }
    match command.get_positionals().nth(given) {
        Some(place) if place.get_id() == "name" => Wanted::Canaries(namespace),
        Some(place) => Wanted::Words(values(place)),
        None => Wanted::Words(Vec::new()),
    }
}

fn option<'c>(root: &'c Command, command: &'c Command, word: &str) -> Option<&'c clap::Arg> {
    let is = |arg: &&clap::Arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().map(|short| format!("-{short}")).as_deref() == Some(word),
    };
    command.get_arguments().chain(root.get_arguments()).find(is)
}

fn values(arg: &clap::Arg) -> Vec<String> {
    let possible = arg.get_value_parser().possible_values();
    possible.into_iter().flatten().map(|value| value.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Wanted {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        wanted(&Cli::command(), &words)
    }

    fn has(wanted: Wanted, word: &str) -> bool {
        matches!(wanted, Wanted::Words(words) if words.iter().any(|w| w == word))
    }

    #[test]
    fn subcommands_flags_values_and_names_are_completed() {
        assert!(has(of(&[""]), "promote") && has(of(&["-n", "shop", "tr"]), "tree"));
        assert!(!has(of(&[""]), "__complete"));
        assert!(has(of(&["status", "app", "--"]), "--timeout") && has(of(&["tree", "--"]), "--namespace"));
        assert!(has(of(&["get", "-o", ""]), "yaml"));
        assert_eq!(of(&["-n", "shop", "promote", ""]), Wanted::Canaries(Some("shop".into())));
        assert_eq!(of(&["tree", ""]), Wanted::Canaries(None));
        assert_eq!(of(&["tree", "app", ""]), Wanted::Words(Vec::new()));
        assert!(has(of(&["completion", ""]), "kubectl") && has(of(&["completion", ""]), "bash"));
    }
}
