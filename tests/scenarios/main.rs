//! Scenarios on a real control plane: etcd, kube-apiserver, kube-controller-manager and KWOK, with the `sidetrack` binary
//! under its ServiceAccount's rights, its webhook and its admission policies. Each has a namespace of its own.

mod api;
#[cfg(test)]
mod conformance;
mod documented;
mod edits;
mod flux;
mod gates;
mod in_place;
mod leaving;
mod metrics;
mod others;
mod plugin;
mod processes;
mod promotion;
mod repairs;
mod replicas;
mod routers;
mod story;
mod supersede;
mod takeover;
mod terminal;
mod verbs;
mod writers;
