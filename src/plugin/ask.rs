//! The verbs: a request on the Canary, and its answer.

use super::connection::{Connection, FIELD_MANAGER, code};
use super::{DONE, Out, canary_name, duration, view};
use crate::api::request::{Request, Verb};
use crate::api::status::{Answered, RequestOutcome};
use crate::api::{Canary, keys};
use crate::clock;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::time::{Duration, Instant};

/// Time between two looks for the answer.
const PAUSE: Duration = Duration::from_millis(200);

/// Asks something of a release, and waits for the answer.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ask {
    /// The Canary.
    #[arg(value_parser = canary_name)]
    pub(crate) name: String,
    /// Why; stands in the Event and in status.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
    /// The revision that is meant, its first digits; without it, the one that the release is about.
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<String>,
    /// How long to wait for the answer.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

impl Ask {
    pub(crate) async fn run(self, at: &Connection, out: &mut Out<'_>, verb: Verb) -> anyhow::Result<u8> {
        let text = self.send(at, verb).await?;
        let answer = self.answer(at, &text).await?;
        let request = Request::parse(&text).map_err(anyhow::Error::msg)?;
        match answer.outcome {
            RequestOutcome::Refused => {
                bail!("{verb} of revision {} refused: {}", request.revision, answer.message)
            }
            RequestOutcome::Taken | RequestOutcome::Accepted => {
                out.line(&format!("{verb} of revision {} taken: {}", request.revision, answer.message))?;
                Ok(DONE)
            }
        }
    }

    /// Writes the request; returns it as it stands.
    pub(crate) async fn send(&self, at: &Connection, verb: Verb) -> anyhow::Result<String> {
        let canary = at.typed(&self.name).await?;
        let revision = match &self.revision {
            Some(revision) => revision.clone(),
            None => meant(&canary, verb).with_context(|| {
                format!("Canary {} has no revision yet: it is not initialised", self.name)
            })?,
        };
        let id = clock::now().strftime("%Y%m%dT%H%M%S.%3f").to_string();
        let text = format!("{verb} {revision} {id} {}", self.reason);
        let text = text.trim_end();
        Request::parse(text).map_err(anyhow::Error::msg)?;
        let patch = json!({"metadata": {"annotations": {keys::REQUEST: text}}});
        let uri = format!("{}?fieldManager={FIELD_MANAGER}", at.uri_of_canary(&self.name));
        let sent = at.send(http::Method::PATCH, &uri, "application/merge-patch+json", &patch).await;
        match sent {
            Err(error) if code(&error) == Some(403) => {
                Err(anyhow::Error::msg(format!("{}", error.root_cause())))
            }
            sent => sent.map(|_| text.to_owned()),
        }
    }

    async fn answer(&self, at: &Connection, text: &str) -> anyhow::Result<Answered> {
        let end = Instant::now().checked_add(self.timeout);
        loop {
            let canary = at.typed(&self.name).await?;
            let status = view::status(&canary);
            let answer = status.request.as_ref().filter(|answer| answer.text == text);
            if let Some(answer) = answer.filter(|answer| answer.outcome != RequestOutcome::Accepted) {
                return Ok(answer.clone());
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                // What is being carried out says itself what it waits for.
                let why = match answer.map_or_else(|| view::message(&status), |answer| &answer.message) {
                    "" => String::new(),
                    message => format!(" ({message})"),
                };
                bail!(
                    "no answer within {:?}{why}; the request stands, and is answered when it can be: see kubectl sidetrack \
                     tree {} -n {}, and whether the controller runs: kubectl sidetrack check",
                    self.timeout,
                    self.name,
                    at.namespace
                );
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The revision that a verb is about, where nobody names one.
pub(crate) fn meant(canary: &Canary, verb: Verb) -> Option<String> {
    let status = view::status(canary);
    let primary = status.revisions.primary.as_deref();
    let of_release = view::revision_of_release(&status).filter(|_| verb != Verb::Restart);
    of_release.or(primary).map(|revision| view::short(Some(revision)))
}
