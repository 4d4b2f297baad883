//! Convolutions against the definition, and their gradients against the adjoint.

use super::*;
use crate::tensor::Shape;

/// Numbers in -1..1 that do not repeat.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.f32() * 2.0 - 1.0).collect()
}

fn geometry(input: [usize; 2], channels: [usize; 2], kernel: [usize; 2]) -> Geometry {
    let [c_in, c_out] = channels;
    let (stride, dilation) = ([1, 1], [1, 1]);
    Geometry { input, c_in, c_out, kernel, stride, pads: [1; 4], dilation, groups: 1 }
}

fn cases() -> Vec<Geometry> {
    let base = geometry([6, 7], [5, 20], [3, 3]);
    let wide = geometry([5, 4], [33, 40], [3, 3]);
    vec![
        base.clone(),
        wide.clone(),
        Geometry { stride: [2, 2], ..base.clone() },
        Geometry { stride: [3, 2], pads: [0, 2, 1, 0], ..base.clone() },
        Geometry { dilation: [2, 1], pads: [2, 1, 2, 1], ..base.clone() },
        Geometry { kernel: [1, 1], pads: [0; 4], ..base.clone() },
        Geometry { kernel: [1, 1], pads: [0; 4], stride: [2, 2], ..base.clone() },
        Geometry { kernel: [2, 5], pads: [0, 2, 0, 2], c_out: 3, ..base.clone() },
        Geometry { c_in: 6, c_out: 9, groups: 3, ..base.clone() },
        Geometry { c_in: 6, c_out: 9, groups: 3, stride: [2, 1], dilation: [1, 2], ..base.clone() },
        Geometry { c_in: 17, c_out: 17, groups: 17, ..base.clone() },
        Geometry { c_in: 17, c_out: 17, groups: 17, stride: [2, 2], kernel: [5, 3], ..base },
        Geometry { c_in: 48, c_out: 16, stride: [2, 2], ..wide },
    ]
}

struct Case {
    conv: Convolution,
    x: Tensor,
    dy: Tensor,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

fn case(g: Geometry) -> Case {
    let [rows, columns] = g.output();
    let x = Shape { n: 3, h: g.input[0], w: g.input[1], c: g.c_in };
    let y = Shape { n: 3, h: rows, w: columns, c: g.c_out };
    Case {
        x: Tensor { shape: x, data: numbers(x.len(), 1) },
        dy: Tensor { shape: y, data: numbers(y.len(), 2) },
        weights: numbers(g.weights(), 3),
        bias: numbers(g.c_out, 4),
        conv: Convolution::new(g),
    }
}

/// By the definition, in `f64`.
fn slow(case: &Case) -> Vec<f64> {
    let (g, x) = (case.conv.geometry(), &case.x);
    let [rows, columns] = g.output();
    let (ci, co) = (g.c_in / g.groups, g.c_out / g.groups);
    let mut out = Vec::new();
    for n in 0..x.shape.n {
        for i in 0..rows * columns * g.c_out {
            let (pixel, o) = (i / g.c_out, i % g.c_out);
            let (y, xx, group) = (pixel / columns, pixel % columns, o / co);
            let mut sum = f64::from(case.bias[o]);
            for k in 0..g.kernel[0] * g.kernel[1] * ci {
                let (tap, c) = (k / ci, k % ci);
                let row = y * g.stride[0] + tap / g.kernel[1] * g.dilation[0];
                let column = xx * g.stride[1] + tap % g.kernel[1] * g.dilation[1];
                let inside =
                    |at: usize, pad: usize, extent: usize| at.checked_sub(pad).filter(|a| *a < extent);
                let places = (inside(row, g.pads[0], g.input[0]), inside(column, g.pads[1], g.input[1]));
                if let (Some(row), Some(column)) = places {
                    let at = ((n * g.input[0] + row) * g.input[1] + column) * g.c_in + group * ci + c;
                    let taps = g.kernel[0] * g.kernel[1];
                    let weight = case.weights[((group * taps + tap) * ci + c) * co + o % co];
                    sum += f64::from(x.data[at]) * f64::from(weight);
                }
            }
            out.push(sum);
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn forward_is_the_definition() {
    for g in cases() {
        let case = case(g);
        // What was there before must not matter.
        let mut y = Tensor { data: vec![f32::NAN; case.dy.data.len()], ..case.dy.clone() };
        case.conv.forward(&case.x, &case.weights, Some(&case.bias), &mut y);
        let worst =
            y.data.iter().zip(slow(&case)).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{:?}: {worst}", case.conv.geometry());
    }
}

#[test]
fn gradients_are_the_adjoint() {
    for g in cases() {
        let case = case(g);
        let mut y = case.dy.clone();
        case.conv.forward(&case.x, &case.weights, None, &mut y);
        let mut dx = Tensor { data: vec![f32::NAN; case.x.data.len()], ..case.x.clone() };
        case.conv.input_grad(&case.dy, &case.weights, &mut dx);
        let mut dw = vec![0.0; case.weights.len()];
        case.conv.weight_grad(&case.x, &case.dy, &mut dw);
        let value = dot(&y.data, &case.dy.data);
        let (by_x, by_w) = (dot(&dx.data, &case.x.data), dot(&dw, &case.weights));
        let scale = dot(&y.data, &y.data).sqrt() * dot(&case.dy.data, &case.dy.data).sqrt();
        assert!((value - by_x).abs() < 1e-5 * scale, "{:?}: {value} {by_x}", case.conv.geometry());
        assert!((value - by_w).abs() < 1e-5 * scale, "{:?}: {value} {by_w}", case.conv.geometry());
    }
}

#[test]
fn each_gradient_number_is_a_derivative() {
    // The adjoint property holds for one direction only: here single numbers, on the awkward geometries.
    for g in cases().into_iter().skip(3).step_by(2) {
        let mut case = case(g);
        let mut y = case.dy.clone();
        let (mut dx, mut dw) = (case.x.clone(), vec![0.0; case.weights.len()]);
        case.conv.input_grad(&case.dy, &case.weights, &mut dx);
        case.conv.weight_grad(&case.x, &case.dy, &mut dw);
        let mut value = |case: &Case| {
            case.conv.forward(&case.x, &case.weights, None, &mut y);
            dot(&y.data, &case.dy.data)
        };
        let before = value(&case);
        for i in (0..case.x.data.len()).step_by(11) {
            case.x.data[i] += 1.0;
            assert!((value(&case) - before - f64::from(dx.data[i])).abs() < 1e-3, "x {i}");
            case.x.data[i] -= 1.0;
        }
        for i in (0..case.weights.len()).step_by(7) {
            case.weights[i] += 1.0;
            assert!((value(&case) - before - f64::from(dw[i])).abs() < 1e-3, "w {i}");
            case.weights[i] -= 1.0;
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let case = case(geometry([9, 8], [16, 24], [3, 3]));
            let mut dw = vec![0.0; case.weights.len()];
            case.conv.weight_grad(&case.x, &case.dy, &mut dw);
            dw
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn bias_gradients_sum() {
    let case = case(geometry([3, 3], [2, 5], [3, 3]));
    let mut grad = vec![1.0; 5];
    bias_grad(&case.dy, &mut grad);
    for (c, g) in grad.iter().enumerate() {
        let sum: f32 = case.dy.data.iter().skip(c).step_by(5).sum();
        assert!((g - 1.0 - sum).abs() < 1e-4);
    }
}
