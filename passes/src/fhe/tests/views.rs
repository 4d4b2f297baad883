//! Slices, pads, concatenations, shuffles, resizes and transposed convolutions around convolutions and polynomials.

use peregrine_ir::fhe::FheOp;
use peregrine_ir::{AxisMap, Separable};
use proptest::prelude::*;

use super::*;
use crate::pipeline::Layouts;

impl Net {
    fn shape(&self, x: ValueId) -> [u32; 3] {
        let shape = &self.graph.nodes[x].ty.shape;
        [1, 2, 3].map(|a| shape[a] as u32)
    }

    fn separable(&mut self, x: ValueId, maps: [AxisMap; 3]) -> ValueId {
        self.op(TensorOp::Separable(Separable { maps }), &[x])
    }

    /// One axis mapped, the others kept.
    fn along(&mut self, x: ValueId, axis: usize, map: AxisMap) -> ValueId {
        let mut maps = self.shape(x).map(AxisMap::identity);
        maps[axis] = map;
        self.separable(x, maps)
    }

    fn concat(&mut self, parts: &[ValueId]) -> ValueId {
        let total: u32 = parts.iter().map(|&p| self.shape(p)[0]).sum();
        let mut offset = 0;
        let mut sum = None;
        for &part in parts {
            let channels = self.shape(part)[0];
            let map = AxisMap::spread(channels, total, offset, 1).unwrap();
            offset += i64::from(channels);
            let embedded = self.along(part, 0, map);
            sum = Some(match sum {
                None => embedded,
                Some(sum) => self.op(TensorOp::Add, &[sum, embedded]),
            });
        }
        sum.expect("parts")
    }

    fn upsample(&mut self, x: ValueId, factor: u32) -> ValueId {
        let repeat = |n: u32| AxisMap::gather(n, &(0..n * factor).map(|i| i / factor).collect::<Vec<_>>());
        let [c, h, w] = self.shape(x);
        self.separable(x, [AxisMap::identity(c), repeat(h).unwrap(), repeat(w).unwrap()])
    }

    /// A transposed convolution of stride 2 as zero insertion before a convolution.
    fn transposed(&mut self, x: ValueId, channels: usize) -> ValueId {
        let [c, h, w] = self.shape(x);
        let insert = |n: u32| AxisMap::spread(n, 2 * n, 0, 2).unwrap();
        let spread = self.separable(x, [AxisMap::identity(c), insert(h), insert(w)]);
        self.conv(
            spread,
            channels,
            Geometry { kernel: [2, 2], stride: [1, 1], pads: [1, 1, 0, 0], groups: 1 },
        )
    }

    fn unit(&mut self, x: ValueId, channels: usize, g: Geometry) -> ValueId {
        let c = self.conv(x, channels, g);
        self.poly(c, 2)
    }
}

fn both(layout: Layouts) -> Options {
    Options { layout, ..Options::default() }
}

fn linear_count(compiled: &Compiled) -> usize {
    compiled.fhe.nodes.values().filter(|n| matches!(n.op, FheOp::Linear { .. })).count()
}

#[test]
fn a_unet_with_transposed_convolutions_and_skips() {
    for layout in [Layouts::Greedy, Layouts::Search] {
        let (mut net, x) = Net::new([1, 2, 12, 20]);
        let a = net.unit(x, 4, Geometry::SAME);
        let b = net.unit(a, 6, Geometry::DOWN);
        let c = net.unit(b, 8, Geometry::DOWN);
        let up = net.transposed(c, 6);
        let join = net.concat(&[up, b]);
        let d = net.unit(join, 5, Geometry::SAME);
        let up = net.transposed(d, 4);
        let join = net.concat(&[a, up]);
        let y = net.unit(join, 3, Geometry::SAME);
        let y = net.conv(y, 2, Geometry::POINT);
        let (compiled, batch) = net.compile_with(y, &both(layout));
        assert_exact(&compiled, &batch);
    }
}

#[test]
fn views_cost_no_level() {
    let (mut net, x) = Net::new([1, 3, 8, 8]);
    // Space to depth, then a convolution: one linear map.
    let parts: Vec<ValueId> = [(0, 0), (1, 0), (0, 1), (1, 1)]
        .into_iter()
        .map(|(dy, dx)| {
            let half = |start| AxisMap::window(8, 4, start, 2).unwrap();
            net.separable(x, [AxisMap::identity(3), half(dy), half(dx)])
        })
        .collect();
    let focus = net.concat(&parts);
    let a = net.unit(focus, 6, Geometry::SAME);
    let shuffled = net.along(a, 0, AxisMap::gather(6, &[0, 3, 1, 4, 2, 5]).unwrap());
    let half = net.along(shuffled, 0, AxisMap::window(6, 3, 3, 1).unwrap());
    let b = net.unit(half, 4, Geometry::SAME);
    let up = net.upsample(b, 2);
    let padded = net.along(up, 1, AxisMap::window(8, 11, -1, 1).unwrap());
    let y = net.conv(padded, 2, Geometry::SAME);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
    assert_eq!(linear_count(&compiled), 3, "one per convolution");
}

