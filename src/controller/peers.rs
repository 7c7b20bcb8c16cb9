//! Other clusters: their kubeconfigs, and what their Canaries say.
//!
//! Only clusters that a policy's wave names are asked, and of these only to list and watch Canaries. Every replica follows
//! them, as it follows everything else: who takes over the lead knows what it has to know, and a gate that is open does not
//! close for that long.

use super::watch::{Change, PAGE, Shared, lock};
use crate::api::keys;
use crate::api::status::CanaryStatus;
use crate::clock;
use crate::kubernetes::client;
use crate::kubernetes::path::resource;
use crate::kubernetes::pauses::Pauses;
use crate::object::Kind;
use crate::policy::roster::{Key, Roster};
use crate::policy::wave::{Contact, Seen};
use crate::telemetry::log::chain;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DynamicObject};
use kube::config::Kubeconfig;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::task::AbortOnDropHandle;

/// Key of the kubeconfig in its Secret.
const KUBECONFIG: &str = "kubeconfig";
/// Pause while a right is missing: somebody has to grant it.
const UNPERMITTED_RETRY: Duration = Duration::from_secs(10);

/// What following other clusters takes.
#[derive(Clone)]
pub struct Following {
    /// The client of our own cluster.
    pub client: Client,
    /// The namespace of the Secrets.
    pub home: String,
    /// What is known of the cluster.
    pub cache: Shared,
    /// Tells the loop of the Canaries which to look at.
    pub changes: mpsc::Sender<Change>,
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}

