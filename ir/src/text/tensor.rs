//! Text of the tensor level.

use std::fmt::Write;

use super::cursor::{Cursor, Expected, Join, Name, Quote, TextError, lines};
use super::tables::{parse_const, parse_separable, print_consts, print_shape, separable_text, shape};
use crate::consts::ConstPool;
use crate::graph::{Node, Origin, OutputPort, ValueId};
use crate::tensor::{
    Activation, Conv, Pool, PoolKind, Stage, Tensor, TensorGraph, TensorOp, TensorTables, TensorTy,
};

type Result<T> = std::result::Result<T, TextError>;

/// Prints a tensor graph.
pub fn print_tensor(graph: &TensorGraph) -> String {
    let mut out = format!("tensor {} stage={}\n", Name(&graph.name), stage_text(graph.tables.stage));
    print_consts(&mut out, &graph.tables.consts);
    for (id, node) in graph.nodes.iter() {
        let _ = write!(out, "  {id} = {}", node.op.mnemonic());
        print_op(&mut out, node);
        let _ = writeln!(out, " : {} ; {}", print_shape(&node.ty.shape), Quote(node.origin.as_str()));
    }
    for output in &graph.outputs {
        let _ = writeln!(out, "  output {} = {}", Quote(&output.name), output.value);
    }
    out
}

/// Reads a tensor graph whose constants are those of `pool`.
///
/// # Errors
/// [`TextError`] at the first line that does not read.
pub fn parse_tensor(text: &str, pool: &ConstPool) -> Result<TensorGraph> {
    let mut lines = lines(text);
    let mut line = Cursor::first(&mut lines)?;
    line.literal("tensor")?;
    let name = line.name()?;
    line.key("stage")?;
    let stage = parse_stage(&mut line)?;
    line.end()?;
    let mut graph = TensorGraph::new(name, TensorTables { consts: ConstPool::new(), stage });
    for mut line in lines {
        if line.at_id("c") {
            parse_const(&mut line, pool, &mut graph.tables.consts)?;
        } else if line.eat("output") {
            graph.outputs.push(parse_output(&mut line)?);
        } else {
            line.definition("v", graph.nodes.len())?;
            let node = parse_node(&mut line)?;
            graph.nodes.push(node);
        }
        line.end()?;
    }
    Ok(graph)
}

pub(super) fn parse_output(line: &mut Cursor<'_>) -> Result<OutputPort> {
    let name = line.quoted()?;
    line.literal("=")?;
    Ok(OutputPort { name, value: line.id("v")? })
}

pub(super) fn parse_origin(line: &mut Cursor<'_>) -> Result<Origin> {
    line.literal(";")?;
    Ok(Origin::new(&line.quoted()?))
}

fn stage_text(stage: Stage) -> &'static str {
    match stage {
        Stage::Imported => "imported",
        Stage::Canonical => "canonical",
        Stage::Polynomial => "polynomial",
    }
}

fn parse_stage(line: &mut Cursor<'_>) -> Result<Stage> {
    let before = *line;
    match line.word() {
        "imported" => Ok(Stage::Imported),
        "canonical" => Ok(Stage::Canonical),
        "polynomial" => Ok(Stage::Polynomial),
        _ => Err(before.expected(Expected::Stage)),
    }
}

fn pool_text(kind: PoolKind) -> &'static str {
    match kind {
        PoolKind::AverageExcludePad => "average_exclude_pad",
        PoolKind::AverageIncludePad => "average_include_pad",
        PoolKind::Max => "max",
    }
}

fn print_op(out: &mut String, node: &Node<Tensor>) {
    if !node.args.is_empty() {
        let _ = write!(out, " {}", Join(&node.args, " "));
    }
    let pair = |[a, b]: [u32; 2]| format!("{a}x{b}");
    let _ = match &node.op {
        TensorOp::Input { name } => write!(out, " {}", Quote(name)),
        TensorOp::Conv(conv) => {
            let _ = write!(out, " weights={}", conv.weights);
            print_bias(out, conv.bias);
            let (stride, dilation) = (pair(conv.stride), pair(conv.dilation));
            let pads = Join(&conv.pads, ",");
            write!(out, " stride={stride} pads={pads} dilation={dilation} groups={}", conv.groups)
        }
        TensorOp::FullyConnected { weights, bias } => {
            let result = write!(out, " weights={weights}");
            print_bias(out, *bias);
            result
        }
        TensorOp::ChannelAffine { mul, add } => write!(out, " mul={mul} add={add}"),
        TensorOp::Activation(activation) => print_activation(out, activation),
        TensorOp::Poly { coefficients } => write!(out, " coefficients={coefficients}"),
        TensorOp::Add | TensorOp::Sub | TensorOp::Mul | TensorOp::GlobalAveragePool => Ok(()),
        TensorOp::Pool(pool) => {
            let (kernel, stride, pads) = (pair(pool.kernel), pair(pool.stride), Join(&pool.pads, ","));
            write!(out, " kind={} kernel={kernel} stride={stride} pads={pads}", pool_text(pool.kind))
        }
        TensorOp::Pad { pads } => write!(out, " pads={}", Join(pads, ",")),
        TensorOp::Reshape { shape } => write!(out, " shape={}", print_shape(shape)),
        TensorOp::Separable(map) => write!(out, " {}", separable_text(map)),
    };
}

