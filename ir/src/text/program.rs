//! Text of programs.
//!
//! ```text
//! program @lenet log_n=12 q=50b,40b p=50b
//!   c0 = f64[1] #89abcdef
//!   l0 = layout 1x1x8 c=- y=- x=8@s1 period=8 cts=1
//!   m0 = map l0 -> l0 c1 kernel=1x1 stride=1x1 pad=0x0 dilation=1x1 groups=1
//!   k0 = call m0(0) split=4
//!   p0 = vector c0 l0 ct=0
//!   bootstrap base=50 s2c=3x30 usable=28,50 mod=50+4 degree=31 angles=3 arcsine=1 c2s=4x48 special=9x50 ephemeral=2 ratio=11
//!   b0 = refresh slots=32768 scale=2^40 range=1 lift=-
//!   in "x" : l0 unit=c0 level=1 scale=2^40
//!   out "y" 1x8 : l0 unit=c0 level=0 scale=2^40
//!   relin level=1
//!   galois 5 level=1
//!   layer 0 "conv1"
//!   r0 = input 0 ct=0 @0
//!   r1 = linear k0(r0) scale=2^40*q1 @0
//!   r2, r3 = bootstrap b0(r1, r1) @0
//!   free r0 @0
//!   output 0 ct=0 r1 @0
//!   probe "conv1" after=1 l0 unit=c0 regs=r1
//! ```
//! `@0` at the end of an instruction is its layer.

use std::fmt::Write;

use peregrine_ckks::params::{ParamsLiteral, PrimeSpec};
use peregrine_ckks::units::{GaloisElement, Rotation, Slots};

use super::bootstrap::{bootstrap_text, form_text, parse_bootstrap, parse_form};
use super::cursor::{Cursor, Expected, Join, Name, Quote, TextError, lines};
use super::tables::{
    parse_const, parse_layout, parse_map, print_consts, print_layouts, print_maps, print_shape, shape,
};
use crate::consts::ConstPool;
use crate::linear::{BsgsSplit, Imaginary, MAX_SPLIT, Sharing};
use crate::program::{
    CallTerm, Inst, LinearCall, Probe, Program, ProgramInput, ProgramOutput, Refresh, Reg, VectorRecipe,
};

type Result<T> = std::result::Result<T, TextError>;

/// Prints a program.
pub fn print_program(program: &Program) -> String {
    let params = &program.params;
    let primes = |specs: &[PrimeSpec]| {
        let texts: Vec<String> = specs.iter().map(prime_text).collect();
        if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
    };
    let (q, p) = (primes(&params.q), primes(&params.p));
    let mut out = format!("program {} log_n={} q={q} p={p}\n", Name(&program.name), params.log_n);
    print_consts(&mut out, &program.consts);
    print_layouts(&mut out, &program.layouts);
    print_maps(&mut out, &program.maps);
    for (id, call) in program.calls.iter() {
        let terms: Vec<String> = call.terms.iter().map(|t| format!("{}({})", t.map, t.operand)).collect();
        let BsgsSplit { turns, babies, giants } = &call.split;
        let [turns, babies, giants] = [turns, babies, giants].map(|list| rotations_text(list));
        let terms = terms.join(" + ");
        let joins: String = call.shared.iter().map(sharing_text).collect();
        let _ = writeln!(out, "  {id} = call {terms} turns={turns} babies={babies} giants={giants}{joins}");
    }
    for (id, vector) in program.vectors.iter() {
        let _ = writeln!(out, "  {id} = vector {} {} ct={}", vector.values, vector.layout, vector.cipher);
    }
    if let Some(spec) = &program.bootstrap {
        let _ = writeln!(out, "  {}", bootstrap_text(spec));
    }
    for (id, Refresh { slots, scale, form }) in program.refreshes.iter() {
        let _ = writeln!(out, "  {id} = refresh slots={slots} scale={scale} {}", form_text(*form));
    }
    print_interface(&mut out, program);
    for (inst, layer) in program.insts.iter().zip(&program.inst_layers) {
        let _ = writeln!(out, "  {} @{layer}", inst_text(inst));
    }
    for probe in &program.probes {
        let Probe { layer, after, regs, layout, unit } = probe;
        let regs = Join(regs, ",");
        let _ = writeln!(out, "  probe {} after={after} {layout} unit={unit} regs={regs}", Quote(layer));
    }
    out
}

fn prime_text(spec: &PrimeSpec) -> String {
    match spec {
        PrimeSpec::Bits(bits) => format!("{bits}b"),
        PrimeSpec::Exact(prime) => prime.to_string(),
    }
}

