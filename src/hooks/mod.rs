//! Hooks: what is sent to a webhook of the analysis, and what its answer means.
//!
//! Pure: [`Hook::request`] builds the request, the caller sends it, [`Hook::verdict`] reads the answer. Texts
//! are Flagger's.

use crate::go::{InvalidDuration, parse_duration};
use crate::outbound::{Exchange, HttpRequest, Method};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

#[cfg(test)]
mod replay;

/// Name of the hook that the flag `-event-webhook` stands for.
pub const GLOBAL_EVENT_HOOK: &str = "events";
/// The greatest status that means success; 203 and up mean failure (Flagger).
const LAST_GOOD_STATUS: u16 = 202;

/// When a hook is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookType {
    /// At each analysis step, before the metrics; the type that an empty one means.
    #[default]
    #[serde(alias = "")]
    Rollout,
    /// Before the canary is started; waits.
    ConfirmRollout,
    /// Before the first weight.
    PreRollout,
    /// Before each weight; waits.
    ConfirmTrafficIncrease,
    /// Before the promotion; waits.
    ConfirmPromotion,
    /// After the run, whatever its end.
    PostRollout,
    /// At each step; success rolls back.
    Rollback,
    /// With each event.
    Event,
}

/// An entry of `spec.analysis.webhooks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// When it is called.
    #[serde(rename = "type")]
    pub type_: HookType,
    /// Time allowed for one attempt, such as `5s`; ten seconds if not given.
    pub timeout: Option<String>,
    /// Further attempts after a connection error, 429 or 5xx other than 501.
    #[serde(deserialize_with = "crate::api::lenient::count")]
    pub retries: u32,
    /// Whether the server's certificate is not checked.
    #[serde(rename = "disableTLS")]
    pub disable_tls: bool,
    /// Whether its waiting is not alerted.
    pub mute_alert: bool,
    /// Sent along.
    pub metadata: BTreeMap<String, String>,
}

/// What is sent. The order of the fields is that of Flagger's payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Payload<'a> {
    /// The Canary.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its phase.
    pub phase: &'a str,
    /// Tells one revision from another.
    pub checksum: &'a str,
    /// The hook's metadata; left out when empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What an event hook tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's text.
    pub message: &'a str,
    /// `Normal` or `Warning`.
    pub type_: &'a str,
    /// When it happened, in milliseconds since 1970.
    pub unix_ms: i64,
}

impl Hook {
    /// Returns the hook that the flag `-event-webhook` stands for; used when the Canary has no event hook of
    /// its own.
    pub fn global_event(url: impl Into<String>) -> Self {
        Self { name: GLOBAL_EVENT_HOOK.into(), url: url.into(), type_: HookType::Event, ..Self::default() }
    }

    /// Builds the request of a hook that is asked something.
    ///
    /// # Errors
    ///
    /// When the timeout is no duration.
    pub fn request(&self, payload: &Payload<'_>) -> Result<HttpRequest, InvalidDuration> {
        // Flagger takes a text of fewer than two characters for none.
        let stated = self.timeout.as_deref().filter(|t| t.len() >= 2).map(parse_duration).transpose()?;
        // No time at all to wait would fail every call; the Canary's status says that ten seconds count.
        let timeout = stated.filter(|time| !time.is_zero()).unwrap_or(Duration::from_secs(10));
        Ok(HttpRequest {
            method: Method::Post,
            url: self.url.clone(),
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            // Strings and maps of strings always serialise.
            body: serde_json::to_vec(payload).unwrap_or_default(),
            timeout,
            retries: self.retries,
            insecure: self.disable_tls,
        })
    }