/// Three average pools in a row without padding, next to what they are of, under a pointwise convolution: operands of each linear map.
fn pyramid(window: i64) -> Vec<Vec<ValueId>> {
    let (mut net, x) = Net::new([1, 3, 8, 8]);
    let first = net.unit(x, 4, Geometry::SAME);
    let mean = |n: i64| {
        let reach = move |out: i64| (out - window / 2).max(0)..(out + window / 2 + 1).min(n);
        let entry =
            move |out: i64| reach(out).map(move |input| (out, input, 1.0 / reach(out).count() as f32));
        AxisMap::collect(8, 8, (0..n).flat_map(entry)).unwrap()
    };
    let mut parts = vec![first];
    for _ in 0..3 {
        let last = *parts.last().expect("the first");
        parts.push(net.separable(last, [AxisMap::identity(4), mean(8), mean(8)]));
    }
    let all = net.concat(&parts);
    let y = net.conv(all, 4, Geometry::POINT);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
    let linear = compiled.fhe.nodes.values().filter(|node| matches!(node.op, FheOp::Linear { .. }));
    linear.map(|node| node.args.to_vec()).collect()
}

#[test]
fn wide_views_are_made_and_all_at_one_level() {
    let maps = pyramid(5);
    let of_first = maps.iter().filter(|args| **args == maps[1]).count();
    assert_eq!(of_first, 3, "each pool of what the first is of: {maps:?}");
    // Windows of one element are no pools.
    assert_eq!(pyramid(1).len(), 2);
}

#[test]
fn option_a_shortcuts_join_for_nothing() {
    let (mut net, x) = Net::new([1, 3, 8, 8]);
    let a = net.unit(x, 4, Geometry::SAME);
    let b = net.unit(a, 8, Geometry::DOWN);
    let b = net.conv(b, 8, Geometry::SAME);
    let half = || AxisMap::window(8, 4, 0, 2).unwrap();
    let skip = net.separable(a, [AxisMap::window(4, 8, -2, 1).unwrap(), half(), half()]);
    let join = net.op(TensorOp::Add, &[b, skip]);
    let y = net.poly(join, 2);
    let y = net.conv(y, 2, Geometry::POINT);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
    assert_eq!(linear_count(&compiled), 4);
}

#[test]
fn biases_under_padding_are_added_where_they_are() {
    let (mut net, x) = Net::new([1, 2, 5, 5]);
    let a = net.conv(x, 3, Geometry::SAME);
    let padded = net.along(a, 2, AxisMap::window(5, 8, -2, 1).unwrap());
    let y = net.poly(padded, 2);
    let y = net.conv(y, 2, Geometry::SAME);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
}

#[test]
fn views_as_outputs_and_under_polynomials() {
    let (mut net, x) = Net::new([1, 4, 6, 6]);
    let a = net.unit(x, 4, Geometry::SAME);
    let b = net.unit(a, 2, Geometry::SAME);
    let join = net.concat(&[a, b]);
    let c = net.poly(join, 2);
    let bilinear = AxisMap::collect(
        6,
        12,
        (0..12).flat_map(|i| {
            let low = (i + 1) / 2 - 1;
            [
                (i, low.max(0), if i % 2 == 0 { 0.25 } else { 0.75 }),
                (i, (low + 1).min(5), if i % 2 == 0 { 0.75 } else { 0.25 }),
            ]
        }),
    )
    .unwrap();
    let y = net.along(c, 1, bilinear);
    let (compiled, batch) = net.compile(y);
    assert_exact(&compiled, &batch);
}

/// A random graph step.
#[derive(Clone, Debug)]
enum Step {
    Conv { channels: usize, kernel: usize, stride: u32, grouped: bool },
    Poly,
    Window { axis: usize, start: i64, extra: i64, step: i64 },
    Upsample,
    Pool { kernel: usize },
    Shuffle,
    Insert { axis: usize },
    Concat { back: usize },
    Join { back: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (1usize..6, 1usize..4, 1u32..4, any::<bool>())
            .prop_map(|(channels, kernel, stride, grouped)| Step::Conv { channels, kernel, stride, grouped }),
        2 => Just(Step::Poly),
        1 => (0usize..3, -2i64..3, -2i64..3, 1i64..3)
            .prop_map(|(axis, start, extra, step)| Step::Window { axis, start, extra, step }),
        1 => Just(Step::Upsample),
        1 => (2usize..4).prop_map(|kernel| Step::Pool { kernel }),
        1 => Just(Step::Shuffle),
        1 => (0usize..3).prop_map(|axis| Step::Insert { axis }),
        1 => (1usize..4).prop_map(|back| Step::Concat { back }),
        1 => (1usize..4).prop_map(|back| Step::Join { back }),
    ];
    prop::collection::vec(step, 2..9)
}

