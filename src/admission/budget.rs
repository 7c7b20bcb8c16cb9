//! What reviews may take up together: bytes on their way in, and memory once they are read.
//!
//! The memory of a parsed object has little to do with its size in bytes: an object with one short key takes a hundred times
//! the room of its text. It is estimated from the text before it is parsed.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Unit in which memory is counted: 1 KiB.
const UNIT: usize = 1024;
/// Bytes of bodies that may be on their way in together.
const BODIES: usize = 24 << 20;
/// Memory that parsed reviews may take together.
const PARSED: usize = 96 << 20;
/// Memory that one parsed review may take: fifty thousand small objects, or all that fits into a body.
pub(super) const ONE_PARSED: usize = 48 << 20;

/// Bytes that an object or array with content takes beside its members: one node of a B-tree with eleven places of a key (24)
/// and a value (32), or a vector's first allocation.
const CONTAINER: usize = 11 * (24 + 32) + 32;
/// Bytes of one member more: its share of the next node, and the allocation of a short text.
const MEMBER: usize = 2 * (24 + 32) + 32;

/// The budget.
#[derive(Debug)]
pub(super) struct Budget {
    bodies: Semaphore,
    parsed: Semaphore,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bodies: Semaphore::new(BODIES / UNIT), parsed: Semaphore::new(PARSED / UNIT) }
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Budget {
    /// Takes the room for a body of so many bytes, where there is some at once.
    pub(super) fn body(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.bodies.try_acquire_many(units(bytes)).ok()
    }

    /// Takes the room for a review that takes so many bytes when it is parsed; waits for it.
    pub(super) async fn parsed(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.parsed.acquire_many(units(bytes)).await.ok()
    }
}

/// Estimates from above how many bytes a JSON text takes when it is parsed, without parsing it.
pub(super) fn estimate(text: &[u8]) -> usize {
    let (mut containers, mut members) = (0_usize, 0_usize);
    let mut bytes = text.iter().copied();
    let mut before = b' ';
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => containers += 1,
            // An empty one is made without an allocation.
            b'}' | b']' if matches!(before, b'{' | b'[') => containers = containers.saturating_sub(1),
            b',' => members += 1,
            _ => {}
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
    }
    text.len()
        .saturating_add(containers.saturating_mul(CONTAINER))
        .saturating_add(members.saturating_mul(MEMBER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_count_for_what_they_take() {
        let text = |one: &str, n: usize| format!("[{}]", vec![one; n].join(","));
        let of = |one: &str| estimate(text(one, 1000).as_bytes()) / 1000;
        assert!((700..1000).contains(&of(r#"{"":0}"#)), "{}", of(r#"{"":0}"#));
        assert!(of("{}") < 200 && of("{ }") < 200 && of("0") < 200);
        assert!(of(r#""a,b,{[\",{""#) < 200, "text is no structure");
        assert_eq!(estimate(b"\"open"), 5);
    }

    #[tokio::test]
    async fn room_is_given_back() {
        let budget = Budget::default();
        let all = budget.body(BODIES).unwrap();
        assert!(budget.body(1).is_none());
        drop(all);
        assert!(budget.body(1).is_some());
        let most = budget.parsed(PARSED).await.unwrap();
        let one = budget.parsed(1);
        tokio::pin!(one);
        assert!(futures::poll!(&mut one).is_pending());
        drop(most);
        assert!(one.await.is_some());
    }
}