fn print_interface(out: &mut String, program: &Program) {
    for input in &program.inputs {
        let ProgramInput { name, layout, level, scale, unit } = input;
        let _ = writeln!(out, "  in {} : {layout} unit={unit} level={level} scale={scale}", Quote(name));
    }
    for output in &program.outputs {
        let ProgramOutput { name, shape, layout, level, scale, unit } = output;
        let (name, shape) = (Quote(name), print_shape(shape));
        let _ = writeln!(out, "  out {name} {shape} : {layout} unit={unit} level={level} scale={scale}");
    }
    if let Some(level) = program.manifest.relin {
        let _ = writeln!(out, "  relin level={level}");
    }
    for (element, level) in &program.manifest.galois {
        let _ = writeln!(out, "  galois {} level={level}", element.get());
    }
    for (index, layer) in program.layers.iter().enumerate() {
        let _ = writeln!(out, "  layer {index} {}", Quote(layer));
    }
}

fn inst_text(inst: &Inst) -> String {
    match inst {
        Inst::Input { dst, input, cipher } => format!("{dst} = input {input} ct={cipher}"),
        Inst::Linear { dsts, call, args, scale } => {
            format!("{} = linear {call}({}) scale={scale}", Join(dsts, ", "), Join(args, ", "))
        }
        Inst::AddVector { dst, src, vector } => format!("{dst} = add_vector {src} {vector}"),
        Inst::MulVector { dst, src, vector, scale } => {
            format!("{dst} = mul_vector {src} {vector} scale={scale}")
        }
        Inst::Add { dst, a, b } => format!("{dst} = add {a} {b}"),
        Inst::Sub { dst, a, b } => format!("{dst} = sub {a} {b}"),
        Inst::Mul { dst, a, b } => format!("{dst} = mul {a} {b}"),
        Inst::Square { dst, src } => format!("{dst} = square {src}"),
        Inst::Rescale { dst, src } => format!("{dst} = rescale {src}"),
        Inst::ModDrop { dst, src, to } => format!("{dst} = mod_drop {src} to={to}"),
        Inst::Rotate { dst, src, rotation } => format!("{dst} = rotate {src} by={rotation}"),
        Inst::Conjugate { dst, src } => format!("{dst} = conjugate {src}"),
        Inst::Bootstrap { dst, src, refresh } => format!("{dst} = bootstrap {refresh}({src})"),
        Inst::BootstrapPair { dsts, srcs, refresh } => {
            format!("{} = bootstrap {refresh}({})", Join(dsts, ", "), Join(srcs, ", "))
        }
        Inst::Output { output, cipher, src } => format!("output {output} ct={cipher} {src}"),
        Inst::Free { reg } => format!("free {reg}"),
    }
}

/// Reads a program whose constants are those of `pool`.
///
/// # Errors
/// [`TextError`] at the first line that does not read.
pub fn parse_program(text: &str, pool: &ConstPool) -> Result<Program> {
    let mut lines = lines(text);
    let mut line = Cursor::first(&mut lines)?;
    let mut program = parse_head(&mut line)?;
    line.end()?;
    for mut line in lines {
        if line.at_id("c") {
            parse_const(&mut line, pool, &mut program.consts)?;
        } else if line.at_id("l") {
            parse_layout(&mut line, &mut program.layouts)?;
        } else if line.at_id("m") {
            parse_map(&mut line, &mut program.maps)?;
        } else if line.at_id("k") {
            parse_call(&mut line, &mut program)?;
        } else if line.at_id("p") {
            parse_vector(&mut line, &mut program)?;
        } else if line.at_id("b") {
            parse_refresh(&mut line, &mut program)?;
        } else if line.eat("bootstrap") {
            program.bootstrap = Some(parse_bootstrap(&mut line, program.params.log_n)?);
        } else if !parse_interface(&mut line, &mut program)? {
            let slots = Slots::new(1 << (program.params.log_n.clamp(1, 32) - 1));
            let inst = parse_inst(&mut line, slots.ok())?;
            line.literal("@")?;
            program.insts.push(inst);
            program.inst_layers.push(line.integer()?);
        }
        line.end()?;
    }
    Ok(program)
}

fn parse_head(line: &mut Cursor<'_>) -> Result<Program> {
    line.literal("program")?;
    let name = line.name()?;
    line.key("log_n")?;
    let log_n = line.integer()?;
    line.key("q")?;
    let q = parse_primes(line)?;
    line.key("p")?;
    let p = parse_primes(line)?;
    Ok(Program::new(name, ParamsLiteral { log_n, q, p }))
}

