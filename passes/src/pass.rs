//! The pass interface and the manager that runs passes, verifies between them and offers every graph to a dump hook.

use std::error::Error;
use std::time::{Duration, Instant};

use peregrine_ir::fhe::{self, Fhe};
use peregrine_ir::tensor::{self, Tensor};
use peregrine_ir::{Dialect, Graph};

use crate::error::{PassError, stage_name};

/// A level of the IR as passes see it: it has stages and a verifier.
pub trait Staged: Dialect {
    /// What a graph promises; later stages include the earlier ones.
    type Stage: Copy + Ord;
    /// Stage of a graph.
    fn stage(graph: &Graph<Self>) -> Self::Stage;
    /// Records that `graph` has reached `stage`.
    fn set_stage(graph: &mut Graph<Self>, stage: Self::Stage);
    /// Name of a stage, as in dumps.
    fn stage_name(stage: Self::Stage) -> &'static str;
    /// Checks every invariant of the graph's stage.
    ///
    /// # Errors
    /// Every invariant that is broken, with the value's name.
    fn verify(graph: &Graph<Self>) -> Result<(), Box<dyn Error + Send + Sync>>;
}

impl Staged for Tensor {
    type Stage = tensor::Stage;
    fn stage(graph: &Graph<Self>) -> tensor::Stage {
        graph.tables.stage
    }
    fn set_stage(graph: &mut Graph<Self>, stage: tensor::Stage) {
        graph.tables.stage = stage;
    }
    fn stage_name(stage: tensor::Stage) -> &'static str {
        stage_name(stage)
    }
    fn verify(graph: &Graph<Self>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(tensor::verify(graph)?)
    }
}

impl Staged for Fhe {
    type Stage = fhe::Stage;
    fn stage(graph: &Graph<Self>) -> fhe::Stage {
        graph.tables.stage
    }
    fn set_stage(graph: &mut Graph<Self>, stage: fhe::Stage) {
        graph.tables.stage = stage;
    }
    fn stage_name(stage: fhe::Stage) -> &'static str {
        match stage {
            fhe::Stage::Packed => "packed",
            fhe::Stage::Leveled => "leveled",
        }
    }
    fn verify(graph: &Graph<Self>) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(fhe::verify(graph)?)
    }
}

/// Whether a pass changed the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// The graph is as before.
    No,
}

impl Changed {
    /// `Yes` if `condition` holds.
    pub fn when(condition: bool) -> Self {
        if condition { Self::Yes } else { Self::No }
    }
}

/// One step of the pipeline. Passes are deterministic: no hash iteration order, no thread timing, no clock.
pub trait Pass<D: Staged> {
    /// Kebab-case name: for `--dump-ir after:NAME` and messages.
    fn name(&self) -> &'static str;
    /// The least stage that the graph must have.
    fn requires(&self) -> D::Stage;
    /// The stage that the graph has afterwards, if it was not further already.
    fn establishes(&self) -> D::Stage;
    /// Rewrites the graph.
    ///
    /// # Errors
    /// What the user can repair, or an internal limit; the graph is unspecified then.
    fn run(&mut self, graph: &mut Graph<D>) -> Result<Changed, PassError>;
}

/// When the manager verifies the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// After every pass.
    EachPass,
    /// After the last pass only.
    AtEnd,
}

/// What one pass did.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// Its name.
    pub pass: &'static str,
    /// Whether the graph changed.
    pub changed: Changed,
    /// Nodes afterwards.
    pub nodes: usize,
    /// Time taken; for reports only, never for decisions.
    pub time: Duration,
}

/// A hook that is shown the graph after each pass.
pub type DumpHook<'a, D> = &'a mut dyn FnMut(&'static str, &Graph<D>);

/// Runs passes in order: stage check, run, verify, dump.
pub struct PassManager<'a, D: Staged> {
    verification: Verification,
    dump: Option<DumpHook<'a, D>>,
    records: Vec<PassRecord>,
}

impl<'a, D: Staged> PassManager<'a, D> {
    /// A manager without dump hook.
    pub fn new(verification: Verification) -> Self {
        Self { verification, dump: None, records: Vec::new() }
    }
    /// Shows every graph to `hook`, with the name of the pass that made it.
    #[must_use]
    pub fn with_dump(mut self, hook: DumpHook<'a, D>) -> Self {
        self.dump = Some(hook);
        self
    }
    /// What was run so far.
    pub fn records(&self) -> &[PassRecord] {
        &self.records
    }
    /// Runs one pass.
    ///
    /// # Errors
    /// [`PassError::Stage`] when the graph is not far enough, the pass' own error, or [`PassError::Invalid`] when the
    /// result breaks an invariant.
    pub fn run(&mut self, pass: &mut dyn Pass<D>, graph: &mut Graph<D>) -> Result<Changed, PassError> {
        let (needs, found) = (pass.requires(), D::stage(graph));
        if found < needs {
            return Err(PassError::Stage {
                pass: pass.name(),
                needs: D::stage_name(needs).to_owned(),
                found: D::stage_name(found).to_owned(),
            });
        }
        let started = Instant::now();
        let changed = pass.run(graph)?;
        D::set_stage(graph, found.max(pass.establishes()));
        let time = started.elapsed();
        if self.verification == Verification::EachPass {
            D::verify(graph).map_err(|source| PassError::Invalid { pass: pass.name(), source })?;
        }
        if let Some(hook) = &mut self.dump {
            hook(pass.name(), graph);
        }
        self.records.push(PassRecord { pass: pass.name(), changed, nodes: graph.nodes.len(), time });
        Ok(changed)
    }
    /// Runs passes in order and verifies the result.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub fn run_all(
        &mut self,
        passes: &mut [&mut dyn Pass<D>],
        graph: &mut Graph<D>,
    ) -> Result<(), PassError> {
        for pass in passes.iter_mut() {
            self.run(&mut **pass, graph)?;
        }
        let last = self.records.last().map_or("input", |record| record.pass);
        D::verify(graph).map_err(|source| PassError::Invalid { pass: last, source })
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
