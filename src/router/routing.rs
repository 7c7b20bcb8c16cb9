//! What a traffic provider has to know. All else is the same for each of them.

use super::adopted::Shape;
use super::object;
use super::service::ServiceSpec;
use super::{Backends, Live, RouteError, Router, Settled, Weights};
use crate::object::{Kind, ObjectRef, Write};
use json_patch::{AddOperation, PatchOperation};
use serde_json::Value;

/// One traffic provider; [`super::providers::ALL`] lists them.
pub(super) trait Routing: Sync {
    /// Its names in `spec.provider` and `--mesh-provider`, as they stand there.
    fn names(&self) -> &'static [&'static str] {
        &[]
    }

    /// Names of which more may follow after a colon, such as the mesh behind an SMI TrafficSplit.
    fn prefixes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The kinds of its objects, that of the weighted one first.
    fn kinds(&self) -> &'static [Kind];

    /// Names the objects that the routing consists of, the weighted one first.
    fn objects(&self, router: &Router) -> Vec<ObjectRef> {
        vec![self.route(router)]
    }

    /// Names the weighted object: the provider's first kind, with the name of the apex Service.
    fn route(&self, router: &Router) -> ObjectRef {
        let kind = self.kinds().first().copied().unwrap_or(Kind::Service);
        ObjectRef::new(kind, &router.names.namespace, &router.names.apex)
    }

    /// Makes what is missing and repairs all but weights; see [`Router::reconcile`].
    ///
    /// # Errors
    ///
    /// When the Canary asks for a route that cannot be.
    fn reconcile(&self, router: &Router, live: &Live<'_>) -> Result<Vec<Write>, RouteError>;

    /// Finds the backends of each rule of the route that leads to the canary; the last pair is the one whose weights are read.
    fn pairs(&self, router: &Router, route: &Value) -> Vec<Backends>;

    /// Gives a route its weights and changes nothing else. A provider overrides it when a weight is more than a number in
    /// one place.
    ///
    /// # Errors
    ///
    /// When the route does not lead to both sides.
    fn set_weights(
        &self,
        router: &Router,
        route: &Value,
        wanted: Weights,
    ) -> Result<Option<Write>, RouteError> {
        let at = self.route(router);
        let mut pairs = self.pairs(router, route);
        let Some(last @ Backends { primary: Some(_), canary: Some(_) }) = pairs.pop() else {
            return Err(router.no_routes(&at));
        };
        // A sticky rule of Flagger's session affinity stands before the weighted one in a route that was made for the Canary.
        let others = if router.owner.owns(route) { Vec::new() } else { pairs };
        let changes = others
            .into_iter()
            .chain([last])
            .filter_map(|pair| Some([(pair.primary?, wanted.primary), (pair.canary?, wanted.canary)]))
            .flatten()
            .filter(|(backend, weight)| backend.weight != Some(*weight))
            // "add" to a member of an object replaces it when it is there.
            .map(|(backend, weight)| {
                PatchOperation::Add(AddOperation { path: backend.weight_at, value: self.weight(weight) })
            })
            .collect();
        Ok(object::guarded(&at, route, changes))
    }

    /// Writes a weight in the provider's form.
    fn weight(&self, weight: i32) -> Value {
        weight.into()
    }

    /// Says whether the data plane has taken up the route, where its status tells.
    fn settled(&self, _router: &Router, _route: &Value) -> Settled {
        Settled::Yes
    }

    /// How a route says where traffic goes, by which one that was there before is edited; `None` of a provider whose routes
    /// are not adopted.
    fn shape(&self, router: &Router) -> Option<Shape>;

    /// How it said so before the application spoke another protocol.
    fn former_shape(&self, _router: &Router) -> Option<Shape> {
        None
    }

    /// Builds the `spec` of a route that is made for the Canary.
    ///
    /// # Errors
    ///
    /// When there is none for what the Canary asks for.
    fn spec(&self, router: &Router, weights: Weights) -> Result<Value, RouteError>;

    /// Lays a rule of such a route over a live one.
    fn merged_rule(&self, _router: &Router, live: Value, _wanted: Value) -> Value {
        live
    }

    /// Takes out of a rule what an interrupted run of Flagger left in it.
    fn without_leftovers(&self, _router: &Router, _rule: &mut Value) {}

    /// Names the fields of `spec.service`, metadata aside, that an adopted route says otherwise of.
    fn unwritten(&self, _router: &Router, _spec: &Value, _rules: &[&Value]) -> Vec<&'static str> {
        Vec::new()
    }

    /// Whether what is routed is what clients send to the apex Service; else they come through a gateway, by other names.
    fn called_by_service(&self, _apex: &str, _service: &ServiceSpec) -> bool {
        false
    }
}
