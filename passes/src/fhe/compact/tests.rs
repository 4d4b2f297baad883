//! Diagonals between the layouts of families, counted and against plain loops.

use peregrine_ir::Slots;
use peregrine_ir::layout::{Chw, Layout};
use peregrine_ir::linear::{BsgsSplit, ConvGeometry, Diagonals, ResolvedMap, apply_clear, plan_call};
use proptest::prelude::*;

use crate::fhe::layouts::{BlockOrder, BlockSize, Family, Grid, Spread};

fn spread(c: u32, side: u32, gap: u32) -> Spread {
    Spread { shape: Chw { c, h: side, w: side }, gap: [gap, gap] }
}

fn grid(factor: u32, order: BlockOrder) -> Family {
    Family::Grid { factor: [factor; 2], block: BlockSize::PowerOfTwo, order }
}

fn convolution(kernel: u32, stride: u32, groups: u32) -> ConvGeometry {
    ConvGeometry { kernel: [kernel; 2], stride: [stride; 2], pad: [kernel / 2; 2], dilation: [1, 1], groups }
}

fn diagonals(input: &Layout, output: &Layout, geometry: ConvGeometry) -> usize {
    Diagonals::of(ResolvedMap::convolution(input, output, geometry)).len()
}

/// 64x64 pixels in 2^12 slots, then a quarter of them, and a quarter of those.
fn net() -> [Spread; 4] {
    [spread(3, 64, 1), spread(32, 32, 2), spread(64, 16, 4), spread(200, 1, 4)]
}

#[test]
fn channels_above_all_pixels_wrap_around() {
    let grid_of_net = Grid::new(&net(), 1 << 12);
    let of = |order| {
        let layout = grid_of_net.layout(net()[2], grid(1, order)).unwrap();
        assert_eq!((layout.ciphertexts, layout.period.get()), (4, 1 << 12));
        diagonals(&layout, &layout, convolution(1, 1, 1))
    };
    // 16 channels of a ciphertext: 7 x 7 offsets in the gaps, 16 where they wrap around.
    assert_eq!((of(BlockOrder::Channels), of(BlockOrder::Compact)), (4 * 4 * 49, 4 * 4 * 16));
}

#[test]
fn few_pixels_move_at_a_stride_and_no_channel() {
    let grid_of_net = Grid::new(&net(), 1 << 12);
    let [_, wide, _, _] = net();
    let narrow = spread(32, 16, 4);
    let [input, output] =
        [wide, narrow].map(|value| grid_of_net.layout(value, grid(1, BlockOrder::Compact)).unwrap());
    assert_eq!((input.ciphertexts, output.ciphertexts), (8, 2));
    let strided = diagonals(&input, &output, convolution(3, 2, 32));
    assert!(strided <= 8 * 48, "{strided}");
}

#[test]
fn channels_of_a_single_pixel_lie_next_to_each_other() {
    let grid_of_net = Grid::new(&net(), 1 << 12);
    for value in [net()[3], spread(1, 1, 4), spread(5000, 1, 4)] {
        let layout = grid_of_net.layout(value, grid(1, BlockOrder::Compact)).unwrap();
        let slots = layout.period.get() * layout.ciphertexts;
        assert_eq!(slots, value.shape.c.next_power_of_two(), "{layout:?}");
        let mut places: Vec<_> = (0..value.shape.c).map(|c| layout.position(c, 0, 0)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), value.shape.c as usize);
    }
}

#[test]
fn low_digits_fill_the_blocks_that_channels_leave_empty() {
    // Four blocks of 32x32 pixels for each channel, eight in a ciphertext.
    let value = spread(4, 64, 1);
    let layout = Grid::new(&[value], 1 << 13).layout(value, grid(2, BlockOrder::Channels)).unwrap();
    assert_eq!((layout.ciphertexts, layout.occupancy()), (2, 1.0));
    let layout = Grid::new(&[value], 1 << 15).layout(value, grid(2, BlockOrder::Channels)).unwrap();
    assert_eq!((layout.ciphertexts, layout.period.get()), (1, 1 << 14));
    // Or the channels repeat.
    let repeated = grid(2, BlockOrder::Channels).repeated().unwrap();
    let layout = Grid::new(&[value], 1 << 13).layout(value, repeated).unwrap();
    assert_eq!((layout.ciphertexts, layout.period.get(), layout.occupancy()), (4, 1 << 12, 1.0));
}

