//! Text of the fhe level.

use std::fmt::Write;

use super::bootstrap::{bootstrap_text, form_text, parse_bootstrap, parse_form};
use super::cursor::{Cursor, Expected, Join, Name, Quote, TextError, lines};
use super::tables::{parse_const, parse_layout, parse_map, print_consts, print_layouts, print_maps};
use super::tensor::{parse_origin, parse_output};
use crate::consts::ConstPool;
use crate::entity::PrimaryMap;
use crate::fhe::{CipherTy, Fhe, FheGraph, FheOp, FheTables, MonicPoly, PackedTy, Stage};
use crate::graph::{Node, ValueId};

type Result<T> = std::result::Result<T, TextError>;

/// Prints an fhe graph.
pub fn print_fhe(graph: &FheGraph) -> String {
    let tables = &graph.tables;
    let (stage, slots) = (stage_text(tables.stage), tables.slots);
    let mut out = format!("fhe {} stage={stage} slots={slots} chain=", Name(&graph.name));
    if tables.chain_bits.is_empty() {
        out.push('-');
    }
    let _ = writeln!(out, "{}", Join(&tables.chain_bits, ","));
    if let Some(spec) = &tables.bootstrap {
        let _ = writeln!(out, "  {} log_n={}", bootstrap_text(spec), spec.log_n);
    }
    print_consts(&mut out, &tables.consts);
    print_layouts(&mut out, &tables.layouts);
    print_maps(&mut out, &tables.maps);
    for (id, node) in graph.nodes.iter() {
        let _ = write!(out, "  {id} = ");
        print_op(&mut out, node);
        let _ = write!(out, " : {} unit={} reach={:?}", node.ty.layout, node.ty.unit, node.ty.reach);
        if let Some(cipher) = &node.ty.cipher {
            let _ = write!(out, " level={} scale={}", cipher.level, cipher.scale);
        }
        let _ = writeln!(out, " ; {}", Quote(node.origin.as_str()));
    }
    for output in &graph.outputs {
        let _ = writeln!(out, "  output {} = {}", Quote(&output.name), output.value);
    }
    out
}

fn stage_text(stage: Stage) -> &'static str {
    match stage {
        Stage::Packed => "packed",
        Stage::Leveled => "leveled",
    }
}

fn print_op(out: &mut String, node: &Node<Fhe>) {
    let args = Join(&node.args, " ");
    let _ = match &node.op {
        FheOp::Input { name } => {
            let space = if node.args.is_empty() { "" } else { " " };
            write!(out, "input {args}{space}{}", Quote(name))
        }
        FheOp::Linear { maps, bias } => {
            let terms: Vec<String> =
                maps.iter().zip(&node.args).map(|(map, arg)| format!("{map}({arg})")).collect();
            let _ = write!(out, "linear {}", terms.join(" + "));
            match bias {
                Some(bias) => write!(out, " bias={bias}"),
                None => Ok(()),
            }
        }
        FheOp::Poly(poly) => write!(out, "poly {args} degree={} lower={}", poly.degree, poly.lower),
        FheOp::Add => write!(out, "add {args}"),
        FheOp::Drop { to } => write!(out, "drop {args} to={to}"),
        FheOp::Bootstrap(form) => write!(out, "bootstrap {args} {}", form_text(*form)),
    };
}

/// Reads an fhe graph whose constants are those of `pool`.
///
/// # Errors
/// [`TextError`] at the first line that does not read.
pub fn parse_fhe(text: &str, pool: &ConstPool) -> Result<FheGraph> {
    let mut lines = lines(text);
    let mut line = Cursor::first(&mut lines)?;
    let mut graph = parse_head(&mut line)?;
    line.end()?;
    for mut line in lines {
        let tables = &mut graph.tables;
        if line.at_id("c") {
            parse_const(&mut line, pool, &mut tables.consts)?;
        } else if line.at_id("l") {
            parse_layout(&mut line, &mut tables.layouts)?;
        } else if line.at_id("m") {
            parse_map(&mut line, &mut tables.maps)?;
        } else if line.eat("bootstrap") {
            let mut spec = parse_bootstrap(&mut line, 0)?;
            line.key("log_n")?;
            spec.log_n = line.integer()?;
            tables.bootstrap = Some(spec);
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

fn parse_head(line: &mut Cursor<'_>) -> Result<FheGraph> {
    line.literal("fhe")?;
    let name = line.name()?;
    line.key("stage")?;
    let before = *line;
    let stage = match line.word() {
        "packed" => Stage::Packed,
        "leveled" => Stage::Leveled,
        _ => return Err(before.expected(Expected::Stage)),
    };
    line.key("slots")?;
    let slots = line.integer()?;
    line.key("chain")?;
    let chain_bits = if line.eat("-") { Vec::new() } else { line.list(|line| line.integer())? };
    let tables = FheTables {
        consts: ConstPool::new(),
        layouts: PrimaryMap::new(),
        maps: PrimaryMap::new(),
        slots,
        chain_bits,
        bootstrap: None,
        stage,
    };
    Ok(FheGraph::new(name, tables))
}

fn parse_node(line: &mut Cursor<'_>) -> Result<Node<Fhe>> {
    let before = *line;
    let mnemonic = line.word();
    let mut args = smallvec::SmallVec::<[ValueId; 2]>::new();
    while line.at_id("v") {
        args.push(line.id("v")?);
    }
    let op = match mnemonic {
        "input" => FheOp::Input { name: line.quoted()? },
        "linear" => {
            let mut maps = Vec::new();
            while maps.is_empty() || line.eat("+") {
                maps.push(line.id("m")?);
                line.literal("(")?;
                args.push(line.id("v")?);
                line.literal(")")?;
            }
            let bias = if line.eat("bias") {
                line.literal("=")?;
                Some(line.id("c")?)
            } else {
                None
            };
            FheOp::Linear { maps, bias }
        }
        "poly" => {
            line.key("degree")?;
            let degree = line.integer()?;
            line.key("lower")?;
            FheOp::Poly(MonicPoly { degree, lower: line.id("c")? })
        }
        "add" => FheOp::Add,
        "drop" => {
            line.key("to")?;
            FheOp::Drop { to: line.level()? }
        }
        "bootstrap" => FheOp::Bootstrap(parse_form(line)?),
        _ => return Err(before.expected(Expected::Operation)),
    };
    line.literal(":")?;
    let ty = parse_ty(line)?;
    Ok(Node { op, args, ty, origin: parse_origin(line)? })
}

fn parse_ty(line: &mut Cursor<'_>) -> Result<PackedTy> {
    let layout = line.id("l")?;
    line.key("unit")?;
    let unit = line.id("c")?;
    line.key("reach")?;
    let reach = line.number()?;
    let cipher = if line.eat("level") {
        line.literal("=")?;
        let level = line.level()?;
        line.key("scale")?;
        Some(CipherTy { level, scale: line.scale()? })
    } else {
        None
    };
    Ok(PackedTy { layout, unit, reach, cipher })
}
