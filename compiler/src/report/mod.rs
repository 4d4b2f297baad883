//! What `peregrinec` tells about a compilation: one [`Report`], as text, as JSON, and as a page.
//!
//! | module | does |
//! |---|---|
//! | [`model`] | the report itself, as it serialises |
//! | [`collect`] | makes it from what the pipeline and the check made |
//! | `layers` | counts of the program by layer, and of its keys |
//! | `calibration` | how far calibration inputs leave the ranges |
//! | [`text`] | for the terminal |
//! | [`html`] | one self-contained page |

mod calibration;
pub mod collect;
pub mod html;
mod layers;
pub mod model;
pub mod text;

pub use model::Report;
pub use text::{Bytes, summary};
