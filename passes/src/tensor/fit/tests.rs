use peregrine_ir::tensor::PoolKind;

use super::*;
use crate::pass::{PassManager, Verification};
use crate::tensor::testing::{Net, numbers};
use crate::tensor::{canonical, polynomial, ranges};

/// A small residual network, canonical.
fn network() -> TensorGraph {
    let mut net = Net::new(&[2, 8, 8]);
    let a = net.conv(net.input, 4, 3, 1, [1; 4], 1);
    let b = net.batch_norm(a);
    let c = net.relu(b);
    let d = net.conv(c, 4, 3, 1, [1; 4], 2);
    let e = net.add(TensorOp::Activation(Activation::Silu), &[d]);
    let f = net.conv(e, 4, 3, 1, [1; 4], 1);
    let g = net.add(TensorOp::Add, &[c, f]);
    let slope = net.weights(&[4]);
    let h = net.add(TensorOp::Activation(Activation::PRelu { slope }), &[g]);
    let i = net.pool(h, PoolKind::AverageExcludePad, 8, 8, [0; 4]);
    let j = net.reshape(i, &[1, 4]);
    let k = net.fully_connected(j, 5);
    let mut graph = net.output(k);
    canonical(&mut graph, &mut PassManager::new(Verification::EachPass)).unwrap();
    graph
}

fn images(count: usize, seed: u64) -> Batch {
    Batch::new(&[2, 8, 8], numbers(count * 128, seed)).unwrap()
}

fn fitted(options: &FitOptions) -> (TensorGraph, FitReport) {
    let mut graph = network();
    let report = fit_activations(&mut graph, &images(40, 5), options).unwrap();
    polynomial(&mut graph, None, &mut PassManager::new(Verification::EachPass)).unwrap();
    (graph, report)
}

#[test]
fn every_activation_becomes_a_polynomial_close_to_it() {
    let (graph, report) = fitted(&FitOptions::default());
    assert!(graph.nodes.values().all(|n| !matches!(n.op, TensorOp::Activation(_))));
    assert_eq!(report.layers.iter().map(|l| l.layer.as_str()).collect::<Vec<_>>(), activations(&network()));
    assert!(report.layers.iter().all(|l| l.degree == 4 && l.rms_error < 0.2), "{report:?}");
    assert!(report.output_error < 0.05 && report.agreement > 0.8, "{report:?}");
    for layer in &report.layers {
        for c in 0..layer.seen.low.len() {
            assert!(layer.allowed.low[c] <= layer.seen.low[c] && layer.seen.high[c] <= layer.allowed.high[c]);
        }
    }
    let held_out = images(20, 77);
    let (old, new) = (interp::run(&network(), &held_out).unwrap(), interp::run(&graph, &held_out).unwrap());
    let power: f32 = old[0].iter().map(|x| x * x).sum();
    let error: f32 = old[0].iter().zip(&new[0]).map(|(a, b)| (a - b) * (a - b)).sum();
    assert!(error < 0.01 * power, "{error} of {power}");
    ranges::measure(&graph, &held_out).unwrap();
}

#[test]
fn higher_degrees_and_refitted_layers_are_closer() {
    let error = |degree, reconstruction| {
        fitted(&FitOptions { degree, reconstruction, ..FitOptions::default() }).1.output_error
    };
    let (plain2, plain4) = (error(2, Reconstruction::Off), error(4, Reconstruction::Off));
    let refitted2 = error(2, Reconstruction::Ridge { strength: 0.01 });
    assert!(plain4 < plain2 && refitted2 < plain2, "{plain2} {plain4} {refitted2}");
}

#[test]
fn the_fit_is_deterministic_and_takes_degrees_by_layer() {
    let name = activations(&network()).remove(1);
    let options = FitOptions { layers: BTreeMap::from([(name.clone(), 6)]), ..FitOptions::default() };
    let (a, report) = fitted(&options);
    assert_eq!(report.layers.iter().map(|l| l.degree).collect::<Vec<_>>(), [4, 6, 4]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(a, pool.install(|| fitted(&options).0));
}

#[test]
fn refits_name_the_convolution_and_spare_the_first_layer() {
    let (_, report) = fitted(&FitOptions::default());
    assert_eq!(report.layers[0].refitted, None);
    assert!(report.layers[1].refitted.is_some() && report.layers[2].refitted.is_some());
}

#[test]
fn bad_requests_are_named() {
    let run = |options: FitOptions| {
        fit_activations(&mut network(), &images(2, 1), &options).unwrap_err().to_string()
    };
    assert!(run(FitOptions { degree: 9, ..FitOptions::default() }).contains("degree 9"));
    let layers = BTreeMap::from([("nowhere".to_owned(), 4)]);
    let error = run(FitOptions { layers, ..FitOptions::default() });
    assert!(error.contains("nowhere") && error.contains("layer"), "{error}");
    let mut pass = FitActivations::new(None, FitOptions::default());
    let error = pass.run(&mut network()).unwrap_err();
    assert!(matches!(error, PassError::MissingCalibration { layers: 3, .. }));
    assert!(error.to_string().contains("--calibrate"));
    let other = Batch::new(&[2, 4, 4], numbers(32, 3)).unwrap();
    assert!(fit_activations(&mut network(), &other, &FitOptions::default()).is_err());
    let broken = Batch::new(&[2, 8, 8], vec![f32::NAN; 128]).unwrap();
    let error = fit_activations(&mut network(), &broken, &FitOptions::default()).unwrap_err();
    assert!(matches!(error, PassError::NotFinite { .. }));
}
