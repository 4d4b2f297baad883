//! What a compilation is asked for.

use std::path::PathBuf;
use std::str::FromStr;

use peregrine_ir::bytes::ByteSize;
pub use peregrine_passes::pipeline::{Layouts, Products};
pub use peregrine_passes::plan::Plan;
pub use peregrine_passes::progress::Progress;

use crate::gate::Tolerance;
use crate::onnx::ImportOptions;

/// How activations become polynomials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Activations {
    /// Per-channel least-squares fits on calibrated ranges.
    #[default]
    Fit,
}

/// How the depth of a model is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanFlag {
    /// As predicted to be cheaper.
    #[default]
    Auto,
    /// With a chain of primes for the whole model.
    Leveled,
    /// With bootstrapping.
    Bootstrapped,
}

impl From<PlanFlag> for Plan {
    fn from(flag: PlanFlag) -> Self {
        match flag {
            PlanFlag::Auto => Self::Auto,
            PlanFlag::Leveled => Self::Leveled,
            PlanFlag::Bootstrapped => Self::Bootstrapped,
        }
    }
}

/// How tensors are laid out in ciphertexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutFlag {
    /// One pixel grid for all tensors.
    Greedy,
    /// A layout for each tensor, by predicted time over the whole graph.
    #[default]
    Search,
}

impl ProductsFlag {
    /// What is tried one after the other until the check accepts it, and what stands if it accepts none of these.
    pub fn ways(self) -> (&'static [Products], Products) {
        match self {
            Self::Auto => (&[Products::Deep, Products::Shared], Products::Plain),
            Self::Deep => (&[], Products::Deep),
            Self::Shared => (&[], Products::Shared),
            Self::Plain => (&[], Products::Plain),
        }
    }
}

impl From<LayoutFlag> for Layouts {
    fn from(flag: LayoutFlag) -> Self {
        match flag {
            LayoutFlag::Greedy => Self::Greedy,
            LayoutFlag::Search => Self::Search,
        }
    }
}

/// How linear maps are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ProductsFlag {
    /// As deep; with less sharing, or none, where the check finds that too rough.
    #[default]
    Auto,
    /// Imaginary parts and up to eight copies of slots share products, and narrow values are made in two parts, each where that is predicted to be faster: up to four bits of precision less than plain, of which scales win some back.
    Deep,
    /// Imaginary parts and two copies share them: one or two bits of precision less.
    Shared,
    /// One product for each diagonal.
    Plain,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Emit {
    /// The polynomial model as tensor-level text.
    Tensor,
    /// The packed, leveled graph as text.
    Fhe,
    /// The program as text.
    Program,
    /// The polynomial model as plain ONNX.
    Onnx,
}

/// Where the report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportTo {
    /// To the terminal, as text.
    Text,
    /// To standard output, as JSON.
    Json,
    /// To a page.
    HtmlFile(PathBuf),
    /// To a file, as JSON.
    JsonFile(PathBuf),
}

impl FromStr for ReportTo {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let path = PathBuf::from(text);
        let ending = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        match (text, ending.as_deref()) {
            ("text", _) => Ok(Self::Text),
            ("json", _) => Ok(Self::Json),
            (_, Some("html" | "htm")) => Ok(Self::HtmlFile(path)),
            (_, Some("json")) => Ok(Self::JsonFile(path)),
            (_, _) => {
                Err("json, FILE.html or FILE.json is expected; put the model before a bare --report"
                    .to_owned())
            }
        }
    }
}

/// Which graphs are dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpPoint {
    /// Name of the pass, or `all`.
    pub pass: String,
}

impl DumpPoint {
    /// Whether the graph after `pass` is dumped.
    pub fn matches(&self, pass: &str) -> bool {
        self.pass == pass || self.is_all()
    }

    /// Whether every graph is dumped.
    pub fn is_all(&self) -> bool {
        self.pass == "all"
    }
}

impl FromStr for DumpPoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("after:") {
            Some(pass) if !pass.is_empty() => Ok(Self { pass: pass.to_owned() }),
            _ => Err("after:PASS or after:all is expected".to_owned()),
        }
    }
}

/// Whether the program is run against tract before it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verify {
    /// It is, and refused past the tolerance.
    Gate(Tolerance),
    /// It is not.
    Skip,
}

/// A compilation.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// The ONNX file.
    pub model: PathBuf,
    /// Import.
    pub import: ImportOptions,
    /// Calibration inputs: `.npz` or folder.
    pub calibrate: Option<PathBuf>,
    /// How activations become polynomials.
    pub activations: Activations,
    /// Degree of fitted polynomials.
    pub degree: Option<u32>,
    /// How the depth is paid for.
    pub plan: Plan,
    /// How tensors are laid out.
    pub layout: Layouts,
    /// How linear maps are computed.
    pub products: Products,
    /// Bits of the output that the noise model must leave; without it scales that suit the degree.
    pub precision: Option<f64>,
    /// Input that the gate runs and the artefact carries.
    pub sample: Option<PathBuf>,
    /// Class names.
    pub labels: Option<PathBuf>,
    /// Figures of the machine that runs the program, as `peregrine-run calibrate` writes them.
    pub machine: Option<PathBuf>,
    /// Most memory of expanded switching keys.
    pub keys_memory: Option<ByteSize>,
    /// The gate.
    pub verify: Verify,
    /// Dumps.
    pub dump: Vec<DumpPoint>,
    /// Is told of each step.
    pub progress: Progress,
}
