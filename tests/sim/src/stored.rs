//! Objects as they are stored: copies of a cluster share them, and each is named by a hash once.

use crate::fingerprint::Print;
use serde_json::Value;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

#[derive(Clone, Debug)]
pub struct Stored {
    object: Arc<Value>,
    print: Arc<OnceLock<Print>>,
}

impl From<Value> for Stored {
    fn from(object: Value) -> Self {
        Self { object: Arc::new(object), print: Arc::default() }
    }
}

impl Deref for Stored {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.object
    }
}

impl DerefMut for Stored {
    fn deref_mut(&mut self) -> &mut Value {
        self.print = Arc::default();
        Arc::make_mut(&mut self.object)
    }
}

impl Stored {
    /// What names it, dates aside.
    pub(super) fn print(&self) -> &Print {
        self.print.get_or_init(|| Print::of(&self.object.to_string()))
    }

    /// The object, as a cache hands it out.
    pub(super) fn shared(&self) -> Arc<Value> {
        self.object.clone()
    }
}
