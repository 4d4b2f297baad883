//! Heads computed by hand, a slow decoder written from the families' definitions, and what is refused.

use proptest::prelude::*;

use super::super::tensor::NamedTensor;
use super::{Anchors, DecodeError, DecodeSpec, Decoder, Detection, PixelBox, Thresholds, matches, suppress};

fn tensor(name: &str, shape: &[usize], data: Vec<f64>) -> NamedTensor {
    assert_eq!(data.len(), shape.iter().product::<usize>());
    NamedTensor { name: name.to_owned(), shape: shape.to_vec(), data }
}

fn spec(decoder: Decoder, anchors: Option<&str>, score: f64) -> DecodeSpec {
    let thresholds = Thresholds { score, ..Thresholds::default() };
    DecodeSpec { decoder, anchors: anchors.map(|text| text.parse().expect("anchors")), thresholds }
}

fn close(found: &Detection, class: usize, score: f64, at: [f64; 4]) {
    assert_eq!(found.class, class);
    assert!((found.score - score).abs() < 1e-9, "score {} is not {score}", found.score);
    for (a, b) in found.at.0.iter().zip(at) {
        assert!((a - b).abs() < 1e-9, "{:?} is not {at:?}", found.at);
    }
}

/// `[1, 7, 2, 2]`, silent but for the cell in row 1, column 0.
fn one_cell(cell: [f64; 7]) -> NamedTensor {
    let mut data = vec![-50.0; 28];
    for (k, value) in cell.into_iter().enumerate() {
        data[k * 4 + 2] = value;
    }
    tensor("head", &[1, 7, 2, 2], data)
}

/// ln 3: its sigmoid is 3/4.
const LN3: f64 = 1.0986122886681098;
/// ln 2.
const LN2: f64 = std::f64::consts::LN_2;

#[test]
fn a_yolov3_cell_by_hand() {
    // 64x64 pixels in cells of 32: centre (0 + 3/4, 1 + 1/2) * 32 = (24, 48), size (10 * 2, 20 * 1).
    let head = one_cell([LN3, 0.0, LN2, 0.0, LN3, 0.0, LN3]);
    let found = spec(Decoder::YoloV3, Some("10,20"), 0.5).decode(&[head], [64, 64]).expect("a head");
    assert_eq!(found.len(), 1);
    close(&found[0], 1, 0.75 * 0.75, [14.0, 38.0, 34.0, 58.0]);
}

#[test]
fn a_yolov5_cell_by_hand() {
    // Centre (0 - 1/2 + 3/2, 1 - 1/2 + 1) * 32 = (32, 48), size (10 * (3/2)^2, 20 * 1).
    let head = one_cell([LN3, 0.0, LN3, 0.0, LN3, LN3, -50.0]);
    let found = spec(Decoder::YoloV5, Some("10,20"), 0.5).decode(&[head], [64, 64]).expect("a head");
    assert_eq!(found.len(), 1);
    close(&found[0], 0, 0.5625, [32.0 - 11.25, 38.0, 32.0 + 11.25, 58.0]);
}

#[test]
fn a_yolov2_cell_by_hand() {
    // Anchors in cells: size (1/2 * 2, 1/4) * 32; classes share exp(ln 3) : exp(0) = 3/4 : 1/4.
    let head = one_cell([LN3, 0.0, LN2, 0.0, LN3, LN3, 0.0]);
    let found = spec(Decoder::YoloV2, Some("0.5,0.25"), 0.1).decode(&[head], [64, 64]).expect("a head");
    assert_eq!(found.len(), 2);
    close(&found[0], 0, 0.75 * 0.75, [8.0, 44.0, 40.0, 52.0]);
    close(&found[1], 1, 0.75 * 0.25, [8.0, 44.0, 40.0, 52.0]);
}

#[test]
fn a_yolox_cell_by_hand() {
    // Centre (0 + 1/2, 1 + 1/4) * 32, size (2, 1) * 32.
    let head = one_cell([0.5, 0.25, LN2, 0.0, LN3, 0.0, LN3]);
    let found = spec(Decoder::YoloX, None, 0.5).decode(&[head], [64, 64]).expect("a head");
    assert_eq!(found.len(), 1);
    close(&found[0], 1, 0.5625, [-16.0, 24.0, 48.0, 56.0]);
}

