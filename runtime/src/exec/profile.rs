//! Where the time went: seconds by kind of instruction and by layer.

use std::fmt;
use std::time::Duration;

use peregrine_ckks::cost::Work;
use peregrine_ir::program::Inst;

/// Kinds of instructions that a profile tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InstKind {
    /// Linear macro-instruction.
    Linear,
    /// Square with relinearisation.
    Square,
    /// Product of two ciphertexts with relinearisation.
    Mul,
    /// Rescale.
    Rescale,
    /// Sum with a plaintext vector.
    AddVector,
    /// Product with a plaintext vector.
    MulVector,
    /// Sum or difference of two ciphertexts.
    Add,
    /// Modulus drop.
    ModDrop,
    /// Rotation.
    Rotate,
    /// Conjugation.
    Conjugate,
    /// Refresh.
    Bootstrap,
    /// Inputs, outputs and frees.
    Bookkeeping,
}

impl InstKind {
    /// All kinds, in the order of tables.
    pub const ALL: [Self; 12] = [
        Self::Linear,
        Self::Square,
        Self::Mul,
        Self::Rescale,
        Self::AddVector,
        Self::MulVector,
        Self::Add,
        Self::ModDrop,
        Self::Rotate,
        Self::Conjugate,
        Self::Bootstrap,
        Self::Bookkeeping,
    ];

    /// The kind of an instruction.
    pub fn of(inst: &Inst) -> Self {
        match inst {
            Inst::Linear { .. } => Self::Linear,
            Inst::Square { .. } => Self::Square,
            Inst::Mul { .. } => Self::Mul,
            Inst::Rescale { .. } => Self::Rescale,
            Inst::AddVector { .. } => Self::AddVector,
            Inst::MulVector { .. } => Self::MulVector,
            Inst::Add { .. } | Inst::Sub { .. } => Self::Add,
            Inst::ModDrop { .. } => Self::ModDrop,
            Inst::Rotate { .. } => Self::Rotate,
            Inst::Conjugate { .. } => Self::Conjugate,
            Inst::Bootstrap { .. } | Inst::BootstrapPair { .. } => Self::Bootstrap,
            Inst::Input { .. } | Inst::Output { .. } | Inst::Free { .. } => Self::Bookkeeping,
        }
    }

    /// Name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Square => "square",
            Self::Mul => "mul",
            Self::Rescale => "rescale",
            Self::AddVector => "add_vector",
            Self::MulVector => "mul_vector",
            Self::Add => "add",
            Self::ModDrop => "mod_drop",
            Self::Rotate => "rotate",
            Self::Conjugate => "conjugate",
            Self::Bootstrap => "bootstrap",
            Self::Bookkeeping => "bookkeeping",
        }
    }
}

impl fmt::Display for InstKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One line of a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Instructions.
    pub count: u64,
    /// Wall-clock time.
    pub time: Duration,
}

/// Time of one run, by kind of instruction and by layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    by_kind: [Spent; InstKind::ALL.len()],
    by_layer: Vec<(String, Spent)>,
    /// Counted work of all instructions.
    pub work: Work,
}

impl Profile {
    /// An empty profile of a program with these layers.
    pub fn new(layers: &[String]) -> Self {
        let by_layer = layers.iter().map(|name| (name.clone(), Spent::default())).collect();
        Self { by_kind: Default::default(), by_layer, work: Work::default() }
    }

    /// Adds one instruction.
    pub fn record(&mut self, kind: InstKind, layer: usize, time: Duration) {
        let layer = self.by_layer.get_mut(layer).map(|(_, spent)| spent);
        for spent in [Some(&mut self.by_kind[kind as usize]), layer].into_iter().flatten() {
            spent.count += 1;
            spent.time += time;
        }
    }

    /// Kinds that occurred, in the order of [`InstKind::ALL`].
    pub fn by_kind(&self) -> impl Iterator<Item = (InstKind, Spent)> {
        InstKind::ALL.into_iter().zip(self.by_kind).filter(|(_, spent)| spent.count > 0)
    }

    /// Layers that occurred, in program order.
    pub fn by_layer(&self) -> impl Iterator<Item = (&str, Spent)> {
        self.by_layer.iter().filter(|(_, spent)| spent.count > 0).map(|(name, spent)| (name.as_str(), *spent))
    }

    /// Time of all instructions.
    pub fn total(&self) -> Duration {
        self.by_kind.iter().map(|spent| spent.time).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_by_kind_and_layer() {
        let mut profile = Profile::new(&["a".to_owned(), "b".to_owned()]);
        profile.record(InstKind::Linear, 1, Duration::from_millis(3));
        profile.record(InstKind::Square, 1, Duration::from_millis(4));
        assert_eq!(profile.total(), Duration::from_millis(7));
        let layers: Vec<_> = profile.by_layer().collect();
        assert_eq!(layers, [("b", Spent { count: 2, time: Duration::from_millis(7) })]);
        assert_eq!(
            profile.by_kind().map(|(kind, _)| kind).collect::<Vec<_>>(),
            [InstKind::Linear, InstKind::Square]
        );
    }

    #[test]
    fn kinds_index_their_table() {
        for (i, kind) in InstKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
        }
    }
}
