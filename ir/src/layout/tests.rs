use proptest::prelude::*;

use super::*;

fn layout(shape: [u32; 3], digits: [&[(u32, Place)]; 3], period: u32, ciphertexts: u32) -> Layout {
    let [c, h, w] = shape;
    let digits = digits.map(|d| d.iter().map(|&(radix, place)| Digit { radix, place }).collect());
    let period = Slots::new(period).unwrap();
    Layout { shape: Chw { c, h, w }, digits, period, ciphertexts, blocks: Blocks::default() }
}

use Place::{Block, Cipher, Slot};

/// Interleaved over four ciphertexts: low digits of y and x pick the ciphertext.
fn split_map() -> Layout {
    let y: &[_] = &[(2, Cipher(2)), (3, Slot(4))];
    let x: &[_] = &[(2, Cipher(1)), (3, Slot(1))];
    layout([1, 6, 5], [&[], y, x], 16, 4)
}

/// Four channels fill the gaps of a grid of stride two.
fn multiplexed() -> Layout {
    let c: &[_] = &[(2, Slot(1)), (2, Slot(8)), (2, Slot(64))];
    layout([7, 4, 4], [c, &[(4, Slot(16))], &[(4, Slot(2))]], 128, 1)
}

/// Twelve parity classes of three channels, five blocks of 56 slots in each of three ciphertexts.
fn blocked() -> Layout {
    let y: &[_] = &[(2, Block(2)), (7, Slot(8))];
    let x: &[_] = &[(2, Block(1)), (7, Slot(1))];
    let layout = layout([3, 14, 14], [&[(3, Block(4))], y, x], 512, 3);
    Layout { blocks: Blocks { slots: 56, per_cipher: 5 }, ..layout }
}

#[test]
fn the_three_instances_of_interleaved_packing_are_valid() {
    for layout in [split_map(), multiplexed(), blocked(), crate::samples::raster(3, 5, 7)] {
        assert_eq!(layout.check(), Ok(()));
        let mut seen = std::collections::BTreeSet::new();
        layout.for_each(|_, at| {
            assert!(at.slot < layout.period.get() && at.cipher < layout.ciphertexts);
            assert!(seen.insert(at), "two elements at {at:?}");
        });
        assert_eq!(seen.len(), layout.shape.len());
    }
    assert_eq!(split_map().position(0, 3, 2), Position { cipher: 2, slot: 5 });
    assert_eq!(multiplexed().position(5, 1, 3), Position { cipher: 0, slot: 64 + 1 + 16 + 6 });
    assert_eq!(blocked().position(1, 3, 2), Position { cipher: 1, slot: 56 + 8 + 1 });
    assert_eq!(multiplexed().occupancy(), 112.0 / 128.0);
}

#[test]
fn pack_and_unpack_are_inverse_and_padding_is_zero() {
    for layout in [split_map(), multiplexed(), blocked(), crate::samples::raster(3, 5, 7)] {
        let tensor: Vec<f64> = (1..=layout.shape.len()).map(|i| i as f64).collect();
        let slots = layout.pack(&tensor);
        assert_eq!(layout.unpack(&slots), tensor);
        let used = slots.iter().flatten().filter(|&&x| x != 0.0).count();
        assert_eq!(used, tensor.len());
    }
}

#[test]
fn channel_values_spread_over_their_elements() {
    let layout = multiplexed();
    let values: Vec<f64> = (1..=7).map(f64::from).collect();
    let tensor: Vec<f64> = (0..layout.shape.len()).map(|i| (i / 16 + 1) as f64).collect();
    assert_eq!(layout.spread_channels(&values, 0), layout.pack(&tensor)[0]);
    assert_eq!(layout.spread_channels(&[2.0], 0), layout.pack(&[2.0; 112])[0]);
    let split = split_map();
    assert_eq!(split.spread_channels(&[3.0], 3), split.pack(&[3.0; 30])[3]);
}

