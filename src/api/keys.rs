//! The labels, annotations and the finalizer through which the webhook and the controller talk.
//!
//! Everything that the two need to know of each other stands on the object itself, under the group
//! `sidetrack.dev`; nothing is stored elsewhere.

/// Label: this object belongs to the Canary named by the value (shortened by [`crate::api::names::label_value`]).
pub const CANARY: &str = "sidetrack.dev/canary";
/// Label: [`LAYOUT_PRIMARY_COPY`] or [`LAYOUT_IN_PLACE`]. As an annotation on a Canary it chooses the layout.
pub const LAYOUT: &str = "sidetrack.dev/layout";
/// Label: [`ROLE_TARGET`] or [`ROLE_GENERATED`].
pub const ROLE: &str = "sidetrack.dev/role";

/// The applied Deployment is the canary, `<name>-primary` is generated: Flagger's layout.
pub const LAYOUT_PRIMARY_COPY: &str = "primary-copy";
/// The applied Deployment is the primary, `<name>-canary` is generated for the time of a release.
pub const LAYOUT_IN_PLACE: &str = "in-place";
/// The Deployment that users and Flux apply.
pub const ROLE_TARGET: &str = "target";
/// The Deployment that the controller makes.
pub const ROLE_GENERATED: &str = "generated";

/// Annotation: hash of the template that may not run yet.
pub const HOLD: &str = "sidetrack.dev/hold";
/// Annotation: hash of the revision that failed; a hold that equals it is not released unasked.
pub const FAILED: &str = "sidetrack.dev/failed";
/// Annotation: the owner's own pause met a hold; the release waits for the owner.
pub const PAUSED_BEFORE: &str = "sidetrack.dev/paused-before";
/// Annotation: hash of the revision that the primary runs.
pub const PROMOTED: &str = "sidetrack.dev/promoted";
/// Annotation (`in-place`): this template went back to the promoted one.
pub const REVERTED: &str = "sidetrack.dev/reverted";
/// Annotation (`primary-copy`): the number of pods that the applier asked for.
pub const REQUESTED_REPLICAS: &str = "sidetrack.dev/requested-replicas";
/// Annotation: `manager user` of the write that brought the held template, `-` for no manager.
pub const APPLIED_BY: &str = "sidetrack.dev/applied-by";
/// Annotation: `GENERATION reason`, set by a person to pass a template unheld.
pub const BREAK_GLASS: &str = "sidetrack.dev/break-glass";
/// Annotation: hash of the template for which break-glass counted; only the webhook writes it.
pub const GLASSED: &str = "sidetrack.dev/glassed";
/// Annotation on an adopted Service: names of the ports that the Canary defines, comma-separated.
pub const PORTS: &str = "sidetrack.dev/ports";
/// Annotation on an adopted Service or route: what its owner had where adoption changed it, as JSON. Leaving puts it back.
pub const ORIGINAL: &str = "sidetrack.dev/original";
/// Annotation: a Canary name too long for a label value, in full.
pub const CANARY_NAME: &str = "sidetrack.dev/canary-name";
/// Annotation on a generated canary (`in-place`): hash of the target's template that it was made from.
pub const REVISION: &str = "sidetrack.dev/revision";
/// Annotation on a generated Deployment: hash of the template as it was written, by which a change by hand is seen.
pub const TEMPLATE: &str = "sidetrack.dev/template";
/// Annotation on a generated Deployment or Service: which labels and annotations it has from the target, or from the Canary, as
/// JSON.
pub const CARRIED: &str = "sidetrack.dev/carried";
/// Annotation on a generated canary (`in-place`, provider `kubernetes`), from when its pods are in the application's Service:
/// the weight that is set, and the number of pods for it ([`crate::router::replicas::Set`]).
pub const SHARE: &str = "sidetrack.dev/share";
/// Label of the pods of a generated canary (`in-place`, provider `kubernetes`): the Canary, as in [`CANARY`]. By it alone they
/// are told from the target's.
pub const PODS: &str = "sidetrack.dev/pods";

/// Annotation on a Deployment: name of the policy by which the webhook has enrolled it; until a Canary takes it up. As a
/// label on a Canary: name of the policy that made it.
pub const POLICY: &str = "sidetrack.dev/policy";

/// Annotation on a Canary that a policy made: digest of the spec that the policy asks for.
pub const SPEC_DIGEST: &str = "sidetrack.dev/spec-digest";

/// Label on a Secret in Sidetrack's own namespace, with value `true`: it has the kubeconfig of the cluster that it is named
/// after.
pub const PEER: &str = "sidetrack.dev/peer";

/// Annotation on a Canary: what a person asks of its release ([`crate::api::request::Request`]).
pub const REQUEST: &str = "sidetrack.dev/request";
/// Annotation on a Canary: the user who asked; only the webhook writes it.
pub const REQUESTED_BY: &str = "sidetrack.dev/requested-by";

/// Finalizer on a Deployment that carries traffic: its deletion waits until the traffic has left.
pub const TRAFFIC_FINALIZER: &str = "sidetrack.dev/traffic";
/// Finalizer on every Canary: it leaves only when its application stands on its own again.
pub const CANARY_FINALIZER: &str = "sidetrack.dev/canary";

/// Finalizer on every CanaryPolicy: it leaves when the Canaries that it made have left.
pub const POLICY_FINALIZER: &str = "sidetrack.dev/policy";

/// Every label of ours on a Deployment.
pub const LABELS: [&str; 3] = [CANARY, LAYOUT, ROLE];
/// Every annotation of ours on a Deployment.
pub const ANNOTATIONS: [&str; 15] = [
    HOLD,
    FAILED,
    PAUSED_BEFORE,
    PROMOTED,
    REVERTED,
    REQUESTED_REPLICAS,
    APPLIED_BY,
    BREAK_GLASS,
    GLASSED,
    CANARY_NAME,
    REVISION,
    TEMPLATE,
    POLICY,
    SHARE,
    CARRIED,
];

/// Condition of a target while a release of it goes on. kstatus takes any object that has it for one that is not done,
/// and Flux (`wait: true`, health checks) waits by kstatus.
pub const RECONCILING: &str = "Reconciling";

/// Field manager of every write of ours.
pub const FIELD_MANAGER: &str = "sidetrack";
/// Namespace that Sidetrack runs in.
pub const NAMESPACE: &str = "sidetrack-system";
/// User name of the controller's ServiceAccount: whom the webhook lets pass.
pub const CONTROLLER_USER: &str = "system:serviceaccount:sidetrack-system:sidetrack";
