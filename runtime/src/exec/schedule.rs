//! Level and exact scale of every register, known before anything runs.

use peregrine_ckks::units::{Level, Scale};
use peregrine_ir::EntityId;
use peregrine_ir::program::{Inst, Program, RefreshId, Reg};

use crate::error::RuntimeError;

/// Level and scale of a ciphertext.
#[derive(Clone, Debug, PartialEq)]
pub struct CipherType {
    /// Level.
    pub level: Level,
    /// Scale.
    pub scale: Scale,
}

/// Types of the registers of a program, and the order in which they come and go.
#[derive(Clone, Debug)]
pub struct Schedule {
    types: Vec<Option<CipherType>>,
}

impl Schedule {
    /// Derives the types. Verified programs always have them.
    ///
    /// # Errors
    /// [`RuntimeError::Program`] when an instruction reads a register that nothing defines.
    pub fn of(program: &Program) -> Result<Self, RuntimeError> {
        let mut schedule = Self { types: vec![None; register_count(program)] };
        for (index, inst) in program.insts.iter().enumerate() {
            schedule
                .define(program, inst)
                .map_err(|what| RuntimeError::Program { place: place(program, index), what })?;
        }
        Ok(schedule)
    }

    /// Number of registers.
    pub fn registers(&self) -> usize {
        self.types.len()
    }

    /// Type of a register.
    pub fn get(&self, reg: Reg) -> Option<&CipherType> {
        self.types.get(reg.index())?.as_ref()
    }

    /// Level of the operands of an instruction; none where it has none.
    pub fn operand_level(&self, inst: &Inst) -> Option<Level> {
        Some(self.get(*inst.reads().first()?)?.level)
    }

    fn read(&self, reg: Reg) -> Result<&CipherType, String> {
        self.get(reg).ok_or_else(|| format!("register {reg} is read before it is defined"))
    }

    fn define(&mut self, program: &Program, inst: &Inst) -> Result<(), String> {
        let ty = match inst {
            Inst::Input { input, .. } => {
                let port = program
                    .inputs
                    .get(*input as usize)
                    .ok_or_else(|| format!("there is no input {input}"))?;
                CipherType { level: port.level, scale: port.scale.clone() }
            }
            Inst::Linear { args, scale, .. } => {
                let first = args.first().ok_or("a linear call without operands")?;
                CipherType { level: self.read(*first)?.level, scale: scale.clone() }
            }
            Inst::AddVector { src, .. } | Inst::Rotate { src, .. } | Inst::Conjugate { src, .. } => {
                self.read(*src)?.clone()
            }
            Inst::MulVector { src, scale, .. } => {
                let src = self.read(*src)?;
                CipherType { level: src.level, scale: src.scale.mul(scale) }
            }
            Inst::Add { a, .. } | Inst::Sub { a, .. } => self.read(*a)?.clone(),
            Inst::Mul { a, b, .. } => {
                let (a, b) = (self.read(*a)?, self.read(*b)?);
                CipherType { level: a.level, scale: a.scale.mul(&b.scale) }
            }
            Inst::Square { src, .. } => {
                let src = self.read(*src)?;
                CipherType { level: src.level, scale: src.scale.square() }
            }
            Inst::Rescale { src, .. } => rescaled(self.read(*src)?)?,
            Inst::ModDrop { src, to, .. } => CipherType { level: *to, scale: self.read(*src)?.scale.clone() },
            Inst::Bootstrap { src, refresh, .. } => {
                self.read(*src)?;
                refreshed(program, *refresh)?
            }
            Inst::BootstrapPair { srcs, refresh, .. } => {
                srcs.iter().try_for_each(|src| self.read(*src).map(|_| ()))?;
                refreshed(program, *refresh)?
            }
            Inst::Output { src, .. } => return self.read(*src).map(|_| ()),
            Inst::Free { reg } => return self.read(*reg).map(|_| ()),
        };
        for dst in inst.writes() {
            self.types[dst.index()] = Some(ty.clone());
        }
        Ok(())
    }
}

fn refreshed(program: &Program, id: RefreshId) -> Result<CipherType, String> {
    let (level, scale) = program.refreshed(id).ok_or_else(|| format!("refresh {id} is not described"))?;
    Ok(CipherType { level, scale })
}

/// What a rescale makes of it.
pub(super) fn rescaled(src: &CipherType) -> Result<CipherType, String> {
    let level = src.level.0.checked_sub(1).ok_or("a rescale at level 0")?;
    Ok(CipherType { level: Level(level), scale: src.scale.div(&Scale::prime(src.level.0)) })
}

fn register_count(program: &Program) -> usize {
    program.insts.iter().flat_map(Inst::writes).map(|reg| reg.index() + 1).max().unwrap_or(0)
}

/// `instruction 12 (layer conv1)`, for messages.
pub fn place(program: &Program, index: usize) -> String {
    format!("instruction {index} (layer `{}`)", layer_name(program, index))
}

/// ONNX node that an instruction comes from.
pub fn layer_name(program: &Program, index: usize) -> &str {
    let layer = program.inst_layers.get(index).and_then(|&layer| program.layers.get(layer as usize));
    layer.map_or("?", String::as_str)
}
