//! Type rules of the tensor operations.

use thiserror::Error;

use super::{Activation, Conv, Pool, PoolKind, TensorOp, TensorTy};
use crate::axis::Separable;
use crate::consts::{ConstId, ConstPool, ConstTensor};

/// Largest number of elements of a tensor.
pub const MAX_ELEMENTS: usize = 1 << 32;
/// Largest degree of a polynomial.
pub const MAX_POLY_DEGREE: usize = 64;

/// Why an operation has no type.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TypeError {
    /// The type of an input is stated, not inferred.
    #[error("the shape of an input is stated by the model, not inferred")]
    Input,
    /// Wrong number of operands.
    #[error("{op} takes {expected} operand(s), {found} given")]
    Arity {
        /// Mnemonic.
        op: &'static str,
        /// Asked for.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// Wrong number of axes.
    #[error("{op} takes a tensor of shape {expected}, {found} given")]
    Rank {
        /// Mnemonic.
        op: &'static str,
        /// Form asked for.
        expected: &'static str,
        /// Given.
        found: TensorTy,
    },
    /// No axes, a zero extent, too many elements or a batch other than 1.
    #[error("shape {0} is not one of a batch of 1 with 1 to 2^32 elements")]
    Shape(TensorTy),
    /// A constant does not exist.
    #[error("refers to {0}, which does not exist")]
    UnknownConst(ConstId),
    /// A constant has the wrong shape.
    #[error("{role} {constant} has shape {found:?}, {expected} asked for")]
    ConstShape {
        /// What the constant is for.
        role: &'static str,
        /// The constant.
        constant: ConstId,
        /// Form asked for.
        expected: String,
        /// Found.
        found: Vec<usize>,
    },
    /// A stride, dilation, kernel extent or group count of zero.
    #[error("{op} has a zero in {attribute}")]
    Zero {
        /// Mnemonic.
        op: &'static str,
        /// Attribute.
        attribute: &'static str,
    },
    /// Channels that groups do not divide.
    #[error("{groups} groups do not divide {channels} channels")]
    Groups {
        /// Groups.
        groups: u32,
        /// Channels of operand or result.
        channels: usize,
    },
    /// A window larger than the padded map.
    #[error("{op} window of {window} does not fit the padded extent {extent}")]
    Window {
        /// Mnemonic.
        op: &'static str,
        /// Dilated kernel extent.
        window: u64,
        /// Extent with padding.
        extent: u64,
    },
    /// A pooling window that can lie in the padding only.
    #[error("pooling pads {pad} with a kernel of {kernel}: a window could hold nothing but padding")]
    PoolPad {
        /// Padding.
        pad: u32,
        /// Kernel extent.
        kernel: u32,
    },
    /// Operands of different shape.
    #[error("{op} of {left} and {right}: the shapes must be equal")]
    Operands {
        /// Mnemonic.
        op: &'static str,
        /// Left.
        left: TensorTy,
        /// Right.
        right: TensorTy,
    },
    /// A reshape that changes the number of elements.
    #[error("reshape of {from} to {to} changes the number of elements")]
    Reshape {
        /// From.
        from: TensorTy,
        /// To.
        to: TensorTy,
    },
    /// A separable map of other extents than its operand's.
    #[error("separable map of {expected:?} channels, rows and columns on an operand of shape {found}")]
    Separable {
        /// Extents that the map reads.
        expected: [u32; 3],
        /// Operand.
        found: TensorTy,
    },
    /// An attribute of an activation is not a number, or its bounds are exchanged.
    #[error("{op} has unusable bounds or slopes")]
    Activation {
        /// Mnemonic.
        op: &'static str,
    },
}

/// The type of the value that `op` gives for operands of types `args`.
///
/// # Errors
/// [`TypeError`] names the first rule that is broken. [`TensorOp::Input`] has no inferred type: [`TypeError::Input`].
pub fn infer(op: &TensorOp, args: &[&TensorTy], consts: &ConstPool) -> Result<TensorTy, TypeError> {
    let expected = op.arity();
    if args.len() != expected {
        return Err(TypeError::Arity { op: op.mnemonic(), expected, found: args.len() });
    }
    for ty in args {
        check_shape(ty)?;
    }
    let result = match op {
        TensorOp::Input { .. } => return Err(TypeError::Input),
        TensorOp::Conv(conv) => infer_conv(conv, args[0], consts)?,
        TensorOp::FullyConnected { weights, bias } => {
            infer_fully_connected(*weights, *bias, args[0], consts)?
        }
        TensorOp::ChannelAffine { mul, add } => {
            let channels = channels(op, args[0])?;
            vector("factors", *mul, &[channels], consts)?;
            vector("offsets", *add, &[channels], consts)?;
            args[0].clone()
        }
        TensorOp::Activation(activation) => infer_activation(op, activation, args[0], consts)?,
        TensorOp::Poly { coefficients } => infer_poly(op, *coefficients, args[0], consts)?,
        TensorOp::Add | TensorOp::Sub | TensorOp::Mul => {
            let (left, right) = (args[0].clone(), args[1].clone());
            if left != right {
                return Err(TypeError::Operands { op: op.mnemonic(), left, right });
            }
            left
        }
        TensorOp::Pool(pool) => infer_pool(pool, args[0])?,
        TensorOp::GlobalAveragePool => {
            let [c, _, _] = chw("global_average_pool", args[0])?;
            TensorTy::map(c, 1, 1)
        }
        TensorOp::Pad { pads } => {
            let [c, h, w] = chw("pad", args[0])?;
            let pad = |extent: usize, at: usize| extent + pads[at] as usize + pads[at + 2] as usize;
            TensorTy::map(c, pad(h, 0), pad(w, 1))
        }
        TensorOp::Reshape { shape } => {
            let (from, to) = (args[0].clone(), TensorTy { shape: shape.clone() });
            check_shape(&to)?;
            if from.len() != to.len() {
                return Err(TypeError::Reshape { from, to });
            }
            to
        }
        TensorOp::Separable(map) => infer_separable(map, args[0])?,
    };
    check_shape(&result)?;
    Ok(result)
}

