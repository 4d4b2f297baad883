//! Constants, layouts and linear maps: the definitions that levels share.

use std::fmt::{self, Write};

use peregrine_ckks::units::Slots;

use super::cursor::{Cursor, Expected, Join, TextError, TextProblem};
use crate::axis::{AxisMap, AxisRun, Separable};
use crate::consts::{ConstData, ConstId, ConstPool, ConstTensor};
use crate::entity::{EntityId, PrimaryMap};
use crate::layout::{Chw, Digit, Layout, Place};
use crate::linear::{ConvGeometry, LayoutId, LinearMap, LinearMapId};

type Result<T> = std::result::Result<T, TextError>;

/// `1x8x14x14`, or `-` without extents.
pub(super) fn print_shape(shape: &[usize]) -> String {
    if shape.is_empty() { "-".to_owned() } else { Join(shape, "x").to_string() }
}

pub(super) fn shape(line: &mut Cursor<'_>) -> Result<Vec<usize>> {
    if line.eat("-") { Ok(Vec::new()) } else { line.extents() }
}

/// `f32[8,1,5,5] #89abcdef`
struct Signature<'a>(&'a ConstTensor);

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0.data {
            ConstData::F32(_) => "f32",
            ConstData::F64(_) => "f64",
        };
        write!(f, "{kind}[{}] #{}", Join(&self.0.shape, ","), short_hash(self.0))
    }
}

/// The first four bytes of the BLAKE3 of the little-endian data, in hexadecimal.
fn short_hash(constant: &ConstTensor) -> String {
    let mut hasher = blake3::Hasher::new();
    match &constant.data {
        ConstData::F32(data) => {
            for x in data.iter() {
                hasher.update(&x.to_le_bytes());
            }
        }
        ConstData::F64(data) => {
            for x in data.iter() {
                hasher.update(&x.to_le_bytes());
            }
        }
    }
    hasher.finalize().to_hex()[..8].to_owned()
}

pub(super) fn print_consts(out: &mut String, consts: &ConstPool) {
    for (id, constant) in consts.iter() {
        let _ = writeln!(out, "  {id} = {}", Signature(constant));
    }
}

/// A constant's line, from the side table.
pub(super) fn parse_const(line: &mut Cursor<'_>, pool: &ConstPool, consts: &mut ConstPool) -> Result<()> {
    line.definition("c", consts.len())?;
    let id = ConstId::new(consts.len());
    let before = *line;
    let kind = match line.word() {
        kind @ ("f32" | "f64") => kind,
        _ => return Err(before.expected(Expected::ElementType)),
    };
    line.literal("[")?;
    let shape: Vec<usize> = if line.eat("]") {
        Vec::new()
    } else {
        let shape = line.list(|line| line.integer())?;
        line.literal("]")?;
        shape
    };
    line.literal("#")?;
    let stated = format!("{kind}[{}] #{}", Join(&shape, ","), line.word());
    let constant = pool.get(id).ok_or_else(|| before.problem(TextProblem::UnknownConst(id)))?;
    let found = Signature(constant).to_string();
    if stated != found {
        return Err(before.problem(TextProblem::ConstDiffers { constant: id, stated, found }));
    }
    consts.push(constant.clone());
    Ok(())
}

pub(super) fn print_layouts(out: &mut String, layouts: &PrimaryMap<LayoutId, Layout>) {
    for (id, layout) in layouts.iter() {
        let _ = write!(out, "  {id} = layout {}", layout.shape);
        for (axis, digits) in ["c", "y", "x"].iter().zip(&layout.digits) {
            let digits: Vec<String> = digits.iter().map(digit_text).collect();
            let text = if digits.is_empty() { "-".to_owned() } else { digits.join(",") };
            let _ = write!(out, " {axis}={text}");
        }
        let _ = writeln!(out, " period={} cts={}", layout.period, layout.ciphertexts);
    }
}

fn digit_text(digit: &Digit) -> String {
    match digit.place {
        Place::Slot(stride) => format!("{}@s{stride}", digit.radix),
        Place::Cipher(stride) => format!("{}@t{stride}", digit.radix),
    }
}

