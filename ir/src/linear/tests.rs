//! Planned calls on clear slots against direct convolution.

use std::collections::BTreeSet;

use peregrine_ckks::units::Slots;
use proptest::prelude::*;

use super::*;
use crate::axis::{AxisEntry, AxisMap};
use crate::layout::{Axis, Blocks, Digit, Place};
use crate::samples::numbers;

const MAX_SLOTS: u32 = 1 << 16;

/// The convolution, tap by tap.
fn convolve(g: &ConvGeometry, input: Chw, output: Chw, weights: &[f32], x: &[f64]) -> Vec<f64> {
    let (c_in, c_out) = (input.c / g.groups, output.c / g.groups);
    let mut y = vec![0.0; output.len()];
    for (co, yo, xo) in indices(output) {
        for (k, ky, kx) in indices(Chw { c: c_in, h: g.kernel[0], w: g.kernel[1] }) {
            let row = i64::from(yo * g.stride[0] + ky * g.dilation[0]) - i64::from(g.pad[0]);
            let column = i64::from(xo * g.stride[1] + kx * g.dilation[1]) - i64::from(g.pad[1]);
            if (0..i64::from(input.h)).contains(&row) && (0..i64::from(input.w)).contains(&column) {
                let ci = co / c_out * c_in + k;
                let weight = ((co * c_in + k) * g.kernel[0] + ky) * g.kernel[1] + kx;
                let at = (i64::from(ci * input.h) + row) * i64::from(input.w) + column;
                y[((co * output.h + yo) * output.w + xo) as usize] +=
                    f64::from(weights[weight as usize]) * x[at as usize];
            }
        }
    }
    y
}

fn indices(shape: Chw) -> impl Iterator<Item = (u32, u32, u32)> {
    let Chw { c, h, w } = shape;
    (0..c).flat_map(move |c| (0..h).flat_map(move |y| (0..w).map(move |x| (c, y, x))))
}

/// A separable map of a tensor.
fn separate(map: Option<&Separable>, x: Vec<f64>) -> Vec<f64> {
    let Some(map) = map else { return x };
    let ([_, h, w], [oc, oh, ow]) = (map.input(), map.output());
    let mut y = vec![0.0; (oc * oh * ow) as usize];
    for c in map.maps[0].entries() {
        for r in map.maps[1].entries() {
            for k in map.maps[2].entries() {
                let factor = f64::from(c.factor) * f64::from(r.factor) * f64::from(k.factor);
                y[((c.output * oh + r.output) * ow + k.output) as usize] +=
                    factor * x[((c.input * h + r.input) * w + k.input) as usize];
            }
        }
    }
    y
}

/// How a random layout is drawn.
#[derive(Clone, Debug)]
struct LayoutSeed {
    /// Order in which digits take slots.
    order: Vec<usize>,
    /// Radix of the low digit of each axis; the high digit covers the rest.
    low: [u32; 3],
    /// Bits of digits (low c, low y, low x, high c, high y, high x) that pick the ciphertext.
    cipher: u8,
    /// Factor by which the period exceeds the least power of two.
    slack: u32,
    /// Whether strides are rounded to powers of two.
    round: u8,
    /// Blocks of a ciphertext, for the digits that pick no slot.
    per_cipher: u32,
}

fn layout_seed() -> impl Strategy<Value = LayoutSeed> {
    let order = Just((0..6).collect::<Vec<usize>>()).prop_shuffle();
    let low = [1u32..4, 1u32..4, 1u32..4];
    // Ciphertext digits in one case of four.
    let cipher = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
    let per_cipher = prop_oneof![2 => Just(1u32), 1 => 2u32..6];
    (order, low, cipher, 0u32..3, any::<u8>(), per_cipher).prop_map(
        |(order, low, cipher, slack, round, per_cipher)| LayoutSeed {
            order,
            low,
            cipher,
            slack,
            round,
            per_cipher,
        },
    )
}

