//! Keeps the self-managed certificates: follows the Secret and the webhook configuration, and takes the steps
//! that are due while this process is the leader. Every replica serves what the Secret holds.

use super::Expiry;
use super::inject::{carries, disown, inject};
use super::issue::{self, IssueError, Material};
use super::plan::{Due, Policy, State, Step, due};
use super::resolver::{Pair, PairError, Resolver};
use super::store::{self, Store, StoreError};
use crate::clock;
use crate::kubernetes::client::{Failure, classify};
use crate::kubernetes::election::Leadership;
use crate::kubernetes::pauses::Pauses;
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Longest sleep: what is due is judged by the wall clock, which a sleep does not follow (suspended machines).
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Steps in a row before the watches are looked at again; a rotation takes one at a time.
const STEPS: usize = 4;

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the MutatingWebhookConfiguration.
    pub configuration: String,
    /// Names and addresses of the server; see [`issue::names`].
    pub names: Vec<String>,
    /// Lifetimes and pauses.
    pub policy: Policy,
}

/// Why a step failed. It is tried again.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot make certificates")]
    Issue(#[from] IssueError),
    #[error("cannot serve the certificate of the Secret")]
    Pair(#[from] PairError),
    #[error("cannot write caBundle")]
    Inject(#[source] Box<kube::Error>),
}

/// A watch ended, which it never should.
#[derive(Debug, thiserror::Error)]
#[error("the watch of the {0} ended")]
pub struct WatchEnded(&'static str);

/// Keeps the certificates of one server.
pub struct Keeper {
    settings: Settings,
    secrets: Api<Secret>,
    configurations: Api<MutatingWebhookConfiguration>,
    store: Store,
    resolver: Arc<Resolver>,
    leadership: Leadership,
    expiry: Box<dyn Fn(Expiry) + Send + Sync>,
    /// The Secret as it is.
    secret: Option<Secret>,
    /// The last good content of the Secret; outlives a Secret that is deleted or broken.
    held: Option<(Material, State)>,
    configuration: Option<MutatingWebhookConfiguration>,
    /// The bundle that the API server has, and since when.
    published: Option<(String, Timestamp)>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Prepares to keep certificates; `expiry` is told the ends of validity of whatever is served.
    pub fn new(
        client: Client,
        settings: Settings,
        resolver: Arc<Resolver>,
        leadership: Leadership,
        expiry: impl Fn(Expiry) + Send + Sync + 'static,
    ) -> Self {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
        Self {
            store: Store::new(secrets.clone(), settings.secret.clone()),
            secrets,
            configurations: Api::all(client),
            settings,
            resolver,
            leadership,
            expiry: Box::new(expiry),
            secret: None,
            held: None,
            configuration: None,
            published: None,
        }
    }

    /// Keeps them until `stop`.
    ///
    /// # Errors
    /// When a watch ends.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), WatchEnded> {
        let secrets =
            watcher::watch_object(self.secrets.clone(), &self.settings.secret).backoff(Pauses::default());
        let configurations = watcher::watch_object(self.configurations.clone(), &self.settings.configuration)
            .backoff(Pauses::default());
        let (mut secrets, mut configurations) = (pin!(secrets), pin!(configurations));
        let mut leadership = self.leadership.clone();
        let (mut leads, mut known) = (false, false);
        let mut pause = LONGEST_SLEEP;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                event = secrets.next() => match event.ok_or(WatchEnded("Secret"))? {
                    Ok(secret) => {
                        known = true;
                        self.see(secret);
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "Watching the certificate Secret failed");
                        continue;
                    }
                },
                event = configurations.next() => match event.ok_or(WatchEnded("webhook configuration"))? {
                    Ok(configuration) => {
                        if !outdated(self.configuration.as_ref(), configuration.as_ref()) {
                            self.configuration = configuration;
                        }
                    }
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, "Watching the webhook configuration failed");
                        continue;
                    }
                },
                turned = leadership.turned(leads) => leads = turned,
                () = tokio::time::sleep(pause) => {}
            }
            self.note_publication(clock::now());
            if !known {
                continue;
            }
            pause = match self.converge().await {
                Ok(pause) => pause.min(LONGEST_SLEEP),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "Certificates are not as they should be");
                    RETRY
                }
            };
        }
    }

    /// Takes all steps that are due, if this process may. Returns how long nothing else is due.
    async fn converge(&mut self) -> Result<Duration, KeepError> {
        self.serve()?;
        for _ in 0..STEPS {
            if !self.leadership.may_write() {
                return Ok(LONGEST_SLEEP);
            }
            if let Some((material, _)) = &self.held
                && self.secret.as_ref().and_then(store::material).as_ref() != Some(material)
            {
                warn!(secret = %self.settings.secret, "The certificate Secret was deleted or broken: restoring it");
                self.write(material.clone()).await?;
                continue;
            }
            let now = clock::now();
            let published = self.published.as_ref().map(|(_, since)| *since);
            let state = self.held.as_ref().map(|(_, state)| state);
            match due(state, published, &self.settings.policy, now) {
                Due::Now(step) => self.take(step, now).await?,
                Due::At(at) => {
                    if self.publish().await? {
                        continue;
                    }
                    return Ok(at.duration_since(now).try_into().unwrap_or(Duration::ZERO));
                }
            }
            self.serve()?;
            // At once, not only when nothing is due: the first leaf is of no use before it is trusted.
            self.publish().await?;
        }
        Ok(Duration::ZERO)
    }

    async fn take(&mut self, step: Step, now: Timestamp) -> Result<(), KeepError> {
        let held = self.held.as_ref().map(|(material, _)| material);
        let Settings { names, policy, .. } = &self.settings;
        let material = issue::take(step, held, names, policy, now)?;
        info!(?step, secret = %self.settings.secret, "Changing the webhook's certificates");
        self.write(material).await
    }

    async fn write(&mut self, material: Material) -> Result<(), KeepError> {
        match self.store.write(self.secret.as_ref(), &material).await {
            Ok(secret) => self.see(Some(secret)),
            Err(StoreError::Conflict(_)) => self.refresh().await?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<(), KeepError> {
        // Not by `see`: this is the present, whatever the watch has said.
        self.secret = self.store.read().await?;
        self.take_up();
        Ok(())
    }

    /// Writes the bundle to the API server where it is missing. Returns whether it wrote.
    async fn publish(&mut self) -> Result<bool, KeepError> {
        let failed = |e| KeepError::Inject(Box::new(e));
        let missing = self.misses_bundle();
        if missing {
            // What the watch says may be late, and an older bundle over a newer one would break every call.
            self.refresh().await?;
        }
        let mut configuration = match (&self.configuration, &self.held) {
            (Some(configuration), Some((material, _)))
                if self.leadership.may_write() && self.misses_bundle() =>
            {
                let written =
                    inject(&self.configurations, configuration, &material.bundle).await.map_err(failed)?;
                info!(configuration = %written.name_any(), "Wrote caBundle into the webhook configuration");
                Some(written)
            }
            _ => None,
        };
        if let Some(present) = configuration.as_ref().or(self.configuration.as_ref())
            && self.leadership.may_write()
        {
            match disown(&self.configurations, present).await {
                Ok(Some(disowned)) => configuration = Some(disowned),
                Ok(None) => {}
                // Somebody wrote in between, which the watch tells: then again.
                Err(error) if classify(&error) == Failure::Invalid => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let wrote = configuration.is_some();
        self.configuration = configuration.or(self.configuration.take());
        self.note_publication(clock::now());
        Ok(wrote && missing)
    }

    fn misses_bundle(&self) -> bool {
        match (&self.configuration, &self.held) {
            (Some(configuration), Some((material, _))) => !carries(configuration, &material.bundle),
            _ => false,
        }
    }

    /// Takes a Secret from the watch or a write, unless a newer one is known.
    fn see(&mut self, secret: Option<Secret>) {
        if !outdated(self.secret.as_ref(), secret.as_ref()) {
            self.secret = secret;
            self.take_up();
        }
    }

    fn take_up(&mut self) {
        let Some(material) = self.secret.as_ref().and_then(store::material) else { return };
        match material.state(&self.settings.names) {
            Ok(state) => self.held = Some((material, state)),
            Err(error) => warn!(
                error = &error as &dyn std::error::Error,
                secret = %self.settings.secret,
                "The certificate Secret is broken"
            ),
        }
    }

    /// Serves the held leaf.
    fn serve(&self) -> Result<(), KeepError> {
        let Some((material, state)) = &self.held else { return Ok(()) };
        if state.leaf.is_none() {
            return Ok(());
        }
        let pair = Pair::from_pem(&material.leaf, &material.leaf_key)?;
        self.resolver.set(&pair);
        (self.expiry)(Expiry { leaf: pair.validity.until, authority: Some(state.issuer.validity.until) });
        Ok(())
    }

    fn note_publication(&mut self, now: Timestamp) {
        let bundle = match (&self.configuration, &self.held) {
            (Some(configuration), Some((material, _))) if carries(configuration, &material.bundle) => {
                Some(material.bundle.clone())
            }
            _ => None,
        };
        let since = self.published.take();
        self.published = bundle.map(|bundle| match since {
            Some((before, since)) if before == bundle => (bundle, since),
            _ => (bundle, now),
        });
    }
}

/// A watch may still tell of a state that our own write has overtaken. Versions of one kind of object can be
/// compared as numbers; one that is no number counts as new.
fn outdated<K: kube::Resource>(known: Option<&K>, told: Option<&K>) -> bool {
    let version = |object: &K| object.meta().resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
    matches!((known.and_then(version), told.and_then(version)), (Some(known), Some(told)) if told < known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_news_of_a_watch_are_ignored() {
        let at = |version: &str| {
            let mut secret = Secret::default();
            secret.metadata.resource_version = Some(version.to_owned());
            secret
        };
        assert!(outdated(Some(&at("10")), Some(&at("9"))));
        assert!(!outdated(Some(&at("9")), Some(&at("10"))));
        assert!(!outdated(Some(&at("9")), Some(&at("9"))));
        assert!(!outdated(Some(&at("9")), Some(&at("x"))));
        assert!(!outdated(Some(&at("9")), None));
        assert!(!outdated(None, Some(&at("9"))));
    }
}
