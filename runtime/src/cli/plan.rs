//! What a run takes, before anything is made.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use peregrine_runtime::plan::{self, RunPlan};

use super::{Format, print};

/// Flags of `plan`.
#[derive(Debug, Args)]
pub struct Flags {
    /// The compiled model (.fhe), as written by peregrinec.
    model: PathBuf,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// Plans and prints.
pub(super) fn execute(flags: &Flags) -> anyhow::Result<()> {
    let plan = RunPlan::of(&flags.model)?;
    print(&match Format::of_flag(flags.json) {
        Format::Json => serde_json::to_string(&plan).context("cannot write the plan as JSON")? + "\n",
        Format::Text => plan::text(&plan),
    })
}