#[test]
fn a_yolov8_cell_by_hand() {
    // All weight on bins 1, 0, 2, 3: sides at one half minus 1, 1.5 minus 0, 0.5 plus 2, 1.5 plus 3 cells.
    let mut data = vec![-50.0; 65 * 4];
    for (side, bin) in [1, 0, 2, 3].into_iter().enumerate() {
        data[(side * 16 + bin) * 4 + 2] = 50.0;
    }
    data[64 * 4 + 2] = LN3;
    let head = tensor("head", &[1, 65, 2, 2], data);
    let found = spec(Decoder::YoloV8, None, 0.5).decode(&[head], [64, 64]).expect("a head");
    assert_eq!(found.len(), 1);
    close(&found[0], 0, 0.75, [-16.0, 48.0, 80.0, 144.0]);
}

#[test]
fn lists_by_hand() {
    // YOLOv8 lists predictions last.
    let mut columns = vec![0.0; 5 * 6];
    for (k, value) in [32.0, 16.0, 8.0, 4.0, 0.9].into_iter().enumerate() {
        columns[k * 6 + 3] = value;
    }
    let list = tensor("y", &[1, 5, 6], columns);
    let found = spec(Decoder::YoloV8, None, 0.5).decode(&[list], [64, 64]).expect("a list");
    close(&found[0], 0, 0.9, [28.0, 14.0, 36.0, 18.0]);
    // YOLOv5 lists them first, with an object score.
    let mut rows = vec![0.0; 8 * 7];
    rows[7..14].copy_from_slice(&[32.0, 16.0, 8.0, 4.0, 0.9, 0.1, 0.8]);
    let list = tensor("y", &[1, 8, 7], rows);
    let found = spec(Decoder::YoloV5, None, 0.5).decode(&[list], [64, 64]).expect("a list");
    close(&found[0], 1, 0.72, [28.0, 14.0, 36.0, 18.0]);
    // YOLOX: 8x8, 4x4 and 2x2 cells; prediction 64 + 5 is column 1, row 1 of stride 16.
    let mut rows = vec![0.0; 84 * 6];
    rows[69 * 6..70 * 6].copy_from_slice(&[0.5, 0.25, LN2, 0.0, 0.8, 0.9]);
    let list = tensor("y", &[1, 84, 6], rows);
    let found = spec(Decoder::YoloX, None, 0.5).decode(&[list], [64, 64]).expect("a list");
    close(&found[0], 0, 0.72, [8.0, 12.0, 40.0, 28.0]);
}

#[test]
fn axes_may_be_in_any_order() {
    let planar: Vec<f64> = (0..2 * 7 * 16).map(|i| (i as f64 * 0.7).sin() * 2.0).collect();
    let at = |k: usize, cell: usize| planar[k * 16 + cell];
    let last: Vec<f64> =
        (0..16).flat_map(|cell| (0..14).map(move |k| (k, cell))).map(|(k, c)| at(k, c)).collect();
    let five: Vec<f64> = (0..2 * 16 * 7).map(|i| at(i / 112 * 7 + i % 7, i % 112 / 7)).collect();
    let spec = spec(Decoder::YoloV5, Some("8,9,20,15"), 0.3);
    let decode = |shape: &[usize], data: &[f64]| {
        spec.decode(&[tensor("h", shape, data.to_vec())], [64, 64]).expect("a head")
    };
    let expected = decode(&[1, 14, 4, 4], &planar);
    assert!(!expected.is_empty());
    assert_eq!(decode(&[1, 4, 4, 14], &last), expected);
    assert_eq!(decode(&[1, 2, 4, 4, 7], &five), expected);
}