fn build_layout(shape: Chw, seed: &LayoutSeed) -> Layout {
    let extents = [shape.c, shape.h, shape.w];
    let mut digits: [Vec<Digit>; 3] = Default::default();
    let (mut slot, mut cipher) = (1u32, 1u32);
    let mut placed = [[None; 2]; 3];
    for &index in &seed.order {
        let (axis, high) = (index % 3, index / 3);
        let low = seed.low[axis].min(extents[axis]);
        let radix = if high == 1 { extents[axis].div_ceil(low) } else { low };
        let place = if seed.cipher >> index & 1 == 1 && cipher * radix <= 4 * seed.per_cipher {
            let place = if seed.per_cipher > 1 { Place::Block(cipher) } else { Place::Cipher(cipher) };
            cipher *= radix;
            place
        } else {
            if seed.round >> index & 1 == 1 && slot < 64 {
                slot = slot.next_power_of_two();
            }
            let place = Place::Slot(slot);
            slot *= radix;
            place
        };
        placed[axis][high] = Some(Digit { radix, place });
    }
    for (digits, placed) in digits.iter_mut().zip(placed) {
        *digits = placed.into_iter().flatten().collect();
    }
    // Large layouts get no slack: the periods stay small and the test quick.
    let blocks = Blocks { slots: slot, per_cipher: if cipher > 1 { seed.per_cipher } else { 1 } };
    let reach = slot * blocks.per_cipher;
    let period = Slots::new(reach.next_power_of_two() << if reach < 512 { seed.slack } else { 0 }).unwrap();
    Layout { shape, digits, period, ciphertexts: cipher.div_ceil(blocks.per_cipher), blocks }
}

#[derive(Clone, Debug)]
struct Case {
    geometry: ConvGeometry,
    before: Option<Separable>,
    after: Option<Separable>,
    input: Layout,
    output: Layout,
    split: BsgsSplit,
    shared: Vec<Sharing>,
    seed: u32,
}

fn geometry(input: Chw) -> impl Strategy<Value = (ConvGeometry, u32)> {
    let spatial = ([1u32..4, 1u32..4], [1u32..3, 1u32..3], [0u32..3, 0u32..3], [1u32..3, 1u32..3]);
    (spatial, 0u32..4, 1u32..4).prop_map(move |((kernel, stride, pad, dilation), kind, per)| {
        let c = input.c;
        match kind {
            0 => (ConvGeometry { kernel, stride, pad, dilation, groups: c }, c * per),
            1 if c.is_multiple_of(2) => (ConvGeometry { kernel, stride, pad, dilation, groups: 2 }, 2 * per),
            2 => (ConvGeometry::whole_map(input), per),
            _ => (ConvGeometry { kernel, stride, pad, dilation, groups: 1 }, per),
        }
    })
}

fn output_shape(g: &ConvGeometry, input: Chw, channels: u32, extra: u32) -> Chw {
    let extent = |extent: u32, at: usize| {
        // `extra` stands for padding after the last row or column.
        let room = extent + g.pad[at] + extra;
        room.saturating_sub(g.dilation[at] * (g.kernel[at] - 1) + 1) / g.stride[at] + 1
    };
    Chw { c: channels, h: extent(input.h, 0), w: extent(input.w, 1) }
}

/// A map of one axis to or from `inner` coordinates: windows, repetitions, insertions, mixtures.
fn axis_map(inner: u32, outer: u32, kind: u8, to_inner: bool, seed: u32) -> AxisMap {
    let (input, output) = if to_inner { (outer, inner) } else { (inner, outer) };
    let last = (input - 1).min(1 + seed % 3);
    match kind {
        0 => AxisMap::window(input, output, i64::from(seed % 5) - 2, 1 - 2 * i64::from(seed % 2)),
        1 => AxisMap::gather(input, &(0..output).map(|i| i * seed % (last + 1)).collect::<Vec<_>>()),
        2 => AxisMap::spread(input, output, i64::from(seed % 2), 1 + i64::from(seed % 3)),
        _ => {
            let factors = numbers(6, seed);
            let entry = |(i, &factor): (usize, &f32)| AxisEntry {
                output: (i as u32 * 7 + seed) % output,
                input: (i as u32 * 5 + seed / 3) % input,
                factor,
            };
            let entries: Vec<AxisEntry> = factors.iter().enumerate().map(entry).collect();
            AxisMap::from_entries(input, output, &entries)
        }
    }
    .unwrap()
}

/// A separable map beside a convolution, in one case of three, and the extents beyond it.
fn around(
    inner: Chw,
    to_inner: bool,
    (present, kinds, seed): (bool, [u8; 3], u32),
) -> (Chw, Option<Separable>) {
    if !present {
        return (inner, None);
    }
    let extents = [inner.c, inner.h, inner.w];
    let maps = [0, 1, 2].map(|a| {
        let outer = 1 + (extents[a] + (seed >> (4 * a)) % 5).saturating_sub(2);
        axis_map(extents[a], outer, kinds[a], to_inner, seed >> a)
    });
    let map = Separable { maps };
    let [c, h, w] = if to_inner { map.input() } else { map.output() };
    (Chw { c, h, w }, Some(map))
}