pub(super) fn parse_layout(line: &mut Cursor<'_>, layouts: &mut PrimaryMap<LayoutId, Layout>) -> Result<()> {
    line.definition("l", layouts.len())?;
    line.literal("layout")?;
    let [c, h, w] = line.fixed_extents()?;
    let mut digits: [Vec<Digit>; 3] = Default::default();
    for (axis, digits) in ["c", "y", "x"].into_iter().zip(&mut digits) {
        line.key(axis)?;
        if !line.eat("-") {
            *digits = line.list(parse_digit)?;
        }
    }
    line.key("period")?;
    let period = slots(line)?;
    line.key("cts")?;
    layouts.push(Layout { shape: Chw { c, h, w }, digits, period, ciphertexts: line.integer()? });
    Ok(())
}

fn slots(line: &mut Cursor<'_>) -> Result<Slots> {
    let before = *line;
    Slots::new(line.integer()?).map_err(|_| before.expected(Expected::PowerOfTwo))
}

fn parse_digit(line: &mut Cursor<'_>) -> Result<Digit> {
    let before = *line;
    let radix = line.integer()?;
    line.literal("@")?;
    let stride = line.word();
    let number = |text: &str| text.parse().map_err(|_| before.expected(Expected::Digit));
    let place = match stride.split_at_checked(1) {
        Some(("s", stride)) => Place::Slot(number(stride)?),
        Some(("t", stride)) => Place::Cipher(number(stride)?),
        _ => return Err(before.expected(Expected::Digit)),
    };
    Ok(Digit { radix, place })
}

pub(super) fn print_maps(out: &mut String, maps: &PrimaryMap<LinearMapId, LinearMap>) {
    for (id, map) in maps.iter() {
        let g = map.geometry;
        let pair = |[a, b]: [u32; 2]| format!("{a}x{b}");
        let _ = writeln!(
            out,
            "  {id} = map {} -> {} {} kernel={} stride={} pad={} dilation={} groups={}",
            map.input,
            map.output,
            map.weights,
            pair(g.kernel),
            pair(g.stride),
            pair(g.pad),
            pair(g.dilation),
            g.groups
        );
    }
}

pub(super) fn parse_map(line: &mut Cursor<'_>, maps: &mut PrimaryMap<LinearMapId, LinearMap>) -> Result<()> {
    line.definition("m", maps.len())?;
    line.literal("map")?;
    let input = line.id("l")?;
    line.literal("->")?;
    let output = line.id("l")?;
    let weights = line.id("c")?;
    let mut pairs = [[0u32; 2]; 4];
    for (key, pair) in ["kernel", "stride", "pad", "dilation"].into_iter().zip(&mut pairs) {
        line.key(key)?;
        *pair = line.fixed_extents()?;
    }
    line.key("groups")?;
    let [kernel, stride, pad, dilation] = pairs;
    let geometry = ConvGeometry { kernel, stride, pad, dilation, groups: line.integer()? };
    maps.push(LinearMap { input, output, geometry, weights });
    Ok(())
}

/// `c=16 y=8>16:0+2<0+1#8,1+2<0+1#8 x=8`
pub(super) fn separable_text(map: &Separable) -> String {
    let [c, y, x] = &map.maps;
    format!("c={c} y={y} x={x}")
}

pub(super) fn parse_separable(line: &mut Cursor<'_>) -> Result<Separable> {
    let mut axis = |key| {
        line.key(key)?;
        parse_axis_map(line)
    };
    Ok(Separable { maps: [axis("c")?, axis("y")?, axis("x")?] })
}

fn parse_axis_map(line: &mut Cursor<'_>) -> Result<AxisMap> {
    let before = *line;
    let input = line.integer()?;
    let result = if line.eat(">") {
        let output = line.integer()?;
        line.literal(":")?;
        let runs = if line.at_id("") { line.list(parse_run)? } else { Vec::new() };
        AxisMap::from_runs(input, output, &runs)
    } else {
        AxisMap::window(input, input, 0, 1)
    };
    result.map_err(|error| before.problem(TextProblem::Axis(error)))
}

fn parse_run(line: &mut Cursor<'_>) -> Result<AxisRun> {
    let (output, output_step) = parse_place(line)?;
    line.literal("<")?;
    let (input, input_step) = parse_place(line)?;
    let count = if line.eat("#") { line.integer()? } else { 1 };
    let factor = if line.eat("*") { line.number()? } else { 1.0 };
    Ok(AxisRun { output, output_step, input, input_step, count, factor })
}

fn parse_place(line: &mut Cursor<'_>) -> Result<(u32, i32)> {
    let start = line.integer()?;
    let step = if line.eat("+") {
        line.integer()?
    } else if line.eat("-") {
        -line.integer::<i32>()?
    } else {
        0
    };
    Ok((start, step))
}