/// A slow decoder of anchored heads `[1, A*(5+C), H, W]`, from the definitions: every prediction, no shortcut, then
/// suppression by repeated search for the best.
fn slow(
    decoder: Decoder,
    heads: &[NamedTensor],
    anchors: &[[f64; 2]],
    input: u32,
    least: f64,
) -> Vec<Detection> {
    let logistic = |x: f64| x.exp() / (x.exp() + 1.0);
    let mut all = Vec::new();
    for (number, head) in heads.iter().enumerate() {
        let (channels, side) = (head.shape[1], head.shape[2]);
        let own = &anchors[number * anchors.len() / heads.len()..(number + 1) * anchors.len() / heads.len()];
        let values = channels / own.len();
        let cell = f64::from(input) / side as f64;
        for i in 0..own.len() * side * side {
            let (a, y, x) = (i / side / side, i / side % side, i % side);
            let t = |k: usize| head.data[((a * values + k) * side + y) * side + x];
            let (centre, size) = match decoder {
                Decoder::YoloV3 => (
                    [(x as f64 + logistic(t(0))) * cell, (y as f64 + logistic(t(1))) * cell],
                    [own[a][0] * t(2).exp(), own[a][1] * t(3).exp()],
                ),
                Decoder::YoloV2 => (
                    [(x as f64 + logistic(t(0))) * cell, (y as f64 + logistic(t(1))) * cell],
                    [own[a][0] * cell * t(2).exp(), own[a][1] * cell * t(3).exp()],
                ),
                _ => (
                    [
                        (x as f64 + 2.0 * logistic(t(0)) - 0.5) * cell,
                        (y as f64 + 2.0 * logistic(t(1)) - 0.5) * cell,
                    ],
                    [own[a][0] * 4.0 * logistic(t(2)).powi(2), own[a][1] * 4.0 * logistic(t(3)).powi(2)],
                ),
            };
            let total: f64 = (5..values).map(|k| t(k).exp()).sum();
            for class in 0..values - 5 {
                let share = match decoder {
                    Decoder::YoloV2 => t(5 + class).exp() / total,
                    _ => logistic(t(5 + class)),
                };
                let corners = [
                    centre[0] - 0.5 * size[0],
                    centre[1] - 0.5 * size[1],
                    centre[0] + 0.5 * size[0],
                    centre[1] + 0.5 * size[1],
                ];
                all.push(Detection { class, score: logistic(t(4)) * share, at: PixelBox(corners) });
            }
        }
    }
    slow_suppression(&all, least)
}

/// A slow decoder of anchor-free heads: `[1, 64+C, H, W]` of YOLOv8, `[1, 5+C, H, W]` of YOLOX.
fn slow_anchor_free(decoder: Decoder, heads: &[NamedTensor], input: u32, least: f64) -> Vec<Detection> {
    let logistic = |x: f64| x.exp() / (x.exp() + 1.0);
    let mut all = Vec::new();
    for head in heads {
        let (channels, side) = (head.shape[1], head.shape[2]);
        let cell = f64::from(input) / side as f64;
        for i in 0..side * side {
            let (y, x) = ((i / side) as f64, (i % side) as f64);
            let t = |k: usize| head.data[k * side * side + i];
            let (first, object, at) = match decoder {
                Decoder::YoloV8 => {
                    let mean = |edge: usize| {
                        let weights: Vec<f64> = (0..16).map(|bin| t(edge * 16 + bin).exp()).collect();
                        (0..16).map(|bin| bin as f64 * weights[bin]).sum::<f64>()
                            / weights.iter().sum::<f64>()
                    };
                    let (x, y) = (x + 0.5, y + 0.5);
                    (64, 1.0, [x - mean(0), y - mean(1), x + mean(2), y + mean(3)].map(|v| v * cell))
                }
                _ => {
                    let (half_w, half_h) = (t(2).exp() * cell / 2.0, t(3).exp() * cell / 2.0);
                    let (x, y) = ((x + t(0)) * cell, (y + t(1)) * cell);
                    (5, logistic(t(4)), [x - half_w, y - half_h, x + half_w, y + half_h])
                }
            };
            all.extend((first..channels).map(|k| Detection {
                class: k - first,
                score: object * logistic(t(k)),
                at: PixelBox(at),
            }));
        }
    }
    slow_suppression(&all, least)
}

fn slow_suppression(all: &[Detection], least: f64) -> Vec<Detection> {
    let mut kept: Vec<Detection> = Vec::new();
    loop {
        let free = |d: &&Detection| {
            d.score >= least
                && kept.iter().all(|k| *k != **d && (k.class != d.class || overlap(k.at.0, d.at.0) <= 0.45))
        };
        match all.iter().filter(free).max_by(|a, b| a.score.total_cmp(&b.score)) {
            Some(best) => kept.push(*best),
            None => return kept,
        }
    }
}

