//! Who talks to the API server: each actor is a user of its own, so that the audit log and RBAC tell them apart.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;

use serde_json::{Value, json};

/// The group that RBAC lets do everything.
pub(crate) const MASTERS: &str = "system:masters";
pub(crate) const ADMIN: &str = "admin";
pub(crate) const AUDITOR: &str = "ground:auditor";
pub(crate) const BINDER: &str = "system:kube-scheduler";
pub(crate) const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
pub(crate) const KWOK: &str = "kwok";

/// The user name of Sidetrack's ServiceAccount.
pub const SIDETRACK: &str = "system:serviceaccount:sidetrack-system:sidetrack";

/// A user of the API server: a name and the groups that RBAC sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, as in the audit log and in `request.userInfo` of an admission review.
    pub name: String,
    /// The groups; `system:authenticated` is added by the API server.
    pub groups: Vec<String>,
}

impl User {
    /// Returns a user without any right; RBAC bindings of a test give it some.
    #[must_use]
    pub fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), groups: Vec::new() }
    }

    /// Returns a user with every right.
    #[must_use]
    pub fn master(name: impl Into<String>) -> Self {
        Self::plain(name).group(MASTERS)
    }

    /// Returns the user that a ServiceAccount's token authenticates as, with the groups it gets.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::plain(format!("system:serviceaccount:{namespace}:{name}"))
            .group("system:serviceaccounts")
            .group(format!("system:serviceaccounts:{namespace}"))
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.groups.push(group.into());
        self
    }

    /// Returns the user of that name where no other was declared: ServiceAccounts (`system:serviceaccount:NAMESPACE:NAME`)
    /// are themselves, anybody else has every right.
    fn undeclared(name: &str) -> Self {
        let parts = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        parts.map_or_else(|| Self::master(name), |(namespace, name)| Self::service_account(namespace, name))
    }
}

/// The users in the API server's token file, and how anybody else is authenticated.
pub(crate) struct Users {
    known: Vec<(User, String)>,
}

impl Users {
    /// Returns our own users and `extra`, each with a random token.
    pub(crate) fn new(extra: &[User]) -> Self {
        let own = [ADMIN, AUDITOR, BINDER, CONTROLLER_MANAGER, KWOK].map(User::master);
        let sidetrack = User::undeclared(SIDETRACK);
        let mut known: Vec<(User, String)> = Vec::new();
        for user in extra.iter().cloned().chain(own).chain([sidetrack]) {
            if known.iter().all(|(other, _)| other.name != user.name) {
                known.push((user, token()));
            }
        }
        Self { known }
    }

    /// Returns the text of `--token-auth-file`.
    pub(crate) fn token_file(&self) -> String {
        let mut text = String::new();
        for (number, (user, token)) in self.known.iter().enumerate() {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{token},{},uid-{number},\"{}\"", user.name, user.groups.join(","));
        }
        text
    }

    /// Returns the `user` part of a kubeconfig. A name that is not in the token file, which the API server reads only
    /// once, is impersonated by the admin; to RBAC, admission and the audit log it is that user all the same.
    pub(crate) fn auth_info(&self, name: &str) -> Value {
        let token_of =
            |name: &str| self.known.iter().find(|(user, _)| user.name == name).map(|(_, token)| token);
        if let Some(token) = token_of(name) {
            return json!({ "token": token });
        }
        let user = User::undeclared(name);
        json!({ "token": token_of(ADMIN), "as": user.name, "as-groups": user.groups })
    }
}

/// Returns 128 bits that the operating system's randomness seeds: enough for a server that lives for minutes on loopback.
pub(crate) fn token() -> String {
    let state = RandomState::new();
    format!("{:016x}{:016x}", state.hash_one(0), state.hash_one(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_user_has_a_token_of_its_own() {
        let users = Users::new(&[User::plain("bob")]);
        let bob = users.auth_info("bob");
        assert!(bob["token"].is_string());
        assert_ne!(bob, users.auth_info(ADMIN));
        assert!(users.token_file().contains(",bob,uid-0,\"\""));
    }

    #[test]
    fn undeclared_user_is_impersonated_with_every_right() {
        let info = Users::new(&[]).auth_info("flux");
        assert_eq!(info["as"], "flux");
        assert_eq!(info["as-groups"], json!([MASTERS]));
    }

    #[test]
    fn sidetrack_is_its_service_account_and_no_more() {
        let users = Users::new(&[]);
        assert!(users.auth_info(SIDETRACK).get("as").is_none());
        let line = "\"system:serviceaccounts,system:serviceaccounts:sidetrack-system\"";
        assert!(users.token_file().contains(line));
    }

    #[test]
    fn declared_user_replaces_the_built_in_one() {
        let users = Users::new(&[User::plain(SIDETRACK)]);
        assert_eq!(users.token_file().matches(SIDETRACK).count(), 1);
    }
}