impl Following {
    /// Follows the clusters that are named, for ever.
    pub async fn run(self, mut named: watch::Receiver<BTreeSet<String>>) {
        let (mut tasks, mut of) = (JoinSet::new(), BTreeMap::<String, AbortHandle>::new());
        loop {
            let clusters = named.borrow_and_update().clone();
            lock(&self.cache).roster.peers.retain(&clusters);
            of.retain(|name, task| {
                let stays = clusters.contains(name);
                if !stays {
                    task.abort();
                }
                stays
            });
            for name in clusters {
                of.entry(name.clone()).or_insert_with(|| tasks.spawn(self.clone().follow(name)));
            }
            tokio::select! {
                changed = named.changed() => if changed.is_err() { return },
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if !ended.is_err_and(|error| error.is_cancelled()) {
                        let _ = self.changes.send(Change::Ended(Kind::Secret)).await;
                        return;
                    }
                }
            }
        }
    }

    /// Follows the Secret of one cluster, and with it the cluster.
    async fn follow(self, cluster: String) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.home);
        let config = watcher::Config::default()
            .fields(&format!("metadata.name={cluster}"))
            .labels(&format!("{}=true", keys::PEER));
        let mut pauses = Pauses::default();
        let mut current: Option<(Vec<u8>, AbortOnDropHandle<()>)> = None;
        loop {
            let mut stream = watcher(api.clone(), config.clone()).boxed();
            let mut listed = None;
            let pause = loop {
                let secret = match stream.next().await {
                    None => return,
                    Some(Ok(Event::Init)) => continue,
                    Some(Ok(Event::InitApply(secret))) => {
                        listed = Some(secret);
                        continue;
                    }
                    Some(Ok(Event::InitDone)) => {
                        pauses = Pauses::default();
                        listed.take()
                    }
                    Some(Ok(Event::Apply(secret))) => Some(secret),
                    Some(Ok(Event::Delete(_))) => None,
                    Some(Err(error)) => {
                        tracing::warn!(cluster, "the watch of its Secret was interrupted: {}", chain(&error));
                        if !matches!(code(&error), Some(401 | 403)) {
                            break pauses.next().unwrap_or_default();
                        }
                        current = None;
                        let why = format!(
                            "Secret {cluster} in {} may not be read: apply peers-role.yaml",
                            self.home
                        );
                        self.contact(&cluster, Contact::Unusable(why)).await;
                        break UNPERMITTED_RETRY;
                    }
                };
                self.take(&cluster, secret, &mut current).await;
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Takes in the Secret as it is now; the same kubeconfig again is nothing new.
    async fn take(
        &self,
        cluster: &str,
        secret: Option<Secret>,
        current: &mut Option<(Vec<u8>, AbortOnDropHandle<()>)>,
    ) {
        let kubeconfig = match secret {
            None => Err(format!(
                "there is no Secret {cluster} with label {}: \"true\" in {}",
                keys::PEER,
                self.home
            )),
            Some(mut secret) => {
                let data = secret.data.as_mut().and_then(|data| data.remove(KUBECONFIG));
                data.map(|data| data.0).ok_or_else(|| format!("Secret {cluster} has no key {KUBECONFIG}"))
            }
        };
        if let (Some((known, _)), Ok(new)) = (&current, &kubeconfig)
            && known == new
        {
            return;
        }
        *current = None;
        let connected = match kubeconfig {
            Ok(kubeconfig) => connect(&kubeconfig).await.map(|client| (kubeconfig, client)),
            Err(why) => Err(why),
        };
        match connected {
            Err(why) => self.contact(cluster, Contact::Unusable(why)).await,
            Ok((kubeconfig, client)) => {
                tracing::info!(cluster, "Following the Canaries of another cluster");
                self.contact(cluster, Contact::Unheard).await;
                let follows = self.clone().follow_canaries(cluster.to_owned(), client);
                *current = Some((kubeconfig, AbortOnDropHandle::new(tokio::spawn(follows))));
            }
        }
    }

    /// Follows the Canaries of one cluster.
    async fn follow_canaries(self, cluster: String, client: Client) {
        let api: Api<DynamicObject> = Api::all_with(client, &resource(Kind::Canary));
        let config = watcher::Config::default().page_size(PAGE);
        let mut pauses = Pauses::default();
        loop {
            let mut stream = watcher(api.clone(), config.clone()).boxed();
            let mut listed = BTreeMap::new();
            loop {
                match stream.next().await {
                    None => break,
                    Some(Ok(Event::Init)) => listed.clear(),
                    Some(Ok(Event::InitApply(canary))) => {
                        let (key, seen) = seen(canary);
                        listed.insert(key, seen);
                    }
                    Some(Ok(Event::InitDone)) => {
                        pauses = Pauses::default();
                        let canaries = std::mem::take(&mut listed);
                        self.note(&cluster, |roster| {
                            roster.peers.listed(&cluster, canaries);
                            true
                        })
                        .await;
                    }
                    Some(Ok(Event::Apply(canary))) => {
                        let (key, seen) = seen(canary);
                        self.see(&cluster, key, Some(seen)).await;
                    }
                    Some(Ok(Event::Delete(canary))) => self.see(&cluster, seen(canary).0, None).await,
                    Some(Err(error)) => {
                        tracing::warn!(
                            cluster,
                            "the watch of its Canaries was interrupted: {}",
                            chain(&error)
                        );
                        let lost = Contact::Lost { since: clock::now(), why: reason(&error) };
                        self.contact(&cluster, lost).await;
                        break;
                    }
                }
            }
            tokio::time::sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    async fn contact(&self, cluster: &str, contact: Contact) {
        self.note(cluster, |roster| roster.peers.contact(cluster, contact)).await;
    }

    /// Takes in something about a cluster; if it is new, all that come after it are looked at.
    async fn note(&self, cluster: &str, change: impl FnOnce(&mut Roster) -> bool) {
        let dirty = {
            let roster = &mut lock(&self.cache).roster;
            if !change(roster) {
                return;
            }
            // Policies say so in their status.
            roster.changes += 1;
            roster.after(cluster)
        };
        let _ = self.changes.send(Change::Dirty(dirty)).await;
    }

    /// Takes in something about a Canary of a cluster; if it is new, ours of the same name is looked at.
    async fn see(&self, cluster: &str, key: Key, seen: Option<Seen>) {
        let ours = {
            let roster = &mut lock(&self.cache).roster;
            roster.peers.see(cluster, key.clone(), seen) && roster.canaries.contains_key(&key)
        };
        if ours {
            let _ = self.changes.send(Change::Dirty(vec![key])).await;
        }
    }
}

fn seen(mut canary: DynamicObject) -> (Key, Seen) {
    let key = (canary.namespace().unwrap_or_default(), canary.name_any());
    let status = canary.data.get_mut("status").map(serde_json::Value::take).unwrap_or_default();
    // What another version writes and this one cannot read has promoted nothing.
    (key, serde_json::from_value::<CanaryStatus>(status).map(Seen::of).unwrap_or_default())
}

/// Makes a client, or says why not; never in a parser's words, which may quote what is secret.
async fn connect(kubeconfig: &[u8]) -> Result<Client, String> {
    let text = std::str::from_utf8(kubeconfig).ok();
    let kubeconfig = text.and_then(|text| Kubeconfig::from_yaml(text).ok());
    let kubeconfig = kubeconfig.ok_or("its kubeconfig cannot be read")?;
    if let Some(part) = reaches_out(&kubeconfig) {
        return Err(format!("its kubeconfig has {part}, which is not used from a Secret"));
    }
    client::peer(kubeconfig).await.map_err(|error| {
        tracing::warn!("a kubeconfig makes no client: {}", chain(&error));
        "its kubeconfig makes no client: are context, cluster, user, certificates whole?".to_owned()
    })
}

/// What a kubeconfig could make this process do besides asking that cluster: run commands, send files of its own, or talk to
/// whoever answers.
fn reaches_out(kubeconfig: &Kubeconfig) -> Option<&'static str> {
    let users = kubeconfig.auth_infos.iter().filter_map(|user| user.auth_info.as_ref());
    for user in users {
        let parts = [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("tokenFile: write token", user.token_file.is_some()),
            ("client-certificate: write client-certificate-data", user.client_certificate.is_some()),
            ("client-key: write client-key-data", user.client_key.is_some()),
        ];
        if let Some((part, _)) = parts.into_iter().find(|(_, has)| *has) {
            return Some(part);
        }
    }
    let clusters = kubeconfig.clusters.iter().filter_map(|cluster| cluster.cluster.as_ref());
    for cluster in clusters {
        let plain = cluster.server.as_ref().is_some_and(|server| !server.starts_with("https://"));
        let parts = [
            ("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify == Some(true)),
            ("a server without https", plain),
            (
                "certificate-authority: write certificate-authority-data",
                cluster.certificate_authority.is_some(),
            ),
        ];
        if let Some((part, _)) = parts.into_iter().find(|(_, has)| *has) {
            return Some(part);
        }
    }
    None
}

fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Why a cluster is not heard: coarse, since every Canary that waits for it says so, and each new word is a write.
fn reason(error: &watcher::Error) -> String {
    match code(error) {
        Some(401) => "it does not know the user of its kubeconfig (401)".into(),
        Some(403) => "the user of its kubeconfig may not watch Canaries (403)".into(),
        Some(404) => "it serves no Canaries (404)".into(),
        Some(code) => format!("it answers {code}"),
        None if chain(error).contains("certificate") => "its certificate is not trusted".into(),
        None => "it cannot be reached".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kubeconfig(cluster: serde_json::Value, user: serde_json::Value) -> Vec<u8> {
        let mut all = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "a", "user": {"token": "t"}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        json_patch::merge(&mut all["clusters"][0]["cluster"], &cluster);
        json_patch::merge(&mut all["users"][0]["user"], &user);
        serde_json::to_vec(&all).unwrap()
    }

    #[tokio::test]
    async fn a_kubeconfig_runs_no_command_and_sends_no_file() {
        assert!(connect(&kubeconfig(json!({}), json!({}))).await.is_ok());
        for (cluster, user, part) in [
            (json!({}), json!({"exec": {"command": "sh", "apiVersion": "x"}}), "exec"),
            (json!({}), json!({"auth-provider": {"name": "gcp", "config": {}}}), "auth-provider"),
            (json!({}), json!({"tokenFile": "/var/run/token"}), "tokenFile"),
            (json!({}), json!({"client-key": "/key"}), "client-key"),
            (json!({}), json!({"client-certificate": "/cert"}), "client-certificate"),
            (json!({"certificate-authority": "/ca"}), json!({}), "certificate-authority"),
            (json!({"insecure-skip-tls-verify": true}), json!({}), "insecure-skip-tls-verify"),
            (json!({"server": "http://127.0.0.1:1"}), json!({}), "a server without https"),
        ] {
            let why = connect(&kubeconfig(cluster, user)).await.err().unwrap();
            assert!(why.starts_with(&format!("its kubeconfig has {part}")), "{why}");
        }
        for bad in [&b"\xff"[..], b"{", b"apiVersion: v1\nkind: Config"] {
            let why = connect(bad).await.err().unwrap();
            assert!(
                why.starts_with("its kubeconfig cannot be read") || why.contains("makes no client"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_status_that_cannot_be_read_has_promoted_nothing() {
        let canary = |status: serde_json::Value| {
            let object = json!({
                "apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"namespace": "shop", "name": "app"}, "status": status,
            });
            seen(serde_json::from_value(object).unwrap())
        };
        let (key, without) = canary(json!({"phase": "Unheard-of"}));
        assert_eq!((key.0.as_str(), key.1.as_str()), ("shop", "app"));
        assert_eq!(without, Seen::default());
        assert_ne!(canary(json!({"phase": "Succeeded", "revisions": {"primary": "a"}})).1, Seen::default());
    }
}