/// By modulus, or any rotations in any order, most of which reach nothing.
fn split() -> impl Strategy<Value = BsgsSplit> {
    let by_modulus = (1u32..20, 1u32..600).prop_map(|(modulus, reach)| BsgsSplit::by_modulus(modulus, reach));
    let rotations = |most: usize| prop::collection::vec(-70i32..70, 0..most);
    let any = (rotations(4), rotations(8), rotations(8)).prop_map(|(turns, babies, giants)| BsgsSplit {
        turns,
        babies,
        giants,
    });
    prop_oneof![by_modulus, any]
}

/// How two operands are joined; with nothing in one case of three.
fn sharings() -> impl Strategy<Value = Vec<Sharing>> {
    let imaginary = prop_oneof![
        Just(Imaginary::Nothing),
        Just(Imaginary::Next),
        (-70i32..70).prop_map(Imaginary::Rotated),
    ];
    let shifts = prop::collection::vec(-70i32..70, 0..4);
    let sharing = (imaginary, shifts).prop_map(|(imaginary, shifts)| Sharing { imaginary, shifts });
    prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(sharing, 0..3)]
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (1u32..5, 1u32..7, 1u32..7).prop_map(|(c, h, w)| Chw { c, h, w });
    let drawn = shape.prop_flat_map(|shape| (Just(shape), geometry(shape), 0u32..3));
    let around_seed = || (prop::bool::weighted(0.3), [0u8..4, 0u8..4, 0u8..4], any::<u32>());
    let ends = (around_seed(), around_seed());
    (drawn, layout_seed(), layout_seed(), (split(), sharings()), any::<u32>(), ends).prop_map(
        |((shape, (geometry, channels), extra), input, output, (split, shared), seed, ends)| {
            let extra = if geometry.kernel == [shape.h, shape.w] { 0 } else { extra };
            let result = output_shape(&geometry, shape, channels, extra);
            let (shape, before) = around(shape, true, ends.0);
            let (result, after) = around(result, false, ends.1);
            let (input, output) = (build_layout(shape, &input), build_layout(result, &output));
            Case { geometry, before, after, input, output, split, shared, seed }
        },
    )
}

impl Case {
    fn map(&self) -> ResolvedMap<'_> {
        let (before, after) = (self.before.as_ref(), self.after.as_ref());
        ResolvedMap { input: &self.input, output: &self.output, geometry: self.geometry, before, after }
    }
}

fn weights_of(map: &ResolvedMap<'_>, seed: u32) -> Vec<f32> {
    let shape = map.check().unwrap();
    numbers(shape.iter().product(), seed)
}

/// Operand slots with rubbish in the padding: maps must never read it.
fn pack_dirty(layout: &Layout, tensor: &[f64]) -> Vec<Vec<f64>> {
    let mut slots = layout.pack(tensor);
    let mark = layout.pack(&vec![1.0; tensor.len()]);
    for (slots, mark) in slots.iter_mut().zip(&mark) {
        for (slot, mark) in slots.iter_mut().zip(mark) {
            *slot += 1e6 * (1.0 - mark);
        }
    }
    slots
}

fn assert_close(found: &[f64], expected: &[f64]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        prop_assert!((a - b).abs() < 1e-4, "element {}: {} instead of {}", i, a, b);
    }
    Ok(())
}