/// A shape is one of a batch of 1 with 1 to [`MAX_ELEMENTS`] elements.
///
/// # Errors
/// [`TypeError::Shape`] otherwise.
pub(super) fn check_shape(ty: &TensorTy) -> Result<(), TypeError> {
    let elements = ty.shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent));
    let usable = elements.is_some_and(|n| (1..=MAX_ELEMENTS).contains(&n));
    if usable && ty.shape.len() >= 2 && ty.shape.len() <= 8 && ty.shape[0] == 1 {
        Ok(())
    } else {
        Err(TypeError::Shape(ty.clone()))
    }
}

fn chw(op: &'static str, ty: &TensorTy) -> Result<[usize; 3], TypeError> {
    match ty.shape[..] {
        [1, c, h, w] => Ok([c, h, w]),
        _ => Err(TypeError::Rank { op, expected: "[1, C, H, W]", found: ty.clone() }),
    }
}

fn channels(op: &TensorOp, ty: &TensorTy) -> Result<usize, TypeError> {
    let error = || TypeError::Rank { op: op.mnemonic(), expected: "[1, C, ..]", found: ty.clone() };
    ty.shape.get(1).copied().ok_or_else(error)
}

fn constant(id: ConstId, consts: &ConstPool) -> Result<&ConstTensor, TypeError> {
    consts.get(id).ok_or(TypeError::UnknownConst(id))
}

/// A constant of one axis whose extent is one of `lengths`.
fn vector(role: &'static str, id: ConstId, lengths: &[usize], consts: &ConstPool) -> Result<(), TypeError> {
    let found = &constant(id, consts)?.shape;
    match found[..] {
        [n] if lengths.contains(&n) => Ok(()),
        _ => Err(TypeError::ConstShape {
            role,
            constant: id,
            expected: lengths.iter().map(|n| format!("[{n}]")).collect::<Vec<_>>().join(" or "),
            found: found.clone(),
        }),
    }
}

fn no_zeros(op: &'static str, attribute: &'static str, values: &[u32]) -> Result<(), TypeError> {
    if values.contains(&0) { Err(TypeError::Zero { op, attribute }) } else { Ok(()) }
}

/// `floor((extent + before + after - window) / stride) + 1`.
fn windows(
    op: &'static str,
    extent: usize,
    [before, after]: [u32; 2],
    window: u64,
    stride: u32,
) -> Result<usize, TypeError> {
    let extent = extent as u64 + u64::from(before) + u64::from(after);
    let room = extent.checked_sub(window).ok_or(TypeError::Window { op, window, extent })?;
    Ok((room / u64::from(stride)) as usize + 1)
}

fn infer_conv(conv: &Conv, arg: &TensorTy, consts: &ConstPool) -> Result<TensorTy, TypeError> {
    let op = "conv";
    let [c, h, w] = chw(op, arg)?;
    no_zeros(op, "stride", &conv.stride)?;
    no_zeros(op, "dilation", &conv.dilation)?;
    no_zeros(op, "groups", &[conv.groups])?;
    let weights = constant(conv.weights, consts)?;
    let wrong = |expected: String| TypeError::ConstShape {
        role: "weights",
        constant: conv.weights,
        expected,
        found: weights.shape.clone(),
    };
    let [c_out, c_in, kh, kw] = *<&[usize; 4]>::try_from(&weights.shape[..])
        .map_err(|_| wrong("[C_out, C_in/groups, KH, KW]".into()))?;
    for channels in [c, c_out] {
        if channels == 0 || !channels.is_multiple_of(conv.groups as usize) {
            return Err(TypeError::Groups { groups: conv.groups, channels });
        }
    }
    if c_in != c / conv.groups as usize {
        return Err(wrong(format!("[C_out, {}, KH, KW]", c / conv.groups as usize)));
    }
    if kh == 0 || kw == 0 {
        return Err(TypeError::Zero { op, attribute: "kernel" });
    }
    if let Some(bias) = conv.bias {
        vector("bias", bias, &[c_out], consts)?;
    }
    let window = |k: usize, d: u32| (k as u64 - 1).saturating_mul(u64::from(d)).saturating_add(1);
    let [top, left, bottom, right] = conv.pads;
    let rows = windows(op, h, [top, bottom], window(kh, conv.dilation[0]), conv.stride[0])?;
    let columns = windows(op, w, [left, right], window(kw, conv.dilation[1]), conv.stride[1])?;
    Ok(TensorTy::map(c_out, rows, columns))
}