fn parse_primes(line: &mut Cursor<'_>) -> Result<Vec<PrimeSpec>> {
    if line.eat("-") {
        return Ok(Vec::new());
    }
    line.list(|line| {
        let before = *line;
        let word = line.word();
        let spec = match word.strip_suffix('b') {
            Some(bits) => bits.parse().map(PrimeSpec::Bits),
            None => word.parse().map(PrimeSpec::Exact),
        };
        spec.map_err(|_| before.expected(Expected::Prime))
    })
}

fn parse_call(line: &mut Cursor<'_>, program: &mut Program) -> Result<()> {
    line.definition("k", program.calls.len())?;
    line.literal("call")?;
    let mut terms = Vec::new();
    while terms.is_empty() || line.eat("+") {
        let map = line.id("m")?;
        line.literal("(")?;
        terms.push(CallTerm { map, operand: line.integer()? });
        line.literal(")")?;
    }
    let turns = parse_rotations(line, "turns")?;
    let babies = parse_rotations(line, "babies")?;
    let giants = parse_rotations(line, "giants")?;
    let mut shared = Vec::new();
    while line.eat("join") {
        let imaginary = if line.eat("nothing") {
            Imaginary::Nothing
        } else if line.eat("next") {
            Imaginary::Next
        } else {
            line.key("rotated")?;
            Imaginary::Rotated(line.signed()?)
        };
        line.key("shifts")?;
        let shifts = if line.eat_none() { Vec::new() } else { line.list(Cursor::signed)? };
        shared.push(Sharing { imaginary, shifts });
    }
    program.calls.push(LinearCall { terms, split: BsgsSplit { turns, babies, giants }, shared });
    Ok(())
}

/// ` join rotated=8192 shifts=4096,2048`
fn sharing_text(sharing: &Sharing) -> String {
    let imaginary = match sharing.imaginary {
        Imaginary::Nothing => "nothing".to_owned(),
        Imaginary::Next => "next".to_owned(),
        Imaginary::Rotated(rotation) => format!("rotated={rotation}"),
    };
    let shifts =
        if sharing.shifts.is_empty() { "-".to_owned() } else { Join(&sharing.shifts, ",").to_string() };
    format!(" join {imaginary} shifts={shifts}")
}

/// Signed rotations; `-` for none, `a..b` for three and more in a row.
fn rotations_text(list: &[i32]) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &r in list {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(r) => *last = r,
            _ => runs.push((r, r)),
        }
    }
    let texts = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}..{last}"),
    });
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

fn parse_rotations(line: &mut Cursor<'_>, key: &'static str) -> Result<Vec<i32>> {
    line.key(key)?;
    let mut rotations: Vec<i32> = Vec::new();
    if line.eat_none() {
        return Ok(rotations);
    }
    line.list(|line| {
        let first = line.signed()?;
        let before = *line;
        let last = if line.eat("..") { line.signed()? } else { first };
        let more = i64::from(last) - i64::from(first);
        if more < 0 || rotations.len() as u64 + more as u64 > MAX_SPLIT {
            return Err(before.expected(Expected::Integer));
        }
        rotations.extend(first..=last);
        Ok(())
    })?;
    Ok(rotations)
}

fn parse_vector(line: &mut Cursor<'_>, program: &mut Program) -> Result<()> {
    line.definition("p", program.vectors.len())?;
    line.literal("vector")?;
    let (values, layout) = (line.id("c")?, line.id("l")?);
    line.key("ct")?;
    program.vectors.push(VectorRecipe { values, layout, cipher: line.integer()? });
    Ok(())
}

fn parse_refresh(line: &mut Cursor<'_>, program: &mut Program) -> Result<()> {
    line.definition("b", program.refreshes.len())?;
    line.literal("refresh")?;
    line.key("slots")?;
    let before = *line;
    let slots = Slots::new(line.integer()?).map_err(|_| before.expected(Expected::PowerOfTwo))?;
    line.key("scale")?;
    let scale = line.scale()?;
    program.refreshes.push(Refresh { slots, scale, form: parse_form(line)? });
    Ok(())
}