/// Plans and applies a call of several terms and compares with the sum of direct convolutions.
fn check_call(terms: &[(ResolvedMap<'_>, u32)], recipe: Recipe<'_>, seed: u32) -> Result<(), TestCaseError> {
    let operands = terms.iter().map(|t| t.1 as usize + 1).max().unwrap();
    let output = terms[0].0.output;
    let mut slots: Vec<Vec<f64>> = Vec::new();
    let mut tensors = Vec::new();
    for operand in 0..operands {
        let layout = terms.iter().find(|t| t.1 as usize == operand).unwrap().0.input;
        let values = numbers(layout.shape.len(), seed ^ operand as u32);
        let tensor: Vec<f64> = values.into_iter().map(f64::from).collect();
        slots.extend(pack_dirty(layout, &tensor));
        tensors.push(tensor);
    }
    let weights: Vec<Vec<f32>> =
        (0u32..).zip(terms).map(|(i, (map, _))| weights_of(map, seed ^ i << 8)).collect();
    let mut expected = vec![0.0; output.shape.len()];
    for ((map, operand), weights) in terms.iter().zip(&weights) {
        let x = separate(map.before, tensors[*operand as usize].clone());
        let y = convolve(&map.geometry, map.inner_input(), map.inner_output(), weights, &x);
        let y = separate(map.after, y);
        expected.iter_mut().zip(y).for_each(|(sum, y)| *sum += y);
    }
    let call = plan_call(terms, recipe, Slots::new(MAX_SLOTS).unwrap());
    if call.diagonals.is_empty() {
        return assert_close(&expected, &vec![0.0; expected.len()]);
    }
    let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
    let inputs: Vec<&[f64]> = slots.iter().map(Vec::as_slice).collect();
    prop_assert_eq!(call.plan.inputs as usize, inputs.len());
    let results = apply_clear(&call, &weights, &inputs, None);
    let period = output.period.get() as usize;
    for result in &results {
        // The result repeats with the period of its layout.
        for (s, x) in result.iter().enumerate() {
            prop_assert!((x - result[s % period]).abs() < 1e-4, "slot {} breaks the period {}", s, period);
        }
    }
    assert_close(&output.unpack(&results), &expected)?;
    check_counts(&call, terms)
}

fn check_counts(call: &CallPlan, terms: &[(ResolvedMap<'_>, u32)]) -> Result<(), TestCaseError> {
    let diagonals: usize = call.maps.iter().map(Diagonals::len).sum();
    let used: BTreeSet<usize> = call.plan.terms().map(|term| term.diagonal.0 as usize).collect();
    prop_assert!(used.into_iter().eq(0..call.diagonals.len()));
    // A map may leave a ciphertext of its result empty: zero times an operand.
    let idle = call.diagonals.iter().filter(|diagonal| diagonal.members.1 == 0).count();
    let products = call.plan.terms().count() - idle;
    if call.plan.joined.is_empty() {
        prop_assert_eq!(products, diagonals);
    }
    prop_assert!(products <= diagonals);
    prop_assert!(idle <= call.plan.outputs as usize);
    prop_assert_eq!(call.plan.check(), Ok(()));
    for ((map, _), diagonals) in terms.iter().zip(&call.maps) {
        prop_assert!(diagonals.len() as u64 <= Diagonals::groups(*map));
        prop_assert_eq!(diagonal_keys(*map, u64::MAX), Some(diagonals.keys().collect()));
        let most = diagonals.len() as u64 / 2;
        prop_assert!(diagonals.is_empty() || diagonal_keys(*map, most).is_none());
        let modulus = map.input.period.get().min(map.output.period.get());
        prop_assert!(diagonals.keys().all(|key| key.rotation < modulus));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn one_map_is_the_convolution(case in case()) {
        prop_assert_eq!(case.input.check(), Ok(()));
        prop_assert_eq!(case.output.check(), Ok(()));
        check_call(&[(case.map(), 0)], Recipe { split: &case.split, shared: &case.shared }, case.seed)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Terms with operands of different periods, one of them shared, join one result.
    #[test]
    fn sums_of_maps_are_sums_of_convolutions(case in case(), skip in layout_seed(), share in any::<bool>()) {
        let other = build_layout(case.output.shape, &skip);
        prop_assert_eq!(other.check(), Ok(()));
        let scaling = ConvGeometry::channel_scaling(case.output.shape.c);
        let first = case.map();
        let second = ResolvedMap::convolution(&other, &case.output, scaling);
        let shared = (first, 0);
        let terms = if share { vec![(first, 0), (second, 1), shared] } else { vec![(first, 0), (second, 1)] };
        check_call(&terms, Recipe { split: &case.split, shared: &case.shared }, case.seed)?;
    }
}

#[test]
fn a_call_of_all_period_relations_folds_each_stage_once() {
    let period = |p: u32| Slots::new(p).unwrap();
    let small = crate::samples::raster(2, 2, 2);
    let with = |p| Layout { period: period(p), ..small.clone() };
    let (less, equal, more, most) = (with(8), with(16), with(64), with(256));
    let scaling = ConvGeometry::channel_scaling(2);
    let map = |input| ResolvedMap::convolution(input, &equal, scaling);
    let terms = [(map(&less), 0), (map(&most), 1), (map(&equal), 2), (map(&more), 3)];
    let split = BsgsSplit::by_modulus(4, 256);
    check_call(&terms, (&split).into(), 9).unwrap();
    let call = plan_call(&terms, &split, period(MAX_SLOTS));
    let folds: Vec<Vec<u32>> =
        call.plan.stages.iter().map(|s| s.fold.iter().map(|r| r.get()).collect()).collect();
    assert_eq!(folds, [vec![64, 128], vec![16, 32], vec![]]);
}

#[test]
fn diagonals_of_a_raster_convolution_are_its_taps() {
    let map = crate::samples::raster(1, 8, 8);
    let geometry = ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let diagonals = Diagonals::of(ResolvedMap::convolution(&map, &map, geometry));
    let rotations: Vec<u32> = diagonals.keys().map(|key| key.rotation).collect();
    assert_eq!(rotations, [0, 1, 7, 8, 9, 55, 56, 57, 63]);
    let unknown = DiagonalKey { cipher_out: 0, cipher_in: 0, rotation: 2 };
    assert_eq!(diagonals.expand(unknown, &[0.0; 9], 0), None);
}

#[test]
fn geometry_is_checked_against_extents() {
    let (input, output) = (Chw { c: 4, h: 5, w: 5 }, Chw { c: 6, h: 5, w: 5 });
    let good = ConvGeometry { kernel: [3, 2], stride: [1, 1], pad: [1, 0], dilation: [1, 1], groups: 2 };
    assert_eq!(good.check(input, output), Ok(vec![6, 2, 3, 2]));
    for bad in [
        ConvGeometry { kernel: [0, 1], ..good },
        ConvGeometry { stride: [1, 0], ..good },
        ConvGeometry { dilation: [0, 1], ..good },
        ConvGeometry { groups: 0, ..good },
    ] {
        assert_eq!(bad.check(input, output), Err(MapError::Zero));
    }
    let groups = ConvGeometry { groups: 4, ..good };
    assert_eq!(groups.check(input, output), Err(MapError::Groups { groups: 4, input: 4, output: 6 }));
    let huge = ConvGeometry { kernel: [1 << 30, 1], ..good };
    assert!(matches!(huge.check(input, output), Err(MapError::TooLarge { .. })));
}

#[test]
fn separable_maps_are_checked_against_layouts() {
    let (input, output) = (crate::samples::raster(4, 5, 5), crate::samples::raster(4, 3, 5));
    let scaling = ConvGeometry::channel_scaling(4);
    let crop = |rows, h| Separable {
        maps: [AxisMap::identity(4), AxisMap::window(h, rows, 1, 1).unwrap(), AxisMap::identity(5)],
    };
    let (good, long, short) = (crop(3, 5), crop(3, 6), crop(2, 5));
    let plain = ResolvedMap::convolution(&input, &output, scaling);
    assert_eq!(ResolvedMap { before: Some(&good), ..plain }.check(), Ok(vec![4, 1, 1, 1]));
    let wrong = |map: ResolvedMap<'_>| assert!(matches!(map.check(), Err(MapError::Separable { .. })));
    wrong(ResolvedMap { before: Some(&long), ..plain });
    wrong(ResolvedMap { after: Some(&short), ..plain });
    // Every channel into every channel, twice.
    let mix = |n: u32| {
        let all = (0..i64::from(n)).flat_map(|o| (0..i64::from(n)).map(move |i| (o, i, 1.0)));
        let [rows, columns] = [AxisMap::identity(1), AxisMap::identity(1)];
        Separable { maps: [AxisMap::collect(n, n, all).unwrap(), rows, columns] }
    };
    let (wide, mix) = (crate::samples::raster(260, 1, 1), mix(260));
    let dense = ConvGeometry { groups: 1, ..scaling };
    let twice = ResolvedMap {
        before: Some(&mix),
        after: Some(&mix),
        ..ResolvedMap::convolution(&wide, &wide, dense)
    };
    assert!(matches!(twice.check(), Err(MapError::TooLarge { .. })));
}

#[test]
fn axes_keep_their_order() {
    assert_eq!(Axis::ALL.map(|a| a as usize), [0, 1, 2]);
}

/// 16 channels of 8x8 in a ring of 4096 slots: four copies and the imaginary part do eight diagonals' work at once.
#[test]
fn copies_share_the_diagonals_of_a_convolution() {
    let map = crate::samples::raster(16, 8, 8);
    let geometry = ConvGeometry { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1], groups: 1 };
    let terms = [(ResolvedMap::convolution(&map, &map, geometry), 0)];
    let sharing = Sharing { imaginary: Imaginary::Rotated(512), shifts: vec![256, 128] };
    let recipe = Recipe { split: &BsgsSplit::by_modulus(128, 1024), shared: &[sharing] };
    check_call(&terms, recipe, 5).unwrap();
    let call = plan_call(&terms, recipe, Slots::new(4096).unwrap());
    let counts = call.plan.counts();
    assert_eq!((Diagonals::of(terms[0].0).len(), counts.products), (144, 18));
    // Three joins, two folds and the conjugation.
    assert_eq!((counts.turns, counts.fold_rotations), (3, 3));
}
