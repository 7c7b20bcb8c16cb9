//! What a control plane is started with.

use std::path::PathBuf;

use serde_json::Value;

use crate::crds::RouterCrds;
use crate::users::User;

/// What [`ControlPlane::start`](crate::ControlPlane::start) starts; the default is a control plane with pods and an
/// audit log and without any CustomResourceDefinition.
#[derive(Clone, Debug)]
pub struct Options {
    /// CustomResourceDefinitions to install, as objects; served when `start` returns.
    pub crds: Vec<Value>,
    /// CustomResourceDefinitions of traffic routers to install.
    pub router_crds: Vec<RouterCrds>,
    /// Whether pods run: a fake node, KWOK in place of its kubelet, and a binder in place of the scheduler.
    pub kwok: bool,
    /// Whether the ServiceAccount admission plugin is on: pods then get a token volume, and need their
    /// ServiceAccount to exist. Tokens by TokenRequest work either way.
    pub service_account_admission: bool,
    /// Whether requests are recorded for [`ControlPlane::audit`](crate::ControlPlane::audit).
    pub audit: bool,
    /// Users to declare beside the built-in ones. Needed for users with other groups than
    /// [`ControlPlane::client_as`](crate::ControlPlane::client_as) gives to an undeclared name.
    pub users: Vec<User>,
    /// Where logs are written and stay; without it they are in the data directory and go with it, unless
    /// something failed.
    pub log_dir: Option<PathBuf>,
    /// More flags of kube-apiserver.
    pub api_server_args: Vec<String>,
    /// More flags of kube-controller-manager.
    pub controller_manager_args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            crds: Vec::new(),
            router_crds: Vec::new(),
            kwok: true,
            service_account_admission: false,
            audit: true,
            users: Vec::new(),
            log_dir: None,
            api_server_args: Vec::new(),
            controller_manager_args: Vec::new(),
        }
    }
}