fn print_bias(out: &mut String, bias: Option<crate::consts::ConstId>) {
    if let Some(bias) = bias {
        let _ = write!(out, " bias={bias}");
    }
}

fn print_activation(out: &mut String, activation: &Activation) -> std::fmt::Result {
    match activation {
        Activation::LeakyRelu { alpha } | Activation::Elu { alpha } => write!(out, " alpha={alpha:?}"),
        Activation::PRelu { slope } => write!(out, " slope={slope}"),
        Activation::Clip { low, high } => write!(out, " low={low:?} high={high:?}"),
        Activation::HardSigmoid { alpha, beta } => write!(out, " alpha={alpha:?} beta={beta:?}"),
        Activation::Relu
        | Activation::Sigmoid
        | Activation::Silu
        | Activation::HardSwish
        | Activation::Gelu
        | Activation::GeluTanh
        | Activation::Softplus
        | Activation::Mish
        | Activation::Tanh => Ok(()),
    }
}

fn parse_node(line: &mut Cursor<'_>) -> Result<Node<Tensor>> {
    let before = *line;
    let mnemonic = line.word();
    let mut args = smallvec::SmallVec::<[ValueId; 2]>::new();
    while line.at_id("v") {
        args.push(line.id("v")?);
    }
    let op = match mnemonic {
        "input" => TensorOp::Input { name: line.quoted()? },
        "conv" => TensorOp::Conv(parse_conv(line)?),
        "fully_connected" => {
            line.key("weights")?;
            TensorOp::FullyConnected { weights: line.id("c")?, bias: parse_bias(line)? }
        }
        "channel_affine" => {
            line.key("mul")?;
            let mul = line.id("c")?;
            line.key("add")?;
            TensorOp::ChannelAffine { mul, add: line.id("c")? }
        }
        "poly" => {
            line.key("coefficients")?;
            TensorOp::Poly { coefficients: line.id("c")? }
        }
        "add" => TensorOp::Add,
        "sub" => TensorOp::Sub,
        "mul" => TensorOp::Mul,
        "global_average_pool" => TensorOp::GlobalAveragePool,
        "pool" => TensorOp::Pool(parse_pool(line)?),
        "pad" => TensorOp::Pad { pads: parse_pads(line)? },
        "reshape" => {
            line.key("shape")?;
            TensorOp::Reshape { shape: shape(line)? }
        }
        "separable" => TensorOp::Separable(parse_separable(line)?),
        other => match parse_activation(other, line)? {
            Some(activation) => TensorOp::Activation(activation),
            None => return Err(before.expected(Expected::Operation)),
        },
    };
    line.literal(":")?;
    let ty = TensorTy { shape: shape(line)? };
    Ok(Node { op, args, ty, origin: parse_origin(line)? })
}

fn parse_bias(line: &mut Cursor<'_>) -> Result<Option<crate::consts::ConstId>> {
    if !line.eat("bias") {
        return Ok(None);
    }
    line.literal("=")?;
    line.id("c").map(Some)
}

fn parse_pads(line: &mut Cursor<'_>) -> Result<[u32; 4]> {
    line.key("pads")?;
    let before = *line;
    line.list(|line| line.integer())?.try_into().map_err(|_| before.expected(Expected::Integer))
}

fn parse_pair(line: &mut Cursor<'_>, key: &'static str) -> Result<[u32; 2]> {
    line.key(key)?;
    line.fixed_extents()
}

fn parse_conv(line: &mut Cursor<'_>) -> Result<Conv> {
    line.key("weights")?;
    let weights = line.id("c")?;
    let bias = parse_bias(line)?;
    let stride = parse_pair(line, "stride")?;
    let pads = parse_pads(line)?;
    let dilation = parse_pair(line, "dilation")?;
    line.key("groups")?;
    Ok(Conv { weights, bias, stride, pads, dilation, groups: line.integer()? })
}

fn parse_pool(line: &mut Cursor<'_>) -> Result<Pool> {
    line.key("kind")?;
    let before = *line;
    let kind = match line.word() {
        "average_exclude_pad" => PoolKind::AverageExcludePad,
        "average_include_pad" => PoolKind::AverageIncludePad,
        "max" => PoolKind::Max,
        _ => return Err(before.expected(Expected::Operation)),
    };
    let kernel = parse_pair(line, "kernel")?;
    let stride = parse_pair(line, "stride")?;
    Ok(Pool { kind, kernel, stride, pads: parse_pads(line)? })
}

fn parse_activation(mnemonic: &str, line: &mut Cursor<'_>) -> Result<Option<Activation>> {
    let mut number = |key: &'static str| {
        line.key(key)?;
        line.number()
    };
    Ok(Some(match mnemonic {
        "relu" => Activation::Relu,
        "leaky_relu" => Activation::LeakyRelu { alpha: number("alpha")? },
        "prelu" => {
            line.key("slope")?;
            Activation::PRelu { slope: line.id("c")? }
        }
        "clip" => Activation::Clip { low: number("low")?, high: number("high")? },
        "sigmoid" => Activation::Sigmoid,
        "silu" => Activation::Silu,
        "hard_sigmoid" => Activation::HardSigmoid { alpha: number("alpha")?, beta: number("beta")? },
        "hard_swish" => Activation::HardSwish,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "softplus" => Activation::Softplus,
        "mish" => Activation::Mish,
        "elu" => Activation::Elu { alpha: number("alpha")? },
        "tanh" => Activation::Tanh,
        _ => return Ok(None),
    }))
}
