//! The instructions.

use peregrine_ckks::units::{Level, Rotation, Scale};
use smallvec::{SmallVec, smallvec};

crate::entity_id!(
    /// A ciphertext register; prints as `r0`.
    Reg, "r"
);
crate::entity_id!(
    /// Names a linear call; prints as `k0`.
    CallId, "k"
);
crate::entity_id!(
    /// Names a plaintext vector; prints as `p0`.
    VectorId, "p"
);
crate::entity_id!(
    /// Names a refresh; prints as `b0`.
    RefreshId, "b"
);

/// One instruction. `dst` registers are fresh.
#[derive(Clone, Debug, PartialEq)]
pub enum Inst {
    /// Ciphertext `cipher` of input `input`.
    Input {
        /// Result.
        dst: Reg,
        /// Index of the program input.
        input: u32,
        /// Ciphertext of its layout.
        cipher: u32,
    },
    /// The linear call `call`; results at the arguments' level and scale `scale`, not rescaled. The weights of each term are
    /// encoded at `scale` / scale of the operand.
    Linear {
        /// Results, one per ciphertext of the output layout.
        dsts: Vec<Reg>,
        /// Recipe.
        call: CallId,
        /// Ciphertexts of operand 0, then of operand 1, ...; all at one level.
        args: Vec<Reg>,
        /// Scale of the results.
        scale: Scale,
    },
    /// `dst = src + vector`, encoded at the scale of `src`.
    AddVector {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
        /// Plaintext.
        vector: VectorId,
    },
    /// `dst = src * vector`, encoded at `scale`; not rescaled.
    MulVector {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
        /// Plaintext.
        vector: VectorId,
        /// Scale of the plaintext.
        scale: Scale,
    },
    /// `dst = a + b`, same level and scale.
    Add {
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
        /// Operand.
        b: Reg,
    },
    /// `dst = a - b`, same level and scale.
    Sub {
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
        /// Operand.
        b: Reg,
    },
    /// `dst = a * b`, relinearised, not rescaled; same level.
    Mul {
        /// Result.
        dst: Reg,
        /// Operand.
        a: Reg,
        /// Operand.
        b: Reg,
    },
    /// `dst = src^2`, relinearised, not rescaled.
    Square {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
    },
    /// Divides by the last prime q_level: level - 1, scale / q_level.
    Rescale {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
    },
    /// Drops limbs down to level `to`; the scale stays.
    ModDrop {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
        /// New level, at most the operand's.
        to: Level,
    },
    /// `dst[i] = src[i + rotation]`.
    Rotate {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
        /// Amount.
        rotation: Rotation,
    },
    /// Complex conjugate of the slots.
    Conjugate {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
    },
    /// Refreshes a ciphertext of real slots as `refresh` says.
    Bootstrap {
        /// Result.
        dst: Reg,
        /// Operand.
        src: Reg,
        /// Recipe.
        refresh: RefreshId,
    },
    /// Refreshes two ciphertexts of real slots in one bootstrap, as `x + iy`.
    BootstrapPair {
        /// Results.
        dsts: [Reg; 2],
        /// Operands.
        srcs: [Reg; 2],
        /// Recipe.
        refresh: RefreshId,
    },
    /// Gives `src` out as ciphertext `cipher` of output `output`.
    Output {
        /// Index of the program output.
        output: u32,
        /// Ciphertext of its layout.
        cipher: u32,
        /// Operand.
        src: Reg,
    },
    /// The register is dead.
    Free {
        /// The register.
        reg: Reg,
    },
}

impl Inst {
    /// Registers that the instruction reads, in operand order.
    pub fn reads(&self) -> SmallVec<[Reg; 2]> {
        match self {
            Self::Input { .. } | Self::Free { .. } => SmallVec::new(),
            Self::Linear { args, .. } => SmallVec::from_slice(args),
            Self::BootstrapPair { srcs, .. } => SmallVec::from_slice(srcs),
            Self::AddVector { src, .. }
            | Self::MulVector { src, .. }
            | Self::Square { src, .. }
            | Self::Rescale { src, .. }
            | Self::ModDrop { src, .. }
            | Self::Rotate { src, .. }
            | Self::Conjugate { src, .. }
            | Self::Bootstrap { src, .. }
            | Self::Output { src, .. } => smallvec![*src],
            Self::Add { a, b, .. } | Self::Sub { a, b, .. } | Self::Mul { a, b, .. } => smallvec![*a, *b],
        }
    }

    /// Registers that the instruction defines.
    pub fn writes(&self) -> &[Reg] {
        match self {
            Self::Linear { dsts, .. } => dsts,
            Self::BootstrapPair { dsts, .. } => dsts,
            Self::Input { dst, .. }
            | Self::AddVector { dst, .. }
            | Self::MulVector { dst, .. }
            | Self::Add { dst, .. }
            | Self::Sub { dst, .. }
            | Self::Mul { dst, .. }
            | Self::Square { dst, .. }
            | Self::Rescale { dst, .. }
            | Self::ModDrop { dst, .. }
            | Self::Rotate { dst, .. }
            | Self::Conjugate { dst, .. }
            | Self::Bootstrap { dst, .. } => std::slice::from_ref(dst),
            Self::Output { .. } | Self::Free { .. } => &[],
        }
    }
}
