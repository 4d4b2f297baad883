//! The report as a structure: what `--report json` prints and the page shows. Sizes are bytes, times seconds, shares in
//! 0..=1; numbers that are not finite serialise as null.

use serde::Serialize;

/// Everything known about a compilation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model and its client parts.
    pub model: ModelReport,
    /// Encryption parameters.
    pub parameters: ParametersReport,
    /// Sums over the program.
    pub totals: Totals,
    /// What linear operators cost in levels.
    pub linear: LinearReport,
    /// The packed graph, in order of evaluation.
    pub values: Vec<ValueReport>,
    /// The program by layer, in order.
    pub layers: Vec<LayerReport>,
    /// Predicted precision and what takes it.
    pub budget: BudgetReport,
    /// Polynomial activations, in order.
    pub activations: Vec<ActivationReport>,
    /// How well fitted activations did on the calibration inputs; none when the model was polynomial already.
    pub fit: Option<FitSummary>,
    /// The check against tract on one input; none when it was not run.
    pub check: Option<CheckReport>,
    /// Evaluation keys.
    pub keys: Vec<KeyReport>,
    /// Plans that trade keys for time, where the compiler compared several; the chosen one is marked.
    pub key_plans: Vec<KeyPlan>,
    /// Passes that ran.
    pub passes: Vec<PassReport>,
}

/// The model and its client parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelReport {
    /// Name of the ONNX graph.
    pub name: String,
    /// BLAKE3 of the ONNX file, hexadecimal.
    pub hash: String,
    /// Version of the compiler.
    pub compiler: String,
    /// Name of the input.
    pub input: String,
    /// Its shape.
    pub input_shape: Vec<usize>,
    /// How pictures are read, when the input is one.
    pub picture: Option<PictureReport>,
    /// Whether a part of the model runs on the client before encryption.
    pub head: bool,
    /// Whether a part runs on the client after decryption.
    pub tail: bool,
    /// Encrypted outputs.
    pub outputs: Vec<OutputReport>,
}

/// How pictures are read: resized, divided by 255, minus the mean, divided by the standard deviation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PictureReport {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Per-channel mean.
    pub mean: Vec<f32>,
    /// Per-channel standard deviation.
    pub std: Vec<f32>,
}

/// An encrypted output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputReport {
    /// ONNX name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Ciphertexts.
    pub ciphertexts: u32,
    /// Their level.
    pub level: u32,
}

/// Encryption parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ParametersReport {
    /// log2 of the ring dimension.
    pub log_n: u32,
    /// Slots of a ciphertext.
    pub slots: u32,
    /// log2 of the ciphertext modulus.
    pub log_q: f64,
    /// log2 of the ciphertext and special modulus: what security depends on.
    pub log_qp: f64,
    /// Levels.
    pub levels: u32,
    /// Bits of the ciphertext primes, from level 0.
    pub chain_bits: Vec<f64>,
    /// Bits of the special primes.
    pub special_bits: Vec<f64>,
    /// Estimated classical security, where the table has the ring; none below 128 bits.
    pub security_bits: Option<f64>,
}

/// Sums over the program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Instructions.
    pub instructions: usize,
    /// Linear calls.
    pub linear_calls: usize,
    /// Rotations.
    pub rotations: u64,
    /// Products with plaintexts.
    pub products: u64,
    /// Products of ciphertexts.
    pub multiplications: u64,
    /// Bootstraps.
    pub bootstraps: u64,
    /// Predicted seconds per input.
    pub seconds: f64,
    /// Evaluation keys.
    pub keys: u64,
    /// Their size in memory.
    pub key_bytes: u64,
    /// Constants, in compact form.
    pub constant_bytes: u64,
    /// Live ciphertexts at their largest sum.
    pub ciphertext_bytes: u64,
    /// Scratch space of the widest linear call.
    pub scratch_bytes: u64,
    /// Predicted memory in all.
    pub peak_bytes: u64,
    /// Encrypted input; half of it is sent, the other half is a seed.
    pub input_bytes: u64,
    /// Encrypted output.
    pub output_bytes: u64,
}

/// Linear operators (convolutions, sums, movements) and the levels that they use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinearReport {
    /// Operators of the model.
    pub operators: usize,
    /// Of these, how many are parts of others: they relabel or add, and use no level.
    pub free: usize,
    /// How many values of the packed graph use how many levels, ascending.
    pub levels: Vec<LevelUse>,
}

/// Values that use so many levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LevelUse {
    /// Levels from the operands to the result.
    pub levels: u32,
    /// Values.
    pub values: usize,
}

/// Kind of a packed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// Encrypted input.
    Input,
    /// Sum of linear maps.
    Linear,
    /// Polynomial.
    Poly,
    /// Sum.
    Add,
    /// Modulus drop.
    Drop,
    /// Refresh.
    Bootstrap,
}

impl ValueKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Input, Self::Linear, Self::Poly, Self::Add, Self::Drop, Self::Bootstrap];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Linear => "linear",
            Self::Poly => "polynomial",
            Self::Add => "add",
            Self::Drop => "drop",
            Self::Bootstrap => "bootstrap",
        }
    }
}