#[test]
fn each_rule_is_enforced() {
    let row: &[_] = &[(4, Slot(1))];
    let base = layout([1, 1, 4], [&[], &[], row], 4, 1);
    assert_eq!(base.check(), Ok(()));
    let empty = Chw { c: 1, h: 0, w: 4 };
    assert_eq!(Layout { shape: empty, ..base.clone() }.check(), Err(LayoutError::Empty(empty)));
    let zero = layout([1, 1, 4], [&[], &[(0, Slot(1))], row], 4, 1);
    assert_eq!(zero.check(), Err(LayoutError::ZeroRadix { axis: Axis::Y }));
    let uncovered = layout([2, 1, 4], [&[], &[], row], 8, 1);
    assert_eq!(uncovered.check(), Err(LayoutError::Uncovered { axis: Axis::C, covered: 1, extent: 2 }));
    let overlap = layout([2, 1, 4], [&[(2, Slot(3))], &[], row], 8, 1);
    assert_eq!(overlap.check(), Err(LayoutError::Overlap { stride: 3, reach: 4 }));
    let long = layout([2, 1, 4], [&[(2, Slot(4))], &[], row], 4, 1);
    assert_eq!(long.check(), Err(LayoutError::TooLarge { what: "slot", reach: 8, limit: 4 }));
    let many = layout([3, 1, 4], [&[(3, Cipher(1))], &[], row], 4, 2);
    assert_eq!(many.check(), Err(LayoutError::TooLarge { what: "ciphertext", reach: 3, limit: 2 }));
    assert!(matches!(Layout { ciphertexts: 0, ..base.clone() }.check(), Err(LayoutError::TooLarge { .. })));
    let blocks = |slots, per_cipher| Layout { blocks: Blocks { slots, per_cipher }, ..blocked() }.check();
    assert_eq!(blocks(0, 5), Err(LayoutError::Mixed));
    assert_eq!(blocks(56, 0), Err(LayoutError::Mixed));
    assert_eq!(blocks(54, 5), Err(LayoutError::TooLarge { what: "slot", reach: 55, limit: 54 }));
    assert_eq!(blocks(56, 10), Err(LayoutError::TooLarge { what: "slot", reach: 560, limit: 512 }));
    assert_eq!(blocks(56, 3), Err(LayoutError::TooLarge { what: "block", reach: 12, limit: 9 }));
    let both = layout([2, 2, 4], [&[(2, Cipher(1))], &[(2, Block(1))], row], 4, 4);
    assert_eq!(both.check(), Err(LayoutError::Mixed));
}

#[test]
fn absurd_extents_do_not_overflow() {
    let huge = u32::MAX;
    let digits: &[_] = &[(huge, Slot(huge)), (huge, Slot(1)), (huge, Cipher(huge))];
    let layout = layout([huge, huge, huge], [digits, digits, digits], 1 << 16, huge);
    assert!(layout.check().is_err());
    assert!(!layout.shape.is_empty());
    assert_eq!(layout.shape.len(), usize::MAX);
}

proptest! {
    /// What passes the check has a place of its own for every element.
    #[test]
    fn checked_layouts_are_injective(
        shape in [1u32..5, 1u32..5, 1u32..5],
        digits in prop::collection::vec((0usize..3, 1u32..5, any::<bool>(), 0u32..40), 0..7),
        blocks in prop::option::of((1u32..30, 1u32..6)),
    ) {
        let mut axes: [Vec<Digit>; 3] = Default::default();
        for (axis, radix, slot, stride) in digits {
            let place = match (slot, blocks) {
                (true, _) => Slot(stride),
                (false, None) => Cipher(stride % 4),
                (false, Some(_)) => Block(stride % 16),
            };
            axes[axis].push(Digit { radix, place });
        }
        let [c, h, w] = shape;
        let blocks = blocks.map_or_else(Blocks::default, |(slots, per_cipher)| Blocks { slots, per_cipher });
        let (shape, period) = (Chw { c, h, w }, Slots::new(64).unwrap());
        let layout = Layout { shape, digits: axes, period, ciphertexts: 4, blocks };
        if layout.check().is_ok() {
            let mut seen = std::collections::BTreeSet::new();
            let mut inside = true;
            layout.for_each(|_, at| inside &= at.slot < 64 && at.cipher < 4 && seen.insert(at));
            prop_assert!(inside);
        }
    }
}
