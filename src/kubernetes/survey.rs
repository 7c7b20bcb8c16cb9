//! Lists what else there is in a namespace ([`Neighbours`]).

use crate::rollout::model::neighbours::{LISTED, Listed, Neighbours};
use futures::future::join_all;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde_json::Value;

/// Objects in a page.
const PAGE: u32 = 500;

/// Looks at a namespace. A kind that the cluster does not serve has no objects; one that may not be listed is noted as such.
///
/// # Errors
///
/// When a list fails for another reason: what is there is then not known.
pub async fn neighbours(client: &Client, namespace: &str) -> Result<Neighbours, kube::Error> {
    let mut found = Neighbours::default();
    let lists = join_all(LISTED.iter().map(|kind| list(client, namespace, *kind))).await;
    for (kind, listed) in LISTED.into_iter().zip(lists) {
        match listed {
            Ok(objects) => found.add(kind, objects),
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(kube::Error::Api(status)) if status.code == 403 => found.hide(kind, &status.message),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn list(client: &Client, namespace: &str, kind: Listed) -> Result<Vec<Value>, kube::Error> {
    let api_version = if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    };
    let resource = ApiResource {
        group: kind.group.into(),
        version: kind.version.into(),
        api_version,
        kind: kind.kind.into(),
        plural: kind.plural.into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let (items, next) = if kind.metadata {
            let page = api.list_metadata(&params).await?;
            (
                page.items.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>(),
                page.metadata.continue_,
            )
        } else {
            let page = api.list(&params).await?;
            (page.items.iter().map(serde_json::to_value).collect(), page.metadata.continue_)
        };
        objects.extend(items.map_err(kube::Error::SerdeError)?);
        match next.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
