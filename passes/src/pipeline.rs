//! The pipeline: from an imported tensor graph to a verified program. This file is THE order of the passes.

use peregrine_ckks::params::Params;
use peregrine_ir::ConstTensor;
use peregrine_ir::client::RangeRecord;
use peregrine_ir::fhe::FheGraph;
use peregrine_ir::program::Program;
use peregrine_ir::tensor::{Tensor, TensorGraph, TensorOp};
use thiserror::Error;

use crate::fhe::assign::{LayoutReport, LayoutSearch};
use crate::fhe::budget::ErrorBudget;
use crate::fhe::cost::{Machine, Prediction};
use crate::fhe::key_front::FrontPoint;
use crate::fhe::level::Precision;
use crate::fhe::{LowerError, level, pack, params};
use crate::pass::{Pass, PassRecord, Verification};
use crate::plan::{Outcome, Plan, Planner};
use crate::progress::Progress;
use crate::scales;
use crate::tensor::fit::{FitOptions, FitReport};
use crate::tensor::interp::{self, Batch};
use crate::tensor::moments::{self, Moments};
use crate::tensor::products;
use crate::tensor::{self, fit, ranges};
use crate::{PassError, PassManager};

/// Inputs that ranges are measured on and activations are fitted to.
#[derive(Clone, Copy, Debug)]
pub enum Calibration<'a> {
    /// Real data, given by the user.
    Data(&'a Batch),
    /// A stand-in (a sample or a test pattern): good enough for ranges of a model that is polynomial already, not for fitting.
    StandIn(&'a Batch),
    /// Ranges that the model carries for what enters its polynomials and for its outputs; the rest is taken from a stand-in.
    Recorded {
        /// A sample or a test pattern.
        stand_in: &'a Batch,
        /// Ranges by layer or output name.
        ranges: &'a [RangeRecord],
    },
}

/// Degree of fitted activations.
#[derive(Clone, Debug, PartialEq)]
pub enum Fit {
    /// The highest of [`DEGREES_TRIED`] whose program needs no bootstrapping in a ring of at most 2^[`DEEPEST_LOG_N`].
    Deepest,
    /// These options.
    With(FitOptions),
}

/// Degrees that [`Fit::Deepest`] tries, best accuracy first.
pub const DEGREES_TRIED: [u32; 3] = [8, 4, 2];
/// Largest ring that [`Fit::Deepest`] accepts for more than the least degree: one step more doubles time and memory.
pub const DEEPEST_LOG_N: u32 = 16;

/// How layouts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layouts {
    /// One grid for all values.
    Greedy,
    /// By predicted time, over the whole graph.
    Search,
}

/// Whether copies and imaginary parts of slots share the products of linear maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// By as many copies as are predicted to be fastest, eight at most, whose rounded weights have up to 16 times the error; and narrow
    /// values are made in two parts where that is predicted to be faster, refreshes weighed in.
    Deep,
    /// By two copies at most, where that is predicted to be faster: up to four times the error of rounded weights.
    Shared,
    /// One product for each diagonal.
    Plain,
}

impl Products {
    /// How often the copies that share a product are doubled at most.
    pub fn most_doublings(self) -> usize {
        match self {
            Self::Deep => 3,
            Self::Shared => 1,
            Self::Plain => 0,
        }
    }
}

/// What the pipeline is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Activation fitting.
    pub fit: Fit,
    /// Scales; `None` for those that suit the polynomials' degree ([`Precision::of_degree`]).
    pub precision: Option<Precision>,
    /// How the depth is paid for.
    pub plan: Plan,
    /// Kernel times for the cost model.
    pub machine: Machine,
    /// How layouts are chosen.
    pub layout: Layouts,
    /// How linear maps are computed.
    pub products: Products,
    /// Most bytes of expanded switching keys; `None` weighs them against time.
    pub keys_memory: Option<u64>,
    /// When passes are verified.
    pub verification: Verification,
    /// Is told of each step.
    pub progress: Progress,
}

