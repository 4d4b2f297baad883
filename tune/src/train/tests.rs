//! Runs of networks made for the purpose.

use peregrine_ir::tensor::Activation;

use super::*;
use crate::data::Labels;
use crate::net::tests::Model;
use crate::net::{Polynomials, Role};

struct Quiet;

impl Watch for Quiet {
    fn step(&mut self, _: &Record, _: usize) {}
    fn epoch(&mut self, _: usize, _: &Evaluation) {}
}

/// Convolutions and ReLUs, one after the other, whose values keep their size, and four classes.
fn chain(layers: usize) -> Net {
    let (mut m, mut x) = Model::new(&[8, 6, 6]);
    for i in 0..layers {
        let y = m.conv(&format!("conv{i}"), x, 8, 3, 1);
        x = m.activation(&format!("act{i}"), Activation::Relu, y);
    }
    let x = m.flatten(x);
    let y = m.dense(x, 4);
    let mut net = Net::from_graph(&m.finish(y)).unwrap();
    // Uniform up to 0.4 with a fan-in of 72: this makes the variance 2 / 72.
    for param in net.params.iter_mut().filter(|p| p.role == Role::Weight) {
        param.value.iter_mut().for_each(|w| *w *= 0.72);
    }
    net
}

/// Inputs of a normal distribution, smooth in no way.
fn noise(folder: &std::path::Path, count: usize) -> Dataset {
    let mut rng = fastrand::Rng::with_seed(5);
    let normal = || (0..12).map(|_| rng.f32()).sum::<f32>() - 6.0;
    let data = ndarray::Array::from_shape_simple_fn((count, 8, 6, 6), normal);
    let path = folder.join("noise.npy");
    ndarray_npy::write_npy(&path, &data).unwrap();
    let format = peregrine_data::set::InputFormat {
        shape: &[1, 8, 6, 6],
        image: None,
        resize: peregrine_data::picture::Resize::Stretch,
    };
    Dataset::load(&path, format, &[], &Labels::None).unwrap()
}

fn options(blend: Option<Blending>) -> Options {
    Options {
        epochs: 8,
        time_budget: None,
        batch: 16,
        rate: 0.02,
        sgd: Sgd { momentum: 0.9, decay: 1e-4, clip: 1.0, layer_clip: f64::INFINITY },
        objective: Objective::Distil(Distillation { temperature: 2.0, features: 1.0 }),
        penalty: Some(RangePenalty { weight: 30.0, start: 0.7 }),
        hard: 0.125,
        ranges: Ranges::Straightened,
        norms: Statistics::Running,
        blend,
        augment: Augment::NONE,
        seed: 1,
        log_every: 1,
        checkpoint: None,
    }
}

/// All else being equal, 32 polynomials in a chain run away in the second step, unless they are handed over bit by bit.
#[test]
fn a_deep_chain_needs_blending() {
    let folder = tempfile::tempdir().unwrap();
    let data = noise(folder.path(), 64);
    let mut original = chain(32);
    let preprocessing =
        Preprocessing { image: None, shape: vec![1, 8, 6, 6], head: None, input: original.input_shape() };
    let (inputs, pool) = (Inputs { data: &data, preprocessing: &preprocessing }, &mut Pool::default());
    original.calibrate_norms(inputs.spread(32, 3), pool).unwrap();
    let mut net = original.clone();
    net.replace_activations(&Polynomials::fixed(2)).unwrap();
    let batches = inputs.spread(32, 3).map(Result::unwrap).collect();
    net.fit_activations(&mut original.clone(), batches, pool);
    let run = |blend| {
        let options = options(blend);
        let trainer = Trainer::new(net.clone(), original.clone(), None, inputs, inputs, options);
        let mut trainer = trainer.unwrap();
        let result = trainer.run(&mut Quiet);
        (result, trainer.log)
    };
    let (alone, _) = run(None);
    assert!(matches!(alone, Err(TrainError::Diverged { .. })), "{alone:?}");
    let (blended, log) = run(Some(Blending { part: 0.7, features: 1.0 }));
    let blended = blended.unwrap();
    assert!(blended.is_sound() && blended.difference.sqrt() < 0.3, "{blended}");
    // The loss rises while less and less is blended, and falls again once nothing is.
    let losses: Vec<f64> = log.records.iter().map(|r| r.loss).collect();
    let highest = losses.iter().copied().fold(0.0, f64::max);
    assert!(losses[losses.len() - 1] < 0.9 * highest, "{losses:?}");
    assert!(log.records[0].blend == 1.0 && log.records[losses.len() - 1].blend == 0.0);
}

/// Data sorted by class: every batch has of each.
#[test]
fn spread_batches_take_from_all_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = noise(folder.path(), 50);
    let input = crate::tensor::Shape { n: 1, h: 6, w: 6, c: 8 };
    let preprocessing = Preprocessing { image: None, shape: vec![1, 8, 6, 6], head: None, input };
    let inputs = Inputs { data: &data, preprocessing: &preprocessing };
    let batches: Vec<_> = inputs.spread(8, 3).map(Result::unwrap).collect();
    assert!(batches.len() == 3 && batches.iter().all(|b| b.shape.n == 8));
    let place = |image: &[f32]| {
        (0..50).position(|i| inputs.batch(&[i], None, &mut Pool::default()).unwrap().data == image).unwrap()
    };
    let mut places: Vec<usize> =
        batches.iter().flat_map(|b| b.data.chunks(input.image()).map(place).collect::<Vec<_>>()).collect();
    assert!(places[..8].windows(2).all(|w| w[1] - w[0] >= 6), "{places:?}");
    places.sort_unstable();
    assert!(places.windows(2).all(|w| w[1] - w[0] >= 2), "{places:?}");
    // Fewer than asked for: all of them, in batches alike.
    let sizes: Vec<usize> = inputs.spread(16, 20).map(|b| b.unwrap().shape.n).collect();
    assert_eq!(sizes, [13, 13, 12, 12]);
}