/// A value of the packed graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueReport {
    /// Kind.
    pub kind: ValueKind,
    /// ONNX node that it comes from.
    pub layer: String,
    /// Operands, by place in the list of values.
    pub args: Vec<usize>,
    /// Channels, rows, columns.
    pub shape: [u32; 3],
    /// Digits of channel, row and column: radix, and slot (s) or ciphertext (t) stride.
    pub layout: String,
    /// Ciphertexts.
    pub ciphertexts: u32,
    /// Slots after which contents repeat.
    pub period: u32,
    /// Share of the slots of a period that hold elements.
    pub occupancy: f64,
    /// Level.
    pub level: Option<u32>,
    /// log2 of the scale.
    pub log_scale: Option<f64>,
    /// Polynomial degree.
    pub degree: Option<u32>,
    /// Output of the model under this name.
    pub output: Option<String>,
}

/// The instructions of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// ONNX node.
    pub name: String,
    /// Level of the first operand.
    pub level_in: Option<u32>,
    /// Level of the last result.
    pub level_out: Option<u32>,
    /// Instructions.
    pub instructions: usize,
    /// Rotations.
    pub rotations: u64,
    /// Products with plaintexts.
    pub products: u64,
    /// Products of ciphertexts.
    pub multiplications: u64,
    /// Bootstraps.
    pub bootstraps: u64,
    /// Rotation keys that it uses.
    pub keys: usize,
    /// Their size.
    pub key_bytes: u64,
    /// Predicted seconds.
    pub seconds: f64,
    /// Deviation from the clear model on the check input, where the layer's value was looked at.
    pub error: Option<ErrorReport>,
    /// What the error budget foresees, where the layer makes values.
    pub foreseen: Option<ForeseenReport>,
}

/// Foreseen error of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ForeseenReport {
    /// Largest deviation of its last value.
    pub error: f64,
    /// Share of what it adds in the variance of the outputs.
    pub share: f64,
}

/// Predicted precision of the outputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BudgetReport {
    /// Bits of the output's range that the error leaves, of the worst output.
    pub bits: f64,
    /// Shares in the variance of the outputs by what makes errors.
    pub sources: Vec<SourceReport>,
}

/// Share of one kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// What makes the errors.
    pub source: &'static str,
    /// In 0..=1.
    pub share: f64,
}

/// Deviation of a value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ErrorReport {
    /// Largest absolute deviation.
    pub error: f64,
    /// Largest absolute value.
    pub magnitude: f64,
    /// `-log2(error / magnitude)`.
    pub bits: f64,
}

/// A polynomial activation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActivationReport {
    /// ONNX node.
    pub layer: String,
    /// Degree.
    pub degree: u32,
    /// Channels.
    pub channels: usize,
    /// Smallest and largest value that it may get, over all channels.
    pub range: [f64; 2],
    /// The same as seen in calibration, where it was fitted.
    pub seen: Option<[f64; 2]>,
    /// Root mean square of the fit's error, relative to the activation.
    pub rms_error: Option<f64>,
    /// Channels whose leading coefficient was raised to the floor.
    pub floored: usize,
    /// Layer whose weights were refitted.
    pub refitted: Option<String>,
    /// Values outside the range on the calibration inputs.
    pub calibration: Option<OutsideReport>,
    /// Values outside the range on the check input.
    pub check: Option<OutsideReport>,
}

/// Values outside a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct OutsideReport {
    /// Values outside.
    pub outside: u64,
    /// Values in all.
    pub total: u64,
    /// Largest distance outside, in half widths of the channel's range.
    pub worst: f64,
}

/// How well fitted activations did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FitSummary {
    /// Share of calibration inputs with the same largest output.
    pub agreement: f64,
    /// Change of the first output, root mean square, relative.
    pub output_error: f64,
}

/// The check against tract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckReport {
    /// Outputs.
    pub outputs: Vec<OutputError>,
    /// Largest relative error allowed.
    pub tolerance: f64,
    /// Whether every output is within it.
    pub passes: bool,
}

/// Deviation of one output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputError {
    /// ONNX name.
    pub name: String,
    /// Largest absolute deviation from tract.
    pub error: f64,
    /// Range of tract's values.
    pub range: f64,
    /// `-log2(error / range)`.
    pub bits: f64,
    /// Whether the largest value is at the same place.
    pub same_top: bool,
}

/// What a key switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// The square of the secret.
    Relinearisation,
    /// The secret under an automorphism.
    Galois,
    /// Between the secret and the ephemeral one of bootstrapping, both ways.
    Ephemeral,
}

/// An evaluation key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyReport {
    /// Kind.
    pub kind: KeyKind,
    /// The automorphism `X -> X^element`.
    pub element: Option<u64>,
    /// The rotation that it makes, when the program rotates by it.
    pub rotation: Option<u32>,
    /// Highest level that it is used at.
    pub level: u32,
    /// Its size.
    pub bytes: u64,
    /// Layers that use it.
    pub layers: usize,
}

/// A plan of keys and its price.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyPlan {
    /// What distinguishes it.
    pub name: String,
    /// Predicted seconds.
    pub seconds: f64,
    /// Size of its keys.
    pub key_bytes: u64,
    /// Whether the program is made by it.
    pub chosen: bool,
}

/// A pass that ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassReport {
    /// Name.
    pub pass: &'static str,
    /// Nodes afterwards.
    pub nodes: usize,
    /// Seconds.
    pub seconds: f64,
}