/// A graph shown to the observer after a pass.
#[derive(Clone, Copy, Debug)]
pub enum Snapshot<'a> {
    /// Tensor level.
    Tensor(&'a TensorGraph),
    /// Fhe level.
    Fhe(&'a FheGraph),
    /// Program level.
    Program(&'a Program),
}

/// Everything the pipeline made.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The canonical model with its original activations.
    pub canonical: TensorGraph,
    /// The polynomial model.
    pub polynomial: TensorGraph,
    /// How well activations were fitted; `None` if the model was polynomial already.
    pub fit: Option<FitReport>,
    /// Largest absolute value per value of `polynomial` and channel.
    pub ranges: Vec<Vec<f64>>,
    /// Moments of the values of `polynomial`.
    pub moments: Vec<Moments>,
    /// Predicted errors.
    pub budget: ErrorBudget,
    /// The leveled fhe graph.
    pub fhe: FheGraph,
    /// Parameters.
    pub params: Params,
    /// The program.
    pub program: Program,
    /// Predicted time and memory.
    pub prediction: Prediction,
    /// How layouts were chosen.
    pub layouts: LayoutReport,
    /// What the keys could have cost: ascending bytes, descending time.
    pub key_front: Vec<FrontPoint>,
    /// Leveled and bootstrapped, as far as they were planned.
    pub outcomes: Vec<Outcome>,
    /// Times of the passes.
    pub records: Vec<PassRecord>,
}

/// Why compilation fails.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// A tensor pass.
    #[error(transparent)]
    Tensor(#[from] PassError),
    /// An fhe pass.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// The model has activations to fit and no data to fit them to.
    #[error(
        "the model has {count} activation(s) that are no polynomials (first: {first}) and no calibration data to fit them to; \
         give --calibrate FILE.npz or a folder of typical images"
    )]
    MissingCalibration {
        /// Number of activations.
        count: usize,
        /// ONNX name of the first.
        first: String,
    },
    /// A verifier found a broken invariant: a bug of the compiler.
    #[error("compiler bug: invalid {level} after {pass}: {source}")]
    Invalid {
        /// IR level.
        level: &'static str,
        /// The pass.
        pass: &'static str,
        /// What the verifier says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Is shown every graph, with the name of the pass that made it.
pub type Observer<'o> = &'o mut dyn FnMut(&'static str, Snapshot<'_>);

impl Default for Options {
    /// The deepest fit, and scales by degree.
    fn default() -> Self {
        Self {
            fit: Fit::Deepest,
            precision: None,
            plan: Plan::Auto,
            machine: Machine::default(),
            layout: Layouts::Search,
            products: Products::Deep,
            keys_memory: None,
            verification: Verification::EachPass,
            progress: Progress::default(),
        }
    }
}

impl Options {
    /// The scales asked for, else those that suit the degree.
    pub(crate) fn scales(&self, degree: u32) -> Precision {
        self.precision.unwrap_or_else(|| Precision::of_degree(degree))
    }
}

fn largest_degree(graph: &TensorGraph) -> u32 {
    let columns = graph.nodes.values().filter_map(|node| match node.op {
        TensorOp::Poly { coefficients } => graph.tables.consts[coefficients].shape.last(),
        _ => None,
    });
    columns.max().map_or(0, |&columns| columns as u32 - 1)
}

/// Compiles an imported graph.
///
/// Order and reasons: tensor passes bring the graph to convolutions, sums and activations; activations are fitted on that
/// form, because ranges are per channel of a convolution's result; packing needs the ranges of the fitted model; levels
/// need the packed graph; the ring is the smallest that holds the levels, and packing is redone for each ring tried, since
/// the number of slots decides layouts.
///
/// # Errors
/// What the user can mend ([`PipelineError::Tensor`], [`PipelineError::Lower`], [`PipelineError::MissingCalibration`]) or a
/// bug of the compiler.
pub fn compile(
    imported: TensorGraph,
    calibration: Calibration<'_>,
    options: &Options,
    observe: Observer<'_>,
) -> Result<Compiled, PipelineError> {
    let mut records = Vec::new();
    let mut canonical = imported;
    options.progress.step("rewriting the model");
    tensor_passes(&mut canonical, options, observe, &mut records, tensor::canonical)?;
    let mut polynomial = canonical.clone();
    let fit = fit_activations(&mut polynomial, calibration, options, observe)?;
    let (Calibration::Data(batch)
    | Calibration::StandIn(batch)
    | Calibration::Recorded { stand_in: batch, .. }) = calibration;
    tensor_passes(&mut polynomial, options, observe, &mut records, |graph, manager| {
        tensor::polynomial(graph, Some(batch), manager)
    })?;
    options.progress.step("measuring ranges on the calibration inputs");
    let moments = moments::measure(&polynomial, batch)?;
    let mut ranges: Vec<Vec<f64>> = moments.iter().map(|value| value.largest.clone()).collect();
    if let Calibration::Recorded { ranges: records, .. } = calibration {
        ranges::apply_records(&polynomial, records, &mut ranges)?;
    }
    let planner = Planner::new(&polynomial, (&ranges, &moments), options);
    let lowered = scales::lower(&planner, largest_degree(&polynomial), options)?;
    lowered.show(observe)?;
    Ok(Compiled {
        canonical,
        polynomial,
        fit,
        ranges,
        moments,
        budget: lowered.budget,
        fhe: lowered.fhe,
        params: lowered.params,
        program: lowered.program,
        prediction: lowered.prediction,
        layouts: lowered.packed.layouts.clone(),
        key_front: lowered.key_front,
        outcomes: lowered.outcomes,
        records,
    })
}

fn tensor_passes(
    graph: &mut TensorGraph,
    options: &Options,
    observe: Observer<'_>,
    records: &mut Vec<PassRecord>,
    passes: impl FnOnce(&mut TensorGraph, &mut PassManager<'_, Tensor>) -> Result<(), PassError>,
) -> Result<(), PipelineError> {
    let mut hook = |pass: &'static str, graph: &TensorGraph| observe(pass, Snapshot::Tensor(graph));
    let mut manager = PassManager::new(options.verification).with_dump(&mut hook);
    passes(graph, &mut manager)?;
    records.extend(manager.records().iter().cloned());
    Ok(())
}

/// Replaces activations by fitted polynomials; `None` if there are none.
fn fit_activations(
    graph: &mut TensorGraph,
    calibration: Calibration<'_>,
    options: &Options,
    observe: Observer<'_>,
) -> Result<Option<FitReport>, PipelineError> {
    let activations = graph.nodes.values().filter(|n| matches!(n.op, TensorOp::Activation(_)));
    let layers: Vec<String> = activations.map(|n| n.origin.as_str().to_owned()).collect();
    let Some(first) = layers.first() else { return Ok(None) };
    let Calibration::Data(batch) = calibration else {
        return Err(PipelineError::MissingCalibration { count: layers.len(), first: first.clone() });
    };
    let fit = match &options.fit {
        Fit::With(fit) => fit.clone(),
        Fit::Deepest => {
            options.progress.step("choosing the degree of the activations");
            FitOptions::of_degree(deepest_degree(graph, options)?)
        }
    };
    options.progress.step(&format!("fitting {} activation(s) to the calibration inputs", layers.len()));
    let report = fit::fit_activations(graph, batch, &fit)?;
    observe("fit-activations", Snapshot::Tensor(graph));
    Ok(Some(report))
}

/// The highest degree whose prime chain fits, found on a copy with stand-in coefficients: levels depend on degrees only. With
/// bootstrapping any depth fits.
fn deepest_degree(graph: &TensorGraph, options: &Options) -> Result<u32, PipelineError> {
    if options.plan == Plan::Bootstrapped {
        return Ok(DEGREES_TRIED[0]);
    }
    for degree in DEGREES_TRIED {
        let mut trial = graph.clone();
        let ones = vec![1.0; degree as usize + 1];
        let coefficients = trial.tables.consts.push(ConstTensor::f64(vec![1, ones.len()], ones));
        for node in trial.nodes.values_mut().filter(|n| matches!(n.op, TensorOp::Activation(_))) {
            node.op = TensorOp::Poly { coefficients };
        }
        products::Products { batch: None }.run(&mut trial)?;
        let ranges: Vec<Vec<f64>> =
            trial.nodes.values().map(|n| vec![1.0; interp::channels_of(&n.ty.shape).0]).collect();
        let slots = 1 << (DEEPEST_LOG_N - 1);
        let packed = pack::pack(&trial, &ranges, slots, &LayoutSearch::Greedy)?.graph;
        let chain = level::assign(&packed, options.scales(degree))?.tables.chain_bits;
        if !params::candidates(&chain, DEEPEST_LOG_N).is_empty() {
            return Ok(degree);
        }
    }
    Ok(DEGREES_TRIED[DEGREES_TRIED.len() - 1])
}

pub(crate) fn invalid<E: std::error::Error + Send + Sync + 'static>(
    level: &'static str,
    pass: &'static str,
    result: Result<(), E>,
) -> Result<(), PipelineError> {
    result.map_err(|source| PipelineError::Invalid { level, pass, source: Box::new(source) })
}
