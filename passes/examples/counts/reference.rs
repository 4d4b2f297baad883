//! What the reference implementation's formulas give: ring 2^16, blocks of at most 128 x 128 slots.
//!
//! With B blocks per ciphertext, X input ciphertexts and W' = ceil(C_out / B):
//! * dense, map at most a block: X (B - 1) + X B (k^2 - 1) rotations, W' X B k^2 products; when multiplexed or strided also,
//!   for each of the W' sums, 2 log2(skip) rotations, B rotations and B masks that pack the result again;
//! * depthwise: X (k^2 - 1) rotations and X k^2 products; strided also n / skip rotations and n masks per ciphertext of n
//!   channels;
//! * map larger than a block (g > 1): C_in C_out k^2 (g / s)^2 products, and a rotation for each tap that leaves its cell;
//! * nearest upsampling: n rotations and n masks per ciphertext, then 2 log2(factor) rotations.

use peregrine_ir::tensor::{TensorGraph, TensorOp};

/// Slots of a ciphertext.
const SLOTS: u64 = 1 << 15;
/// Largest side of a block.
const BASE: u64 = 128;

/// Counts of a network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Rotations.
    pub rotations: u64,
    /// Plaintext products, masks included.
    pub products: u64,
    /// Multiply-accumulates.
    pub macs: u64,
}

/// A convolution of square maps.
struct Conv {
    side: u64,
    c_in: u64,
    c_out: u64,
    kernel: u64,
    stride: u64,
    pad: i64,
    depthwise: bool,
    base: u64,
}

/// Counts of all convolutions and resizes of a graph whose maps are square.
pub fn counts(graph: &TensorGraph) -> Counts {
    let shape = |id| {
        let s = &graph.nodes[id].ty.shape;
        (s[1] as u64, s[2] as u64)
    };
    let input = graph.nodes.ids().next().map_or(1, |id| shape(id).1);
    let base = input.min(BASE);
    let mut total = Counts::default();
    for (id, node) in graph.nodes.iter() {
        match &node.op {
            TensorOp::Conv(conv) => {
                let weights = &graph.tables.consts[conv.weights].shape;
                let ((c_in, side), (c_out, out)) = (shape(node.args[0]), shape(id));
                let depthwise = conv.groups > 1;
                total.macs += c_out * weights[1..].iter().map(|&e| e as u64).product::<u64>() * out * out;
                add(
                    &mut total,
                    &Conv {
                        side,
                        c_in,
                        c_out,
                        kernel: weights[2] as u64,
                        stride: u64::from(conv.stride[0]),
                        pad: i64::from(conv.pads[0]),
                        depthwise,
                        base,
                    },
                );
            }
            TensorOp::Separable(map) if map.maps[1].output() > map.maps[1].input() => {
                let (c, side) = shape(node.args[0]);
                let factor = u64::from(map.maps[1].output() / map.maps[1].input());
                let per_cipher = SLOTS / (side * side);
                let ciphers = c.div_ceil(per_cipher);
                total.rotations += ciphers * (per_cipher.min(c) + 2 * log2(factor));
                total.products += ciphers * per_cipher.min(c);
            }
            _ => {}
        }
    }
    total
}

fn log2(x: u64) -> u64 {
    u64::from(x.max(1).ilog2())
}

fn add(total: &mut Counts, conv: &Conv) {
    let Conv { side, c_in, c_out, kernel, stride, depthwise, base, .. } = *conv;
    let taps = kernel * kernel;
    if side > base {
        let g = side / base;
        let sub = (g / stride).max(1);
        let pairs = if depthwise { c_in } else { c_in * c_out };
        total.products += pairs * taps * sub * sub;
        let inside = (0..sub * kernel).filter(|i| {
            let at = (i / kernel * stride + i % kernel) as i64 - conv.pad;
            (0..g as i64).contains(&at)
        });
        let all = sub * kernel;
        let inside = inside.count() as u64;
        total.rotations += c_in * (all * all - inside * inside);
        if sub == 1 {
            total.rotations += c_out - c_out.div_ceil(SLOTS / (base * base));
        }
        return;
    }
    if kernel >= side && side > 1 {
        // A mean over the whole map: rotate and add; the factor is absorbed.
        let ciphers = c_in.div_ceil(SLOTS / (side * side));
        total.rotations += ciphers * 2 * log2(side.next_power_of_two());
        return;
    }
    let skip = base / side.next_power_of_two().min(base);
    let blocks = SLOTS / (base * base);
    let per_cipher = blocks * skip * skip;
    let ciphers = c_in.div_ceil(per_cipher);
    if depthwise {
        total.rotations += ciphers * (taps - 1);
        total.products += ciphers * taps;
        if stride > 1 {
            total.rotations += ciphers * (per_cipher.min(c_in) / skip).max(1);
            total.products += ciphers * per_cipher.min(c_in);
        }
        return;
    }
    let sums = c_out.div_ceil(blocks);
    total.rotations += ciphers * (blocks - 1) + ciphers * blocks * (taps - 1);
    total.products += sums * ciphers * blocks * taps;
    if skip > 1 || stride > 1 {
        total.rotations += sums * (2 * log2(skip) + blocks);
        total.products += sums * blocks;
    }
}
