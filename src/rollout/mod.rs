//! The pure core: what is seen of a Canary in, what to do about it out.
//!
//! Nothing in here does IO, reads a clock or fails: an impossible state becomes a sentence in status.
//!
//! - `advance` is the table of contents: which file decides, in what order.
//! - [`model`]: plain data. What is observed, and what is to be done about it.
//! - `stages`: a release from its beginning to its end, a file a stage.
//! - `interrupts`: what comes between: people, other writers, lost objects, refused writes, policies.
//! - [`status`]: how status follows a decision.
//! - [`objects`]: the JSON of the objects that are made, and patches of those that are changed.
//! - [`subject`]: which object plays which role; from objects to what is observed, and from steps to writes.
//! - [`preview`]: what adopting an application would do.
mod advance;
mod case;
mod interrupts;
pub mod model;
pub mod objects;
pub mod preview;
mod stages;
pub mod status;
pub mod subject;

pub use advance::advance;
pub use model::observed::{Memory, Observed};
pub use model::plan::Plan;
pub use model::refused::Refused;
pub use status::{leaves_alone, misses_target};
