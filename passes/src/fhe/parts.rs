//! Values that are made in two parts, by channels.
//!
//! Where channels lie above the pixels of a ciphertext their offsets wrap around a power of two, and a dense map has as many diagonals
//! as that, however many of the places are empty: 256 for 160 channels. Two values of 128 and of 32 channels repeat within their
//! ciphertexts, each with a period of its own, and take 128 and 32. That is one more ciphertext, so it is for values that only
//! linear maps read: the narrow ends of bottlenecks.

use std::ops::Range;

use peregrine_ir::layout::Chw;
use peregrine_ir::{AxisError, AxisMap, Separable};

use super::views::{Term, extents};

/// Values of fewer channels have too few diagonals.
const FEWEST_CHANNELS: u32 = 32;

/// The channels of two parts of a value that takes one ciphertext of so many slots, if less than seven eighths of the places that
/// its channels need are needed by the parts.
pub(super) fn halves(shape: Chw, slots: u32) -> Option<[Range<u32>; 2]> {
    let pixels = u64::from(shape.h.next_power_of_two()) * u64::from(shape.w.next_power_of_two());
    let places = shape.c.next_power_of_two();
    let fits = u64::from(places) * pixels <= u64::from(slots);
    let first = places / 2;
    let rest = shape.c.checked_sub(first).filter(|&rest| rest > 0)?.next_power_of_two();
    let fewer = 8 * (first + rest) < 7 * places;
    (fits && fewer && shape.c >= FEWEST_CHANNELS).then_some([0..first, first..shape.c])
}

/// Whether a term gives something to every channel, so that no part of its sum is empty.
pub(super) fn reaches_all(term: &Term) -> bool {
    term.geometry.groups == 1 && term.after.maps[0].is_identity()
}

/// The map from a value to some of its channels, and the one that puts them back in their places.
///
/// # Errors
/// Those of [`AxisMap`], for extents that are too large.
pub(super) fn maps(shape: Chw, channels: &Range<u32>) -> Result<[Separable; 2], AxisError> {
    let [c, h, w] = extents(shape);
    let (count, start) = (channels.end - channels.start, i64::from(channels.start));
    let around =
        |channels: AxisMap| Separable { maps: [channels, AxisMap::identity(h), AxisMap::identity(w)] };
    Ok([around(AxisMap::window(c, count, start, 1)?), around(AxisMap::spread(count, c, start, 1)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_powers_of_two_where_that_saves_places() {
        let of = |c, side| halves(Chw { c, h: side, w: side }, 1 << 15);
        assert_eq!(of(160, 8), Some([0..128, 128..160]));
        assert_eq!(of(96, 16), Some([0..64, 64..96]));
        assert_eq!(of(40, 7), Some([0..32, 32..40]));
        // Full, nearly full, too few, and more than a ciphertext.
        for (c, side) in [(128, 8), (120, 8), (24, 8), (1, 1), (160, 16)] {
            assert_eq!(of(c, side), None, "{c}x{side}x{side}");
        }
    }

    #[test]
    fn parts_and_their_places_make_the_whole() {
        let shape = Chw { c: 160, h: 8, w: 8 };
        let mut reached = Vec::new();
        for channels in halves(shape, 1 << 15).unwrap() {
            let [select, place] = maps(shape, &channels).unwrap();
            let both = place.after(&select).unwrap();
            assert!(both.maps[1].is_identity() && both.maps[2].is_identity());
            assert!(both.maps[0].entries().all(|e| e.input == e.output && e.factor == 1.0));
            reached.extend(both.maps[0].entries().map(|e| e.output));
        }
        assert_eq!(reached, (0..160).collect::<Vec<_>>());
    }
}
