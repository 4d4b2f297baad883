//! Gradients of the operations that are not convolutions, number by number against differences.

use super::pool::{Kind, Window};
use super::{batch_norm, poly_act, shape, straight};
use crate::tensor::{Shape, Tensor};
use peregrine_ir::tensor::Activation;

const SHAPE: Shape = Shape { n: 2, h: 3, w: 4, c: 3 };

fn random(shape: Shape, seed: u64) -> Tensor {
    let mut rng = fastrand::Rng::with_seed(seed);
    Tensor { shape, data: (0..shape.len()).map(|_| rng.f32() * 4.0 - 2.0).collect() }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `gradient(x, dy)` against differences of `dot(forward(x), dy)`.
fn check(name: &str, forward: impl Fn(&Tensor) -> Tensor, gradient: impl Fn(&Tensor, &Tensor) -> Tensor) {
    let x = random(SHAPE, 1);
    let dy = random(forward(&x).shape, 2);
    let grad = gradient(&x, &dy);
    for i in 0..x.data.len() {
        let moved = |step: f32| {
            let mut x = x.clone();
            x.data[i] += step;
            dot(&forward(&x).data, &dy.data)
        };
        let numeric = (moved(4e-3) - moved(-4e-3)) / 8e-3;
        let exact = f64::from(grad.data[i]);
        assert!((numeric - exact).abs() < 2e-2 * (1.0 + exact.abs()), "{name}, {i}: {numeric} {exact}");
    }
}

#[test]
fn batch_norms_in_training() {
    let (gamma, beta) = ([0.5, -1.5, 2.0], [0.1, 0.2, 0.3]);
    let running =
        || batch_norm::Running { mean: vec![0.0; 3], variance: vec![1.0; 3], epsilon: 1e-5, momentum: 0.1 };
    let forward = |x: &Tensor| {
        let mut y = Tensor::zeros(x.shape);
        batch_norm::forward(x, &gamma, &beta, &mut running(), &mut y);
        y
    };
    let gradient = |x: &Tensor, dy: &Tensor| {
        let (mut y, mut grad) = (Tensor::zeros(x.shape), dy.clone());
        let saved = batch_norm::forward(x, &gamma, &beta, &mut running(), &mut y);
        let (mut dg, mut db) = (vec![0.0; 3], vec![0.0; 3]);
        batch_norm::backward(x, &saved, &gamma, &mut grad, [&mut dg, &mut db]);
        // y = gamma xhat + beta is linear in both.
        let scaled: Vec<f64> =
            (0..3).map(|c| f64::from(gamma[c] * dg[c]) + f64::from(beta[c] * db[c])).collect();
        assert!((scaled.iter().sum::<f64>() - dot(&y.data, &dy.data)).abs() < 1e-3);
        grad
    };
    check("batch norm", forward, gradient);
}

#[test]
fn batch_norms_normalise_and_track() {
    let x = random(SHAPE, 5);
    let mut running =
        batch_norm::Running { mean: vec![0.0; 3], variance: vec![1.0; 3], epsilon: 0.0, momentum: 1.0 };
    let mut y = Tensor::zeros(x.shape);
    batch_norm::forward(&x, &[1.0; 3], &[0.0; 3], &mut running, &mut y);
    let (mean, variance) = batch_norm::statistics(&y);
    assert!(mean.iter().all(|m| m.abs() < 1e-6) && variance.iter().all(|v| (v - 1.0).abs() < 1e-5));
    // Evaluation with the unbiased variance of the same batch.
    let (mul, add) = batch_norm::affine(&running, &[1.0; 3], &[0.0; 3]);
    let count = x.shape.pixels() as f64;
    for (x, y) in x.data.chunks(3).zip(y.data.chunks(3)) {
        for c in 0..3 {
            let value = (f64::from(x[c]) * mul[c] + add[c]) * (count / (count - 1.0)).sqrt();
            assert!((value - f64::from(y[c])).abs() < 1e-4);
        }
    }
}

#[test]
fn batch_norms_with_large_means() {
    let mut x = random(SHAPE, 6);
    x.data.iter_mut().for_each(|v| *v = *v * 1e-2 + 1000.0);
    let exact: Vec<f64> = (0..3)
        .map(|c| {
            let values: Vec<f64> = x.data.iter().skip(c).step_by(3).map(|v| f64::from(*v)).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64
        })
        .collect();
    let (_, variance) = batch_norm::statistics(&x);
    assert!(variance.iter().zip(&exact).all(|(v, e)| (v / e - 1.0).abs() < 1e-3), "{variance:?} {exact:?}");
}

#[test]
fn affine_maps() {
    let (mul, add) = ([0.5, -1.5, 2.0], [0.1, 0.2, 0.3]);
    let forward = |x: &Tensor| {
        let mut y = Tensor::zeros(x.shape);
        batch_norm::apply(x, &mul, &add, &mut y);
        y
    };
    check("affine", forward, |x, dy| {
        let mut grad = dy.clone();
        let (mut dm, mut da) = (vec![0.0; 3], vec![0.0; 3]);
        batch_norm::apply_backward(x, &mul, &mut grad, [&mut dm, &mut da]);
        let value: f32 = (0..3).map(|c| mul[c] * dm[c] + add[c] * da[c]).sum();
        assert!((f64::from(value) - dot(&forward(x).data, &dy.data)).abs() < 1e-3);
        grad
    });
}

#[test]
fn polynomial_activations_of_every_degree() {
    let relu = |x| <Activation>::Relu.value(x, 0.0);
    for degree in [2, 4, 8] {
        let powers: Vec<f32> =
            super::activation::hermite(relu, degree).into_iter().map(|c| c as f32).collect();
        let powers = powers.repeat(SHAPE.c);
        let forward = |x: &Tensor| {
            let mut y = Tensor::zeros(x.shape);
            poly_act::forward(x, &powers, &mut y);
            y
        };
        let name = format!("polynomial of degree {degree}");
        check(&name, forward, |x, dy| {
            let (mut y, mut grad) = (Tensor::zeros(x.shape), dy.clone());
            let saved = poly_act::forward(x, &powers, &mut y);
            poly_act::backward(x, &powers, &saved, &mut grad);
            grad
        });
    }
}

#[test]
fn polynomial_activations_by_the_definition() {
    let powers = [0.2f32, 0.5, 0.3, 0.0, -0.02];
    let x = random(SHAPE, 7);
    let mut y = Tensor::zeros(x.shape);
    let saved = poly_act::forward(&x, &powers.repeat(3), &mut y);
    for c in 0..3 {
        let values: Vec<f64> = x.data.iter().skip(c).step_by(3).map(|v| f64::from(*v)).collect();
        let max = values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let s = max / 3.0 + 1e-3;
        assert!((saved.scales[c] - s).abs() < 1e-6 && f64::from(saved.peaks[c].max) == max);
        assert_eq!(f64::from(x.data[saved.peaks[c].at].abs()), max);
        for (x, y) in values.iter().zip(y.data.iter().skip(c).step_by(3)) {
            let u = x / s;
            let p: f64 = powers.iter().enumerate().map(|(k, p)| f64::from(*p) * u.powi(k as i32)).sum();
            assert!((s * p - f64::from(*y)).abs() < 1e-5);
        }
    }
    let mut running = vec![1.0; 3];
    poly_act::track(&mut running, &[poly_act::Peak { max: 2.0, at: 0 }; 3]);
    assert!((running[1] - 1.1).abs() < 1e-5);
}

#[test]
fn coefficients_have_gradients() {
    let powers = [0.2f32, 0.5, 0.3, 0.1, -0.02].repeat(3);
    let (x, dy) = (random(SHAPE, 8), random(SHAPE, 9));
    let value = |powers: &[f32]| {
        let mut y = Tensor::zeros(x.shape);
        let saved = poly_act::forward(&x, powers, &mut y);
        (dot(&y.data, &dy.data), saved)
    };
    let mut grad = vec![0.0; powers.len()];
    poly_act::powers_grad(&x, &value(&powers).1, &dy, &mut grad);
    for k in 0..powers.len() {
        let moved = |step: f32| {
            let mut powers = powers.clone();
            powers[k] += step;
            value(&powers).0
        };
        let numeric = (moved(0.01) - moved(-0.01)) / 0.02;
        assert!((numeric - f64::from(grad[k])).abs() < 1e-2 * (1.0 + numeric.abs()), "{k}");
    }
}

/// `(powers, scales, bounds)` of three channels: one bound cuts, one hardly, one not at all.
fn straightened(powers: &[f32], x: &Tensor) -> (Tensor, poly_act::Saved) {
    let scales = vec![0.5, 0.7, 0.9];
    let bounds = vec![0.8, 1.9, 5.0];
    let mut y = Tensor::zeros(x.shape);
    straight::evaluate(x, &poly_act::fold(powers, &scales), &bounds, &mut y);
    (y, poly_act::Saved { peaks: Vec::new(), scales, bounds })
}

#[test]
fn straightened_polynomials_are_tangents_outside_of_their_bounds() {
    for powers in [&[0.2f32, 0.5, 0.3][..], &[0.2, 0.5, 0.3, 0.1, -0.02]] {
        let powers = powers.repeat(3);
        let x = random(SHAPE, 8);
        let (y, saved) = straightened(&powers, &x);
        let mut plain = Tensor::zeros(x.shape);
        let coefficients = poly_act::fold(&powers, &saved.scales);
        poly_act::evaluate(&x, &coefficients, &mut plain);
        let mut outside = 0;
        for (i, x) in x.data.iter().enumerate() {
            let (row, bound) = (&coefficients[i % 3], f64::from(saved.bounds[i % 3]));
            let held = f64::from(*x).clamp(-bound, bound);
            if held == f64::from(*x) {
                assert!((y.data[i] - plain.data[i]).abs() < 1e-5);
                continue;
            }
            outside += 1;
            let value: f64 = row.iter().enumerate().map(|(k, c)| c * held.powi(k as i32)).sum();
            let slope: f64 =
                row.iter().enumerate().skip(1).map(|(k, c)| k as f64 * c * held.powi(k as i32 - 1)).sum();
            assert!((f64::from(y.data[i]) - value - slope * (f64::from(*x) - held)).abs() < 1e-4);
        }
        assert!(outside > 5);
        check(
            "straightened",
            |x| straightened(&powers, x).0,
            |x, dy| {
                let mut grad = dy.clone();
                poly_act::backward(x, &powers, &straightened(&powers, x).1, &mut grad);
                grad
            },
        );
        let dy = random(SHAPE, 9);
        let mut grad = vec![0.0; powers.len()];
        poly_act::powers_grad(&x, &saved, &dy, &mut grad);
        for k in 0..powers.len() {
            let moved = |step: f32| {
                let mut powers = powers.clone();
                powers[k] += step;
                dot(&straightened(&powers, &x).0.data, &dy.data)
            };
            let numeric = (moved(0.01) - moved(-0.01)) / 0.02;
            assert!((numeric - f64::from(grad[k])).abs() < 1e-2 * (1.0 + numeric.abs()), "{k}");
        }
    }
}

#[test]
fn a_number_that_is_none_is_a_peak() {
    let mut x = random(SHAPE, 1);
    x.data[4] = f32::NAN;
    assert!(poly_act::peaks(&x)[1].max.is_nan());
}

#[test]
fn pools() {
    let window = |kind, pads| Window { kind, kernel: [2, 3], stride: [1, 2], pads };
    for w in [
        window(Kind::AverageInside, [1, 1, 0, 1]),
        window(Kind::AverageAll, [1, 1, 0, 1]),
        window(Kind::Max, [0, 1, 1, 1]),
    ] {
        let forward = |x: &Tensor| {
            let [h, columns] = w.output([x.shape.h, x.shape.w]);
            let mut y = Tensor::zeros(Shape { h, w: columns, ..x.shape });
            w.forward(x, &mut y);
            y
        };
        check("pool", forward, |x, dy| {
            let mut dx = x.clone();
            w.backward(x, dy, &mut dx);
            dx
        });
    }
}

/// A function that writes all of its result.
fn into(shape: Shape, f: impl Fn(&Tensor, &mut Tensor)) -> impl Fn(&Tensor) -> Tensor {
    move |x| {
        let mut y = Tensor { shape, data: vec![f32::NAN; shape.len()] };
        f(x, &mut y);
        y
    }
}

/// A gradient that writes all of its result.
fn back(f: impl Fn(&Tensor, &mut Tensor)) -> impl Fn(&Tensor, &Tensor) -> Tensor {
    move |x, dy| {
        let mut dx = Tensor { shape: x.shape, data: vec![f32::NAN; x.data.len()] };
        f(dy, &mut dx);
        dx
    }
}

#[test]
fn placements() {
    let to = |h, w, c| Shape { h, w, c, ..SHAPE };
    let pads = [1, 0, 2, 1];
    check(
        "pad",
        into(to(6, 5, 3), |x, y| shape::pad(x, pads, y)),
        back(|d, x| shape::pad_backward(d, pads, x)),
    );
    check("mean", into(to(1, 1, 3), shape::global_mean), back(shape::global_mean_backward));
    check("reshape", into(to(1, 1, 36), shape::reshape), back(shape::reshape));
}

#[test]
fn separable_maps() {
    use peregrine_ir::{AxisMap, Separable};
    let double = AxisMap::gather(3, &[0, 0, 1, 1, 2, 2]).unwrap();
    let odd = AxisMap::gather(4, &[1, 3]).unwrap();
    for maps in [
        [AxisMap::identity(3), double.clone(), odd.clone()],
        [AxisMap::gather(3, &[2, 0]).unwrap(), AxisMap::identity(3), odd],
    ] {
        let place = super::separable::Placement { map: Separable { maps } };
        let [c, h, w] = place.map.output().map(|e| e as usize);
        let forward = |x: &Tensor| {
            let mut y = Tensor::zeros(Shape { h, w, c, ..x.shape });
            place.forward(x, &mut y);
            y
        };
        let x = random(SHAPE, 1);
        assert_eq!(
            forward(&x).data[c - 1],
            x.data[SHAPE.c * usize::from(w == 2) + (if c == 2 { 0 } else { 2 })]
        );
        check("separable", forward, |x, dy| {
            let mut dx = Tensor::zeros(x.shape);
            place.backward(dy, &mut dx);
            dx
        });
    }
}
