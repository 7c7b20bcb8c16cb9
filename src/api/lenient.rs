//! Reading what the API server lets through although the controller means something narrower.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// Reads a whole number from any JSON number: a fraction is cut off, what 32 bits cannot hold is clamped.
///
/// Flagger's schema says `number` where its Go types say `int`, so `port: 80.5` is stored and then makes the
/// object unreadable for Flagger.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Number::deserialize(deserializer).map(|number| clamp(&number))
}

/// As [`whole`], for a field that may be absent.
pub(super) fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    Ok(Option::<Number>::deserialize(deserializer)?.map(|number| clamp(&number)))
}

/// As [`whole`], for a count that may be absent or null: never less than none.
pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Ok(optional_whole(deserializer)?.unwrap_or_default().max(0).unsigned_abs())
}

/// As [`whole`], for a list.
pub(super) fn whole_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i32>, D::Error> {
    Ok(Vec::<Number>::deserialize(deserializer)?.iter().map(clamp).collect())
}

/// Reads a port by number or name; a number that 32 bits cannot hold is clamped.
pub(super) fn int_or_string<'de, D>(deserializer: D) -> Result<Option<IntOrString>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(Number),
        Text(String),
    }
    Ok(Option::<Either>::deserialize(deserializer)?.map(|either| match either {
        Either::Number(number) => IntOrString::Int(clamp(&number)),
        Either::Text(text) => IntOrString::String(text),
    }))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from f64 to i32 saturates, which is what is meant"
)]
fn clamp(number: &Number) -> i32 {
    number.as_f64().unwrap_or_default() as i32
}

/// Takes the null fields out of an object, as the API server does with fields that may not be null.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

/// Makes a spec type whose absence reads as its default, whatever object it is the `spec` of, and whose null
/// fields read as absent ones: a manifest may have them, a stored object never.
///
/// Neither Flagger's schema nor ours requires `spec` at the root, and the root types are derived, so the field
/// itself cannot carry `#[serde(default)]`. The type must be derived with `#[serde(remote = "Self")]`: what the
/// derive makes are then inherent functions, to which these implementations delegate.
macro_rules! default_when_absent {
    ($spec:ident) => {
        impl<'de> serde::Deserialize<'de> for $spec {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match Option::<serde_json::Value>::deserialize(deserializer)? {
                    Some(value) => $spec::deserialize($crate::api::lenient::without_nulls(value))
                        .map_err(serde::de::Error::custom),
                    None => Ok($spec::default()),
                }
            }
        }

        impl serde::Serialize for $spec {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $spec::serialize(self, serializer)
            }
        }
    };
}
pub(super) use default_when_absent;
