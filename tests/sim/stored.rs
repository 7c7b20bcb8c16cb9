//! Objects as they are stored: copies of a cluster share them, and each is named by a hash once.

use super::fingerprint::Print;
use serde_json::Value;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

#[derive(Clone, Debug)]
pub(crate) struct Stored(Arc<(Value, OnceLock<Print>)>);

impl From<Value> for Stored {
    fn from(object: Value) -> Self {
        Self(Arc::new((object, OnceLock::new())))
    }
}

impl Deref for Stored {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0.0
    }
}

impl DerefMut for Stored {
    fn deref_mut(&mut self) -> &mut Value {
        let (object, print) = Arc::make_mut(&mut self.0);
        *print = OnceLock::new();
        object
    }
}

impl Stored {
    /// What names it, dates aside.
    pub(super) fn print(&self) -> &Print {
        self.0.1.get_or_init(|| Print::of(&self.0.0.to_string()))
    }
}