#[test]
fn inputs_of_few_channels_take_fewer_diagonals_where_these_repeat() {
    let net = [spread(3, 64, 1), spread(16, 32, 2)];
    let grid_of_net = Grid::new(&net, 1 << 12);
    let count = |input: Family| {
        let [input, output] = [(net[0], input), (net[1], grid(4, BlockOrder::Channels))]
            .map(|(value, family)| grid_of_net.layout(value, family).unwrap());
        (input.ciphertexts, diagonals(&input, &output, convolution(3, 2, 1)))
    };
    // Each of the four ciphertexts of the result reads nine taps of four places for channels.
    let repeated = grid(4, BlockOrder::Channels).repeated().unwrap();
    assert_eq!(count(repeated), (16, 4 * 9 * 4));
    let (ciphertexts, diagonals) = count(grid(4, BlockOrder::Channels));
    assert!(ciphertexts < 16 && diagonals > 4 * 9 * 4, "{diagonals}");
}

/// `sum w[co,ci,ky,kx] * in[ci, yo*s + ky - p, xo*s + kx - p]`.
fn direct(input: Chw, output: Chw, g: ConvGeometry, weights: &[f32], tensor: &[f64]) -> Vec<f64> {
    let ([k, _], [s, _], [p, _]) = (g.kernel, g.stride, g.pad);
    let at = |c: u32, y: i64, x: i64| {
        let inside = (0..i64::from(input.h)).contains(&y) && (0..i64::from(input.w)).contains(&x);
        if inside { tensor[((c * input.h + y as u32) * input.w + x as u32) as usize] } else { 0.0 }
    };
    let place = |o: u32, tap: u32| i64::from(o * s + tap) - i64::from(p);
    let mut out = Vec::with_capacity(output.len());
    for (co, (yo, xo)) in (0..output.c)
        .flat_map(|c| (0..output.h).map(move |y| (c, y)))
        .flat_map(|(c, y)| (0..output.w).map(move |x| (c, (y, x))))
    {
        let taps = (0..input.c).flat_map(|ci| (0..k * k).map(move |tap| (ci, tap / k, tap % k)));
        out.push(
            taps.map(|(ci, ky, kx)| {
                let weight = weights[(((co * input.c + ci) * k + ky) * k + kx) as usize];
                f64::from(weight) * at(ci, place(yo, ky), place(xo, kx))
            })
            .sum(),
        );
    }
    out
}

fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(((*state >> 40) as f64) / 8_388_608.0 - 1.0)
    };
    std::iter::successors(Some(seed), |_| Some(0)).scan(seed, |state, _| next(state)).take(count).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Convolutions between any two families of a net are what loops say.
    #[test]
    fn families_carry_convolutions(
        (c_in, c_out, side, gap) in (1u32..9, 1u32..40, 5u32..17, 0u32..3),
        (kernel, stride, log_slots) in (0u32..2, 1u32..3, 8u32..11),
        (from, to, seed) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()),
    ) {
        let (kernel, gap) = (2 * kernel + 1, 1 << gap);
        let output_side = (side - 1) / stride + 1;
        let values = [spread(c_in, side, gap), spread(c_out, output_side, gap * stride)];
        let grid = Grid::new(&values, 1 << log_slots);
        let families = grid.families();
        prop_assume!(!families.is_empty());
        let inputs: Vec<Family> =
            families.iter().copied().chain(families.iter().filter_map(|f| f.repeated())).collect();
        let (from, to) = (*from.get(&inputs), *to.get(&families));
        let [input, output] = [(values[0], from), (values[1], to)]
            .map(|(value, family)| grid.layout(value, family).expect("a family of the grid"));
        let geometry = convolution(kernel, stride, 1);
        let weights: Vec<f32> = numbers(seed, (c_out * c_in * kernel * kernel) as usize)
            .into_iter().map(|w| w as f32).collect();
        let tensor = numbers(!seed, input.shape.len());
        let slots = Slots::new(1 << log_slots).expect("a power of two");
        let map = ResolvedMap::convolution(&input, &output, geometry);
        let call = plan_call(&[(map, 0)], &BsgsSplit::by_modulus(16, 1 << log_slots), slots);
        let packed = input.pack(&tensor);
        let inputs: Vec<&[f64]> = packed.iter().map(Vec::as_slice).collect();
        let found = output.unpack(&apply_clear(&call, &[weights.as_slice()], &inputs, None));
        let expected = direct(input.shape, output.shape, geometry, &weights, &tensor);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert!((found - expected).abs() < 1e-9, "{from} to {to}: {found} for {expected}");
        }
    }
}