fn overlap(a: [f64; 4], b: [f64; 4]) -> f64 {
    let side = |low: usize| (a[low + 2].min(b[low + 2]) - a[low].max(b[low])).max(0.0);
    let area = |c: [f64; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let both = side(0) * side(1);
    both / (area(a) + area(b) - both)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn anchored_heads_agree_with_the_slow_decoder(
        family in prop::sample::select(vec![Decoder::YoloV2, Decoder::YoloV3, Decoder::YoloV5]),
        two_heads in any::<bool>(),
        anchors in 1usize..4,
        classes in 1usize..5,
        side in 2usize..5,
        numbers in prop::collection::vec(-2.5f64..2.5, 32 * 17),
    ) {
        let sides: Vec<usize> = if two_heads { vec![side * 2, side] } else { vec![side] };
        // Repeated numbers are told apart by their place: of equal scores either may come first.
        let mut numbers = numbers.into_iter().cycle().enumerate().map(|(i, v)| v + 1e-4 * (i as f64).sin());
        let values = anchors * (5 + classes);
        let heads: Vec<NamedTensor> = sides
            .iter()
            .map(|&s| tensor("h", &[1, values, s, s], (&mut numbers).take(values * s * s).collect()))
            .collect();
        let list: Vec<[f64; 2]> =
            (0..anchors * sides.len()).map(|i| [1.0 + 1.5 * i as f64, 2.0 + 0.5 * i as f64]).collect();
        let text: Vec<String> = list.iter().flatten().map(f64::to_string).collect();
        let input = 8 * side as u32 * 2;
        let mut shuffled = heads.clone();
        shuffled.reverse();
        let spec = spec(family, Some(&text.join(",")), 0.3);
        let found = spec.decode(&shuffled, [input, input]).expect("heads");
        let expected = slow(family, &heads, &list, input, 0.3);
        same(&found, &expected)?;
    }

    #[test]
    fn anchor_free_heads_agree_with_the_slow_decoder(
        family in prop::sample::select(vec![Decoder::YoloV8, Decoder::YoloX]),
        two_heads in any::<bool>(),
        classes in 1usize..5,
        side in 2usize..5,
        numbers in prop::collection::vec(-2.5f64..2.5, 32 * 17),
    ) {
        let sides: Vec<usize> = if two_heads { vec![side * 2, side] } else { vec![side] };
        let mut numbers = numbers.into_iter().cycle().enumerate().map(|(i, v)| v + 1e-4 * (i as f64).sin());
        let values = classes + if family == Decoder::YoloV8 { 64 } else { 5 };
        let heads: Vec<NamedTensor> = sides
            .iter()
            .map(|&s| tensor("h", &[1, values, s, s], (&mut numbers).take(values * s * s).collect()))
            .collect();
        let input = 16 * side as u32;
        let found = spec(family, None, 0.5).decode(&heads, [input, input]).expect("heads");
        same(&found, &slow_anchor_free(family, &heads, input, 0.5))?;
    }
}

fn same(found: &[Detection], expected: &[Detection]) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len().min(300));
    for (f, e) in found.iter().zip(expected) {
        prop_assert!((f.score - e.score).abs() < 1e-12);
        prop_assert_eq!(f.class, e.class);
        prop_assert!(f.at.0.iter().zip(e.at.0).all(|(a, b)| (a - b).abs() < 1e-9), "{:?} {:?}", f, e);
    }
    Ok(())
}

fn detection(class: usize, score: f64, at: [f64; 4]) -> Detection {
    Detection { class, score, at: PixelBox(at) }
}