    /// Builds the payload of a hook that is asked something.
    #[must_use]
    pub fn payload<'a>(
        &self,
        name: &'a str,
        namespace: &'a str,
        phase: &'a str,
        checksum: &'a str,
    ) -> Payload<'a> {
        Payload { name, namespace, phase, checksum, metadata: self.metadata.clone() }
    }

    /// Builds the payload of an event: three keys of ours, and the hook's metadata where it does not collide
    /// with them.
    #[must_use]
    pub fn event_payload<'a>(
        &self,
        name: &'a str,
        namespace: &'a str,
        phase: &'a str,
        checksum: &'a str,
        event: &Event<'_>,
    ) -> Payload<'a> {
        let mut metadata = self.metadata.clone();
        metadata.insert("eventMessage".to_owned(), event.message.to_owned());
        metadata.insert("eventType".to_owned(), event.type_.to_owned());
        metadata.insert("timestamp".to_owned(), event.unix_ms.to_string());
        Payload { name, namespace, phase, checksum, metadata }
    }

    /// Reads the answer, redirects having been followed.
    ///
    /// # Errors
    ///
    /// Why the hook says no: the body of the answer; for an answer that would have been retried, and for no
    /// answer, how often it was tried.
    pub fn verdict(&self, exchange: &Exchange) -> Result<(), String> {
        let gave_up =
            || format!("POST {} giving up after {} attempt(s)", self.url, u64::from(self.retries) + 1);
        match exchange {
            Ok(response) if response.status <= LAST_GOOD_STATUS => Ok(()),
            Ok(response) if response.status == 429 || (response.status >= 500 && response.status != 501) => {
                Err(gave_up())
            }
            Ok(response) => Err(String::from_utf8_lossy(&response.body).into_owned()),
            Err(error) => Err(format!("{}: {error}", gave_up())),
        }
    }

    /// Returns the event for a hook that succeeded; none for types that have none. For a rollback hook this
    /// is a Warning
    /// and the run is rolled back; the others are Normal.
    #[must_use]
    pub fn passed(&self) -> Option<String> {
        let name = &self.name;
        Some(match self.type_ {
            HookType::ConfirmRollout => format!("Confirm-rollout check {name} passed"),
            HookType::PreRollout => format!("Pre-rollout check {name} passed"),
            HookType::ConfirmTrafficIncrease => format!("Confirm-traffic-increase check {name} passed"),
            HookType::ConfirmPromotion => format!("Confirm-promotion check {name} passed"),
            HookType::PostRollout => format!("Post-rollout check {name} passed"),
            HookType::Rollback => format!("Rollback check {name} passed"),
            HookType::Rollout | HookType::Event => return None,
        })
    }

    /// Returns the text for a hook that failed. Warnings, but Normal for a rollback hook, and only a log line
    /// for an event hook.
    #[must_use]
    pub fn failed(&self, canary: &str, namespace: &str, error: &str) -> String {
        let name = &self.name;
        let halt = format!("Halt {canary}.{namespace} advancement");
        match self.type_ {
            HookType::Rollout => format!("{halt} external check {name} failed {error}"),
            HookType::PreRollout => format!("{halt} pre-rollout check {name} failed {error}"),
            HookType::ConfirmRollout => format!("{halt} waiting for approval {name}"),
            HookType::ConfirmTrafficIncrease => {
                format!("{halt} waiting for traffic increase approval {name}")
            }
            HookType::ConfirmPromotion => format!("{halt} waiting for promotion approval {name}"),
            HookType::PostRollout => format!("Post-rollout hook {name} failed {error}"),
            HookType::Rollback => format!("Rollback hook {name} not signaling a rollback"),
            HookType::Event => format!("error sending event to webhook: {error}"),
        }
    }

    /// Returns the alert for a gate that is closed; none for other types and muted gates.
    #[must_use]
    pub fn waiting_alert(&self) -> Option<&'static str> {
        if self.mute_alert {
            return None;
        }
        match self.type_ {
            HookType::ConfirmRollout => Some("Canary is waiting for approval."),
            HookType::ConfirmTrafficIncrease => Some("Canary traffic increase is waiting for approval."),
            HookType::ConfirmPromotion => Some("Canary promotion is waiting for approval."),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::{HttpResponse, TransportError};

    fn hook(json: &str) -> Hook {
        serde_json::from_str(json).unwrap()
    }

    fn answer(status: u16, body: &str) -> Exchange {
        Ok(HttpResponse { status, body: body.as_bytes().to_vec() })
    }

    #[test]
    fn empty_type_means_rollout() {
        assert_eq!(hook(r#"{"name":"a","url":"http://a","type":""}"#).type_, HookType::Rollout);
        assert_eq!(hook(r#"{"name":"a","url":"http://a"}"#).type_, HookType::Rollout);
        assert_eq!(hook(r#"{"type":"confirm-traffic-increase"}"#).type_, HookType::ConfirmTrafficIncrease);
    }

    #[test]
    fn request_carries_the_hooks_settings() {
        let hook =
            hook(r#"{"name":"a","url":"https://a/x","timeout":"1m30s","retries":2,"disableTLS":true}"#);
        let request = hook.request(&hook.payload("podinfo", "test", "Progressing", "85d557f47b")).unwrap();
        assert_eq!((request.timeout.as_secs(), request.retries, request.insecure), (90, 2, true));
        assert_eq!(
            String::from_utf8(request.body).unwrap(),
            r#"{"name":"podinfo","namespace":"test","phase":"Progressing","checksum":"85d557f47b"}"#
        );
    }

    /// Flagger's schema says `number`: what it lets through is read, so that no gate is lost.
    #[test]
    fn retries_are_read_as_whole_as_can_be() {
        for (written, read) in [("-1", 0), ("1.5", 1), ("3", 3), ("null", 0)] {
            assert_eq!(
                hook(&format!(r#"{{"name":"a","url":"http://a","retries":{written}}}"#)).retries,
                read
            );
        }
    }

    #[test]
    fn timeout_defaults_to_ten_seconds_and_must_be_a_duration() {
        let timeout = |text: Option<&str>| {
            let hook = Hook { timeout: text.map(str::to_owned), ..Hook::default() };
            hook.request(&hook.payload("a", "b", "c", "d")).map(|r| r.timeout.as_secs())
        };
        assert_eq!(timeout(None), Ok(10));
        assert_eq!(timeout(Some("5")), Ok(10));
        assert_eq!(timeout(Some("5s")), Ok(5));
        assert_eq!(timeout(Some("0s")), Ok(10));
        assert!(timeout(Some("5x")).is_err());
    }

    #[test]
    fn only_statuses_up_to_202_succeed() {
        let hook = hook(r#"{"name":"a","url":"http://a","retries":2}"#);
        for status in [200, 201, 202] {
            assert_eq!(hook.verdict(&answer(status, "x")), Ok(()));
        }
        for status in [203, 204, 302, 400, 403, 501] {
            assert_eq!(hook.verdict(&answer(status, "said no")), Err("said no".to_owned()));
        }
        for status in [429, 500, 503] {
            assert_eq!(
                hook.verdict(&answer(status, "lost")),
                Err("POST http://a giving up after 3 attempt(s)".to_owned())
            );
        }
        let refused = TransportError { message: "Post \"http://a\": EOF".into() };
        assert_eq!(
            hook.verdict(&Err(refused)),
            Err("POST http://a giving up after 3 attempt(s): Post \"http://a\": EOF".to_owned())
        );
    }

    #[test]
    fn metadata_of_an_event_does_not_hide_the_event() {
        let hook = hook(r#"{"metadata":{"eventType":"mine","environment":"test"}}"#);
        let event = Event { message: "m", type_: "Warning", unix_ms: 5 };
        let payload = hook.event_payload("a", "b", "c", "d", &event);
        assert_eq!(payload.metadata.get("eventType").unwrap(), "Warning");
        assert_eq!(payload.metadata.get("environment").unwrap(), "test");
        assert_eq!(payload.metadata.get("timestamp").unwrap(), "5");
    }

    #[test]
    fn closed_gates_alert_unless_muted() {
        let gate = |mute| Hook { type_: HookType::ConfirmPromotion, mute_alert: mute, ..Hook::default() };
        assert_eq!(gate(false).waiting_alert(), Some("Canary promotion is waiting for approval."));
        assert_eq!(gate(true).waiting_alert(), None);
        assert_eq!(Hook::default().waiting_alert(), None);
    }
}
