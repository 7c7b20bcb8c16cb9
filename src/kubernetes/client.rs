//! The API client, and what its errors mean to a caller.

use http::HeaderValue;
use http::header::USER_AGENT;
use kube::Client;
use kube::config::{Config, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Time allowed to open a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time allowed without a byte from the server. The server ends a watch before this (the watcher asks for
/// 290 s) and sends a bookmark each minute until then, so only a dead connection is cut.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// The same towards another cluster, of which only watches are asked: two bookmarks were missed.
const PEER_READ_TIMEOUT: Duration = Duration::from_secs(150);

/// How to find the API server.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A kubeconfig file; none means `$KUBECONFIG`, then `~/.kube/config`, then the pod's ServiceAccount.
    pub kubeconfig: Option<PathBuf>,
    /// A context of that kubeconfig other than its current one.
    pub context: Option<String>,
    /// A user to act as (impersonation); the kubeconfig's own where `None`.
    pub act_as: Option<String>,
    /// Groups to act as, beside it.
    pub act_as_groups: Vec<String>,
}

/// Why no client could be built.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig is unreadable or names something that is not there.
    #[error("cannot use kubeconfig {path}")]
    Kubeconfig {
        /// The file, or `(default)`.
        path: String,
        /// The cause.
        #[source]
        source: KubeconfigError,
    },
    /// Neither a kubeconfig nor a ServiceAccount was found.
    #[error("neither a kubeconfig nor a ServiceAccount was found")]
    Infer(#[source] Box<InferConfigError>),
    /// The configuration does not make a client (bad certificate, bad URL).
    #[error("the configuration makes no client")]
    Build(#[source] Box<kube::Error>),
}

/// Reads the configuration, and sets what kube leaves unset: the User-Agent, a read timeout, and no retries.
///
/// kube's own retries block a caller for minutes and repeat POSTs; whoever calls decides instead.
///
/// # Errors
/// When no usable configuration is found.
pub async fn config(settings: &Settings) -> Result<Config, ClientError> {
    let options = KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let broken = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(broken)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(broken)?
        }
        None if settings.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .map_err(|source| ClientError::Kubeconfig { path: "(default)".to_owned(), source })?,
        None => Config::infer().await.map_err(|e| ClientError::Infer(Box::new(e)))?,
    };
    if let Some(user) = &settings.act_as {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups =
            Some(settings.act_as_groups.clone()).filter(|groups| !groups.is_empty());
    }
    Ok(complete(config, READ_TIMEOUT))
}

/// Returns the addresses by which the API server is reached, as far as its name can be looked up now.
///
/// # Errors
/// When no usable configuration is found.
pub async fn addresses(settings: &Settings) -> Result<Vec<IpAddr>, ClientError> {
    let url = config(settings).await?.cluster_url;
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let found = tokio::net::lookup_host((host, 0)).await;
    Ok(found.into_iter().flatten().map(|address| address.ip()).collect())
}

fn complete(mut config: Config, read_timeout: Duration) -> Config {
    let agent = HeaderValue::from_static(concat!("sidetrack/", env!("CARGO_PKG_VERSION")));
    config.headers.push((USER_AGENT, agent));
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(read_timeout);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config
}

/// Builds a client of another cluster.
///
/// # Errors
/// When the kubeconfig makes no client.
pub async fn peer(kubeconfig: Kubeconfig) -> Result<Client, ClientError> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|source| ClientError::Kubeconfig { path: "of another cluster".to_owned(), source })?;
    Client::try_from(complete(config, PEER_READ_TIMEOUT)).map_err(|e| ClientError::Build(Box::new(e)))
}

/// Builds a client with a connection pool of its own.
///
/// # Errors
/// When no usable configuration is found.
pub async fn connect(settings: &Settings) -> Result<Client, ClientError> {
    Client::try_from(config(settings).await?).map_err(|e| ClientError::Build(Box::new(e)))
}

/// What a failed request means to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 404: the object or its kind is not there.
    Gone,
    /// 409: someone else wrote first, or created it; read again and decide again.
    Conflict,
    /// Another 4xx: the request is wrong, a failed JSON Patch `test` (422) included; the same request fails again.
    Invalid,
    /// 401 or 403: a right is missing, or an admission policy refuses.
    Forbidden,
    /// 429: come back later.
    Throttled,
    /// 408, 410, 5xx, a broken connection, a timeout: the same request may succeed later.
    Transient,
    /// Neither side's fault of the moment: a bad configuration, an answer that cannot be read.
    Fatal,
}

impl Failure {
    /// Returns the word for metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Transient => "transient",
            Self::Fatal => "fatal",
        }
    }
}

/// Says what an error means. Judges by the status code: kube makes up the reason of an answer that is no JSON.
#[must_use]
pub fn classify(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => match status.code {
            404 => Failure::Gone,
            409 => Failure::Conflict,
            401 | 403 => Failure::Forbidden,
            429 => Failure::Throttled,
            400..=499 if !matches!(status.code, 408 | 410) => Failure::Invalid,
            _ => Failure::Transient,
        },
        kube::Error::HyperError(_)
        | kube::Error::Service(_)
        | kube::Error::ReadEvents(_)
        | kube::Error::Auth(_) => Failure::Transient,
        _ => Failure::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("m", "Failed to parse error data").with_code(code).boxed())
    }

    #[test]
    fn status_code_decides_what_an_error_means() {
        for (code, failure) in [
            (400, Failure::Invalid),
            (401, Failure::Forbidden),
            (403, Failure::Forbidden),
            (404, Failure::Gone),
            (408, Failure::Transient),
            (409, Failure::Conflict),
            (410, Failure::Transient),
            (413, Failure::Invalid),
            (422, Failure::Invalid),
            (429, Failure::Throttled),
            (500, Failure::Transient),
            (503, Failure::Transient),
        ] {
            assert_eq!(classify(&api(code)), failure, "{code}");
        }
    }

    #[test]
    fn broken_connection_is_transient_and_unreadable_answer_is_fatal() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(classify(&kube::Error::ReadEvents(broken)), Failure::Transient);
        let unreadable = serde_json::from_str::<u8>("x").unwrap_err();
        assert_eq!(classify(&kube::Error::SerdeError(unreadable)), Failure::Fatal);
    }

    #[tokio::test]
    async fn client_names_itself_and_does_not_retry() {
        let file = std::env::temp_dir().join(format!("sidetrack-kubeconfig-{}", std::process::id()));
        let text = "{apiVersion: v1, kind: Config, current-context: a, \
                    clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], \
                    users: [{name: a, user: {token: t}}], \
                    contexts: [{name: a, context: {cluster: a, user: a}}]}";
        std::fs::write(&file, text).unwrap();
        let config = config(&Settings { kubeconfig: Some(file.clone()), ..Settings::default() }).await;
        std::fs::remove_file(&file).unwrap();
        let config = config.unwrap();
        let agent = concat!("sidetrack/", env!("CARGO_PKG_VERSION"));
        assert!(config.headers.iter().any(|(name, value)| name == USER_AGENT && value == agent));
        assert!(!config.default_retry);
        assert!(config.read_timeout.is_some());
    }
}
