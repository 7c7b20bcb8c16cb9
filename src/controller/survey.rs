//! Looks at what else there is in a namespace, once for all Canaries that ask at the same time: a policy may adopt hundreds.

use crate::kubernetes::survey::neighbours;
use crate::rollout::model::neighbours::Neighbours;
use kube::Client;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// When the last look at a namespace began, and what it found, as long as somebody needs that.
type Last = Arc<tokio::sync::Mutex<Option<(Instant, Weak<Neighbours>)>>>;

/// The looks, by namespace.
#[derive(Debug, Default)]
pub(super) struct Surveyor {
    namespaces: Mutex<HashMap<String, Last>>,
}

impl Surveyor {
    /// Returns what a look finds that began after this call.
    pub(super) async fn look(
        &self,
        client: &Client,
        namespace: &str,
    ) -> Result<Arc<Neighbours>, kube::Error> {
        let asked = Instant::now();
        let last = {
            let mut all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits for these, and nobody needs them.
            all.retain(|_, last| {
                Arc::strong_count(last) > 1 || last.try_lock().is_ok_and(|last| in_use(&last))
            });
            all.entry(namespace.to_owned()).or_default().clone()
        };
        let mut last = last.lock().await;
        let known = last.as_ref().filter(|(began, _)| *began >= asked).and_then(|(_, found)| found.upgrade());
        if let Some(found) = known {
            return Ok(found);
        }
        let began = Instant::now();
        let found = Arc::new(neighbours(client, namespace).await?);
        *last = Some((began, Arc::downgrade(&found)));
        Ok(found)
    }
}

fn in_use(last: &Option<(Instant, Weak<Neighbours>)>) -> bool {
    last.as_ref().is_some_and(|(_, found)| found.strong_count() > 0)
}