fn infer_fully_connected(
    weights: ConstId,
    bias: Option<ConstId>,
    arg: &TensorTy,
    consts: &ConstPool,
) -> Result<TensorTy, TypeError> {
    let op = "fully_connected";
    let [1, features] = arg.shape[..] else {
        return Err(TypeError::Rank { op, expected: "[1, F]", found: arg.clone() });
    };
    let found = &constant(weights, consts)?.shape;
    let out = match found[..] {
        [out, n] if n == features => out,
        _ => {
            let expected = format!("[out, {features}]");
            let found = found.clone();
            return Err(TypeError::ConstShape { role: "weights", constant: weights, expected, found });
        }
    };
    if let Some(bias) = bias {
        vector("bias", bias, &[out], consts)?;
    }
    Ok(TensorTy { shape: vec![1, out] })
}

fn infer_activation(
    op: &TensorOp,
    activation: &Activation,
    arg: &TensorTy,
    consts: &ConstPool,
) -> Result<TensorTy, TypeError> {
    let usable = match activation {
        Activation::LeakyRelu { alpha } | Activation::Elu { alpha } => alpha.is_finite(),
        Activation::Clip { low, high } => low <= high,
        Activation::HardSigmoid { alpha, beta } => alpha.is_finite() && beta.is_finite(),
        Activation::PRelu { slope } => {
            let channels = channels(op, arg)?;
            vector("slopes", *slope, &[channels, 1], consts)?;
            true
        }
        Activation::Relu
        | Activation::Sigmoid
        | Activation::Silu
        | Activation::HardSwish
        | Activation::Gelu
        | Activation::GeluTanh
        | Activation::Softplus
        | Activation::Mish
        | Activation::Tanh => true,
    };
    if usable { Ok(arg.clone()) } else { Err(TypeError::Activation { op: op.mnemonic() }) }
}

fn infer_poly(op: &TensorOp, id: ConstId, arg: &TensorTy, consts: &ConstPool) -> Result<TensorTy, TypeError> {
    let channels = channels(op, arg)?;
    let found = &constant(id, consts)?.shape;
    match found[..] {
        [rows, columns]
            if (rows == channels || rows == 1) && (1..=MAX_POLY_DEGREE + 1).contains(&columns) =>
        {
            Ok(arg.clone())
        }
        _ => Err(TypeError::ConstShape {
            role: "coefficients",
            constant: id,
            expected: format!("[{channels} or 1, degree + 1]"),
            found: found.clone(),
        }),
    }
}

fn infer_separable(map: &Separable, arg: &TensorTy) -> Result<TensorTy, TypeError> {
    let (expected, output) = (map.input(), map.output().map(|extent| extent as usize));
    let fits = |extents: [usize; 3]| extents == expected.map(|extent| extent as usize);
    match (&arg.shape[..], output) {
        (&[1, c, h, w], [oc, oh, ow]) if fits([c, h, w]) => Ok(TensorTy::map(oc, oh, ow)),
        (&[1, features], [out, 1, 1]) if fits([features, 1, 1]) => Ok(TensorTy { shape: vec![1, out] }),
        _ => Err(TypeError::Separable { expected, found: arg.clone() }),
    }
}

fn infer_pool(pool: &Pool, arg: &TensorTy) -> Result<TensorTy, TypeError> {
    let op = match pool.kind {
        PoolKind::AverageExcludePad | PoolKind::AverageIncludePad => "average_pool",
        PoolKind::Max => "max_pool",
    };
    let [c, h, w] = chw(op, arg)?;
    no_zeros(op, "stride", &pool.stride)?;
    no_zeros(op, "kernel", &pool.kernel)?;
    for (at, &pad) in pool.pads.iter().enumerate() {
        let kernel = pool.kernel[at % 2];
        if pad >= kernel {
            return Err(TypeError::PoolPad { pad, kernel });
        }
    }
    let [top, left, bottom, right] = pool.pads;
    let rows = windows(op, h, [top, bottom], u64::from(pool.kernel[0]), pool.stride[0])?;
    let columns = windows(op, w, [left, right], u64::from(pool.kernel[1]), pool.stride[1])?;
    Ok(TensorTy::map(c, rows, columns))
}