#[test]
fn suppression_is_by_class_and_strict() {
    let best = detection(0, 0.9, [0.0, 0.0, 10.0, 10.0]);
    let covered = detection(0, 0.8, [0.0, 0.0, 10.0, 8.0]);
    let other_class = detection(1, 0.7, [0.0, 0.0, 10.0, 10.0]);
    let half = detection(0, 0.6, [0.0, 0.0, 10.0, 5.0]);
    let weak = detection(0, 0.1, [90.0, 90.0, 99.0, 99.0]);
    let nan = detection(0, f64::NAN, [0.0; 4]);
    let all = vec![weak, half, other_class, nan, covered, best];
    let thresholds = Thresholds { score: 0.25, iou: 0.5, most: 10 };
    assert_eq!(
        suppress(all.clone(), thresholds),
        [best, other_class, half],
        "an overlap of exactly 0.5 stays"
    );
    assert_eq!(suppress(all, Thresholds { most: 1, ..thresholds }), [best]);
    assert_eq!(PixelBox([0.0, 0.0, 10.0, 10.0]).iou(&PixelBox([5.0, 0.0, 15.0, 10.0])), 50.0 / 150.0);
    assert_eq!(PixelBox([0.0; 4]).iou(&PixelBox([0.0; 4])), 0.0);
}

#[test]
fn matches_take_the_best_overlap_once() {
    let a = [detection(0, 0.9, [0.0, 0.0, 10.0, 10.0]), detection(0, 0.8, [0.0, 0.0, 10.0, 9.0])];
    let b = [detection(0, 0.5, [0.0, 0.0, 10.0, 9.0]), detection(1, 0.5, [0.0, 0.0, 10.0, 10.0])];
    assert_eq!(matches(&a, &b, 0.5), [(1, 0, 1.0)]);
}

#[test]
fn what_is_no_head_is_refused() {
    let decode = |decoder, anchors, shape: &[usize]| {
        let outputs = [tensor("out", shape, vec![0.0; shape.iter().product()])];
        spec(decoder, anchors, 0.3).decode(&outputs, [64, 64]).expect_err("it is refused")
    };
    let vector = decode(Decoder::YoloV3, None, &[1, 10]);
    assert!(matches!(vector, DecodeError::NoHead { .. }));
    assert!(vector.to_string().contains("`out` 1x10") && vector.to_string().contains("64x64"), "{vector}");
    assert!(matches!(decode(Decoder::YoloV3, None, &[1, 10, 5, 5]), DecodeError::NoHead { .. }));
    assert!(matches!(decode(Decoder::YoloV3, None, &[1, 30, 2, 2]), DecodeError::NoDefault { heads: 1, .. }));
    assert!(matches!(decode(Decoder::YoloV3, Some("1,2,3,4"), &[1, 15, 2, 2]), DecodeError::Channels { .. }));
    assert!(matches!(decode(Decoder::YoloV3, Some("1,2"), &[1, 5, 2, 2]), DecodeError::Channels { .. }));
    assert!(matches!(decode(Decoder::YoloV8, None, &[1, 64, 2, 2]), DecodeError::Channels { .. }));
    assert!(matches!(decode(Decoder::YoloX, None, &[1, 83, 6]), DecodeError::Length { expected: 84, .. }));
    let two = [tensor("a", &[1, 7, 2, 2], vec![0.0; 28]), tensor("b", &[1, 8, 4, 4], vec![0.0; 128])];
    let decode = |anchors| spec(Decoder::YoloV3, Some(anchors), 0.3).decode(&two, [64, 64]);
    assert_eq!(decode("1,2,3,4"), Err(DecodeError::Classes { counts: vec![3, 2] }));
    assert_eq!(decode("1,2,3,4,5,6"), Err(DecodeError::Anchors { given: 3, heads: 2 }));
}

#[test]
fn numbers_that_are_none_give_no_boxes() {
    let head = tensor("h", &[1, 7, 2, 2], vec![f64::NAN; 28]);
    assert_eq!(spec(Decoder::YoloV3, Some("1,2"), 0.0).decode(&[head], [64, 64]), Ok(vec![]));
}

#[test]
fn anchors_come_from_lists_and_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("anchors.txt");
    std::fs::write(&path, "10, 14\n23, 27\n").expect("written");
    let file = Anchors::of_flag(path.to_str().expect("a path")).expect("a file of anchors");
    assert_eq!(file, Anchors::of_flag("[[10,14],[23,27]]").expect("a list"));
    for bad in ["", "1,2,3", "1,-2", "nan,1", "no/such/file"] {
        assert!(Anchors::of_flag(bad).is_err(), "{bad}");
    }
}
