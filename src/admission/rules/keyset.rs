//! The annotations of ours as a write should leave them.

use crate::admission::view::View;
use crate::api::keys;
use std::borrow::Cow;

type Value<'a> = Option<Cow<'a, str>>;

/// A value for each of [`keys::ANNOTATIONS`]; borrowed unless a rule makes a new one.
pub(super) struct KeySet<'a>([(&'static str, Value<'a>); keys::ANNOTATIONS.len()]);

impl Default for KeySet<'_> {
    fn default() -> Self {
        Self(keys::ANNOTATIONS.map(|key| (key, None)))
    }
}

impl<'a> KeySet<'a> {
    /// Takes all values from an object.
    pub(super) fn of(object: View<'a>) -> Self {
        Self(keys::ANNOTATIONS.map(|key| (key, object.annotation(key).map(Cow::Borrowed))))
    }

    /// Sets a key, or takes it away.
    pub(super) fn set(&mut self, key: &str, value: impl Into<Value<'a>>) {
        if let Some((_, slot)) = self.0.iter_mut().find(|(name, _)| *name == key) {
            *slot = value.into();
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.set(key, None);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        self.0.iter().map(|(key, value)| (*key, value.as_deref()))
    }
}