/// Inputs, outputs, keys, layers and probes. Returns whether the line was one of these.
fn parse_interface(line: &mut Cursor<'_>, program: &mut Program) -> Result<bool> {
    if line.eat("in") {
        let name = line.quoted()?;
        line.literal(":")?;
        let layout = line.id("l")?;
        line.key("unit")?;
        let unit = line.id("c")?;
        line.key("level")?;
        let level = line.level()?;
        line.key("scale")?;
        program.inputs.push(ProgramInput { name, layout, level, scale: line.scale()?, unit });
    } else if line.eat("out") {
        let name = line.quoted()?;
        let shape = shape(line)?;
        line.literal(":")?;
        let layout = line.id("l")?;
        line.key("unit")?;
        let unit = line.id("c")?;
        line.key("level")?;
        let level = line.level()?;
        line.key("scale")?;
        program.outputs.push(ProgramOutput { name, shape, layout, level, scale: line.scale()?, unit });
    } else if line.eat("relin") {
        line.key("level")?;
        program.manifest.relin = Some(line.level()?);
    } else if line.eat("galois") {
        let before = *line;
        let element = GaloisElement::new(line.integer()?);
        let element = element.map_err(|_| before.expected(Expected::GaloisElement))?;
        line.key("level")?;
        program.manifest.galois.insert(element, line.level()?);
    } else if line.eat("layer") {
        let before = *line;
        if line.integer::<usize>()? != program.layers.len() {
            return Err(before.expected(Expected::NextId("layer ")));
        }
        program.layers.push(line.quoted()?);
    } else if line.eat("probe") {
        let layer = line.quoted()?;
        line.key("after")?;
        let after = line.integer()?;
        let layout = line.id("l")?;
        line.key("unit")?;
        let unit = line.id("c")?;
        line.key("regs")?;
        program.probes.push(Probe { layer, after, regs: line.list(|line| line.id("r"))?, layout, unit });
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn parse_inst(line: &mut Cursor<'_>, slots: Option<Slots>) -> Result<Inst> {
    if line.eat("free") {
        return Ok(Inst::Free { reg: line.id("r")? });
    }
    if line.eat("output") {
        let output = line.integer()?;
        line.key("ct")?;
        return Ok(Inst::Output { output, cipher: line.integer()?, src: line.id("r")? });
    }
    let dsts = line.list(|line| line.id("r"))?;
    line.literal("=")?;
    let before = *line;
    let mnemonic = line.word();
    if mnemonic == "linear" {
        return parse_linear(line, dsts);
    }
    if mnemonic == "bootstrap" {
        return parse_bootstraps(line, &dsts, before);
    }
    let [dst] = dsts[..] else { return Err(before.expected(Expected::Literal("linear"))) };
    if mnemonic == "input" {
        let input = line.integer()?;
        line.key("ct")?;
        return Ok(Inst::Input { dst, input, cipher: line.integer()? });
    }
    let src = line.id("r")?;
    Ok(match mnemonic {
        "add_vector" => Inst::AddVector { dst, src, vector: line.id("p")? },
        "mul_vector" => {
            let vector = line.id("p")?;
            line.key("scale")?;
            Inst::MulVector { dst, src, vector, scale: line.scale()? }
        }
        "add" => Inst::Add { dst, a: src, b: line.id("r")? },
        "sub" => Inst::Sub { dst, a: src, b: line.id("r")? },
        "mul" => Inst::Mul { dst, a: src, b: line.id("r")? },
        "square" => Inst::Square { dst, src },
        "rescale" => Inst::Rescale { dst, src },
        "conjugate" => Inst::Conjugate { dst, src },
        "mod_drop" => {
            line.key("to")?;
            Inst::ModDrop { dst, src, to: line.level()? }
        }
        "rotate" => {
            line.key("by")?;
            let before = *line;
            let (steps, slots) = (line.integer::<u32>()?, slots.filter(|s| s.get() > 0));
            let slots =
                slots.filter(|s| steps < s.get()).ok_or_else(|| before.expected(Expected::Integer))?;
            Inst::Rotate { dst, src, rotation: Rotation::new(i64::from(steps), slots) }
        }
        _ => return Err(before.expected(Expected::Operation)),
    })
}

fn parse_linear(line: &mut Cursor<'_>, dsts: Vec<Reg>) -> Result<Inst> {
    let call = line.id("k")?;
    line.literal("(")?;
    let args = line.list(|line| line.id("r"))?;
    line.literal(")")?;
    line.key("scale")?;
    Ok(Inst::Linear { dsts, call, args, scale: line.scale()? })
}

fn parse_bootstraps(line: &mut Cursor<'_>, dsts: &[Reg], before: Cursor<'_>) -> Result<Inst> {
    let refresh = line.id("b")?;
    line.literal("(")?;
    let srcs = line.list(|line| line.id("r"))?;
    line.literal(")")?;
    match (dsts, &srcs[..]) {
        (&[dst], &[src]) => Ok(Inst::Bootstrap { dst, src, refresh }),
        (&[a, b], &[x, y]) => Ok(Inst::BootstrapPair { dsts: [a, b], srcs: [x, y], refresh }),
        _ => Err(before.expected(Expected::Operation)),
    }
}