/// Applies a step to the last value; steps that do not fit are left out.
fn apply(net: &mut Net, values: &mut Vec<ValueId>, polys: &mut usize, step: &Step) {
    let x = values[values.len() - 1];
    let [c, h, w] = net.shape(x);
    let earlier = |back: usize| values[values.len().saturating_sub(1 + back)];
    let next = match *step {
        Step::Conv { channels, kernel, stride, grouped } => {
            let groups = if grouped { c } else { 1 };
            let channels = if grouped { c as usize * (1 + channels % 2) } else { channels };
            if channels > 24 || kernel as u32 > h.min(w) + 1 {
                return;
            }
            let pad = (kernel / 2) as u32;
            let pads = [pad, pad, pad, pad];
            net.conv(
                x,
                channels,
                Geometry { kernel: [kernel, kernel], stride: [stride, stride], pads, groups },
            )
        }
        Step::Poly if *polys < 3 => {
            *polys += 1;
            net.poly(x, 2)
        }
        Step::Poly => return,
        Step::Window { axis, start, extra, step } => {
            let extent = i64::from([c, h, w][axis]);
            let output = ((extent + extra) / step).max(1) as u32;
            let start = start.min(extent - 1);
            let map = AxisMap::window(extent as u32, output, start, step).unwrap();
            if map.is_empty() {
                return;
            }
            net.along(x, axis, map)
        }
        Step::Upsample if h.max(w) <= 12 => net.upsample(x, 2),
        Step::Upsample => return,
        Step::Pool { kernel } => {
            let mean = |n: u32| {
                let k = (kernel as u32).min(n);
                let out = n.div_ceil(k);
                let entries =
                    (0..n).map(|i| (i64::from(i / k), i64::from(i), 1.0 / k.min(n - i / k * k) as f32));
                AxisMap::collect(n, out, entries).unwrap()
            };
            net.separable(x, [AxisMap::identity(c), mean(h), mean(w)])
        }
        Step::Shuffle => {
            let indices: Vec<u32> = (0..c).map(|i| (i * 3 + 1) % c).collect();
            net.along(x, 0, AxisMap::gather(c, &indices).unwrap())
        }
        Step::Insert { axis } => {
            let extent = [c, h, w][axis];
            if extent > 12 {
                return;
            }
            net.along(x, axis, AxisMap::spread(extent, 2 * extent, 0, 2).unwrap())
        }
        Step::Concat { back } => {
            let other = earlier(back);
            if net.shape(other)[1..] != [h, w] || net.shape(other)[0] + c > 24 {
                return;
            }
            net.concat(&[other, x])
        }
        Step::Join { back } => {
            let other = earlier(back);
            if net.shape(other) != [c, h, w] {
                return;
            }
            net.op(TensorOp::Add, &[other, x])
        }
    };
    values.push(next);
}

/// Windows of windows that see nothing but padding, which no single one of them tells.
#[test]
fn results_that_only_padding_reaches_are_zero() {
    let (mut net, x) = Net::new([1, 1, 5, 8]);
    let (mut values, mut polys) = (vec![x], 0);
    for step in [
        Step::Window { axis: 2, start: -1, extra: 0, step: 2 },
        Step::Window { axis: 2, start: 0, extra: 0, step: 2 },
        Step::Conv { channels: 1, kernel: 1, stride: 2, grouped: false },
    ] {
        apply(&mut net, &mut values, &mut polys, &step);
    }
    let y = net.conv(values[values.len() - 1], 2, Geometry::POINT);
    let (compiled, batch) = net.try_compile(y, &both(Layouts::Greedy)).unwrap();
    assert!(error(&compiled, &batch, Noise::None) < 1e-4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random chains of operators, in both ways of choosing layouts, against the tensor interpreter.
    #[test]
    fn random_graphs_compute_what_they_say(
        steps in steps(),
        shape in [1usize..5, 5usize..18, 5usize..18],
        search in any::<bool>(),
    ) {
        let (mut net, x) = Net::new([1, shape[0], shape[1], shape[2]]);
        let (mut values, mut polys) = (vec![x], 0);
        for step in &steps {
            apply(&mut net, &mut values, &mut polys, step);
        }
        let last = values[values.len() - 1];
        let y = net.conv(last, 2, Geometry::POINT);
        let layout = if search { Layouts::Search } else { Layouts::Greedy };
        match net.try_compile(y, &both(layout)) {
            Ok((compiled, batch)) => {
                let error = error(&compiled, &batch, Noise::None);
                prop_assert!(error < 1e-4, "error {}", error);
            }
            // Windows of padding leave nothing of the input.
            Err(PipelineError::Lower(error)) => prop_assert!(error.to_string().contains("no input"), "{}", error),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
