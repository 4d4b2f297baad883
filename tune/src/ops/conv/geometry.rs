//! Extents of a convolution, and from them the plans of its three directions.

use super::kernel::{Plan, Run};

/// A convolution's extents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Rows and columns of the operand.
    pub input: [usize; 2],
    /// Channels of the operand.
    pub c_in: usize,
    /// Channels of the result.
    pub c_out: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Strides.
    pub stride: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pads: [usize; 4],
    /// Dilations.
    pub dilation: [usize; 2],
    /// Channel groups.
    pub groups: usize,
}

/// A kernel position and the place of its operand relative to a pixel's base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tap {
    pub(super) ky: usize,
    pub(super) kx: usize,
    pub(super) offset: usize,
}

/// Pixels of the operand that are reached by the same kernel positions, for the gradient by the operand.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) taps: Vec<Tap>,
    /// Base of each pixel in the padded gradient.
    pub(super) bases: Vec<usize>,
    /// Where each pixel's channels are in the operand.
    pub(super) places: Vec<usize>,
}

/// Border of zeros around an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Border {
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) bottom: usize,
    pub(super) right: usize,
}

impl Border {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Geometry {
    /// Rows and columns of the result.
    pub fn output(&self) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let padded = self.input[axis] + self.pads[axis] + self.pads[axis + 2];
            let reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1;
            (padded + self.stride[axis]).saturating_sub(reach) / self.stride[axis]
        })
    }

    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.c_in / self.groups * self.c_out
    }

    /// Whether every channel has a kernel of its own.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.c_in == self.groups && self.c_out == self.groups
    }

    /// Whether each result pixel depends on the same pixel only.
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pads == [0; 4]
    }

    pub(super) fn border(&self) -> Border {
        let [top, left, bottom, right] = self.pads;
        Border { top, left, bottom, right }
    }

    /// Kernel positions in the padded operand, in the order of the weights.
    pub(super) fn taps(&self) -> Vec<Tap> {
        let width = self.input[1] + self.pads[1] + self.pads[3];
        let tap = |i: usize| {
            let (ky, kx) = (i / self.kernel[1], i % self.kernel[1]);
            let offset = (ky * self.dilation[0] * width + kx * self.dilation[1]) * self.c_in;
            Tap { ky, kx, offset }
        };
        (0..self.kernel[0] * self.kernel[1]).map(tap).collect()
    }

    /// Base of each result pixel in the padded operand.
    pub(super) fn bases(&self) -> Vec<usize> {
        let width = self.input[1] + self.pads[1] + self.pads[3];
        let [rows, columns] = self.output();
        (0..rows * columns)
            .map(|i| ((i / columns * self.stride[0]) * width + i % columns * self.stride[1]) * self.c_in)
            .collect()
    }

    /// Border that the result's gradient needs so that every pixel of the operand finds its taps inside.
    pub(super) fn gradient_border(&self) -> Border {
        let output = self.output();
        let before = |axis: usize| {
            let reach = (self.kernel[axis] - 1) * self.dilation[axis];
            reach.saturating_sub(self.pads[axis]).div_ceil(self.stride[axis])
        };
        let after = |axis: usize| {
            let last = (self.input[axis] - 1 + self.pads[axis]) / self.stride[axis];
            (last + 1).saturating_sub(output[axis])
        };
        Border { top: before(0), left: before(1), bottom: after(0), right: after(1) }
    }

    /// The operand's pixels by residue of the stride, with the kernel positions that reach them.
    pub(super) fn phases(&self) -> Vec<Phase> {
        let (border, output) = (self.gradient_border(), self.output());
        let width = border.left + output[1] + border.right;
        let mut phases = Vec::new();
        for ry in 0..self.stride[0].min(self.input[0]) {
            for rx in 0..self.stride[1].min(self.input[1]) {
                let at = |axis: usize, residue: usize, k: usize, margin: usize| -> Option<usize> {
                    let q = (residue + self.pads[axis]) as isize - (k * self.dilation[axis]) as isize;
                    let stride = self.stride[axis] as isize;
                    (q.rem_euclid(stride) == 0).then(|| (q.div_euclid(stride) + margin as isize) as usize)
                };
                let mut taps = Vec::new();
                for ky in 0..self.kernel[0] {
                    for kx in 0..self.kernel[1] {
                        if let (Some(y), Some(x)) = (at(0, ry, ky, border.top), at(1, rx, kx, border.left)) {
                            taps.push(Tap { ky, kx, offset: (y * width + x) * self.c_out });
                        }
                    }
                }
                taps.sort_by_key(|t| t.offset);
                let (mut bases, mut places) = (Vec::new(), Vec::new());
                for (j, y) in (ry..self.input[0]).step_by(self.stride[0]).enumerate() {
                    for (i, x) in (rx..self.input[1]).step_by(self.stride[1]).enumerate() {
                        bases.push((j * width + i) * self.c_out);
                        places.push((y * self.input[1] + x) * self.c_in);
                    }
                }
                phases.push(Phase { taps, bases, places });
            }
        }
        phases
    }
}

/// A plan from pixel bases and taps of `len` numbers each, `skip` further; neighbouring taps become one run.
pub(super) fn plan(bases: &[usize], taps: &[Tap], len: usize, skip: usize) -> Plan {
    let mut runs: Vec<Run> = Vec::new();
    for tap in taps {
        let offset = tap.offset + skip;
        match runs.last_mut() {
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ => runs.push(Run { offset, len }),
        }
    }
    Plan { bases: bases.to_vec(), runs }
}
