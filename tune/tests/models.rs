//! Real models: the network agrees with tract before and after tuning, and the tuned file compiles without calibration.

use std::path::{Path, PathBuf};

use peregrine_compiler::driver;
use peregrine_compiler::inputs::read_sample;
use peregrine_compiler::onnx::{ImageOverrides, ImportOptions};
use peregrine_compiler::options::{Activations, CompileOptions, Layouts, Products, Verify};
use peregrine_compiler::oracle::Tract;
use peregrine_ir::client::ClientTensor;
use peregrine_tune::data::augment::Augment;
use peregrine_tune::data::{Dataset, Labels};
use peregrine_tune::net::{Keep, Mode, Net, Polynomials, Ranges, Statistics};
use peregrine_tune::penalty::RangePenalty;
use peregrine_tune::sgd::Sgd;
use peregrine_tune::tensor::{Pool, Tensor};
use peregrine_tune::train::{
    Blending, Checkpoint, Distillation, Evaluation, Inputs, Log, Objective, Options, Preprocessing, Record,
    Teacher, TrainError, Trainer, Watch,
};
use peregrine_tune::tuned::Model;

struct Quiet;

impl Watch for Quiet {
    fn step(&mut self, _: &Record, _: usize) {}
    fn epoch(&mut self, _: usize, _: &Evaluation) {}
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fixtures").join(path)
}

fn model(name: &str) -> Model {
    Model::read(&fixture("models").join(name), ImageOverrides::default(), None).unwrap()
}

fn picture(model: &Model) -> ClientTensor {
    let folder = if model.net.input_shape().c == 3 { "cifar10" } else { "fashion" };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(fixture("images").join(folder)).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    read_sample(&files[1], model.preprocessing.format()).unwrap()
}

fn network_output(net: &mut Net, input: &ClientTensor) -> Vec<f32> {
    let shape = net.input_shape();
    let map = shape.h * shape.w;
    let data = (0..shape.len()).map(|i| input.data[i % shape.c * map + i / shape.c]).collect();
    let tape = net.forward(Tensor { shape, data }, Mode::EVALUATE, Keep::Only(&[]), &mut Pool::default());
    tape.value(net.outputs[0].1).data.clone()
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    let range = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4 * range, "{worst} of {range}: {a:?} {b:?}");
}

/// 420 unlabelled pictures.
fn pictures(model: &Model) -> Dataset {
    let path = fixture("calibration/natural32.npz");
    Dataset::load(&path, model.preprocessing.format(), &[], &Labels::FromData).unwrap()
}

fn options(seed: u64) -> Options {
    Options {
        epochs: 4,
        time_budget: None,
        batch: 32,
        rate: 0.005,
        sgd: Sgd { momentum: 0.9, decay: 1e-4, clip: 1.0, layer_clip: 0.1 },
        objective: Objective::Distil(Distillation { temperature: 2.0, features: 1.0 }),
        penalty: Some(RangePenalty { weight: 0.1, start: 0.8 }),
        hard: 0.2,
        ranges: Ranges::Straightened,
        norms: Statistics::Batch,
        blend: None,
        augment: Augment { flip: true, crop: 4, zoom: 0.8, tone: 0.2 },
        seed,
        log_every: 1,
        checkpoint: None,
    }
}

/// A student of degree 4 with measured statistics.
fn student(model: &Model, data: &Dataset) -> Net {
    let inputs = Inputs { data, preprocessing: &model.preprocessing };
    let mut net = model.net.clone();
    let batches = inputs.batches(64).map(|b| b.map(|(_, batch)| batch));
    net.calibrate_norms(batches, &mut Pool::default()).unwrap();
    net.replace_activations(&Polynomials::fixed(4)).unwrap();
    let batches = inputs.batches(64).map(|b| b.unwrap().1).collect();
    net.fit_activations(&mut model.net.clone(), batches, &mut Pool::default());
    net
}

fn trainer<'a>(model: &'a Model, data: &'a Dataset, options: Options) -> Trainer<'a> {
    let inputs = Inputs { data, preprocessing: &model.preprocessing };
    Trainer::new(student(model, data), model.net.clone(), None, inputs, inputs, options).unwrap()
}

#[test]
fn networks_agree_with_tract() {
    for name in ["cifar10_resnet8.onnx", "cifar10_resnet20.onnx", "square_fashion.onnx"] {
        let model = model(name);
        let input = picture(&model);
        let tract = Tract::load(&std::fs::read(fixture("models").join(name)).unwrap()).unwrap();
        close(&network_output(&mut model.net.clone(), &input), &tract.run(&input).unwrap()[0].data);
    }
}

#[test]
fn distillation_learns_repeats_and_exports() {
    let model = model("cifar10_resnet8.onnx");
    let mut data = pictures(&model);
    data.limit(160);
    // The same pictures in every epoch: losses are then comparable.
    let plain = |seed| Options { epochs: 8, augment: Augment::NONE, ..options(seed) };
    let mut first = trainer(&model, &data, plain(1));
    let result = first.run(&mut Quiet).unwrap();
    let losses: Vec<f64> = first.log.records.iter().map(|r| r.loss).collect();
    assert_eq!(losses.len(), 40);
    assert!(losses[35..].iter().sum::<f64>() < 0.7 * losses[..5].iter().sum::<f64>(), "{losses:?}");
    assert!(result.broken == 0 && result.overshoot.worst() > 0.3, "{result}");
    // The same seed gives the same bits, another does not.
    let mut again = trainer(&model, &data, plain(1));
    again.run(&mut Quiet).unwrap();
    assert_eq!(again.net.params, first.net.params);
    let mut other = trainer(&model, &data, plain(2));
    other.run(&mut Quiet).unwrap();
    assert_ne!(other.net.params, first.net.params);
    exported_file_is_the_network(&model, &mut first);
}

fn exported_file_is_the_network(model: &Model, trainer: &mut Trainer<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.onnx");
    let outputs = trainer.output_ranges().unwrap();
    model.write(&trainer.net, &outputs, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let input = picture(model);
    let tract = Tract::load(&bytes).unwrap();
    close(&tract.run(&input).unwrap()[0].data, &network_output(&mut trainer.net, &input));
    compiles_without_calibration(&path, trainer);
}

/// The polynomials that arrive are those that were trained, with their ranges.
fn compiles_without_calibration(path: &Path, trainer: &Trainer<'_>) {
    let options = CompileOptions {
        model: path.to_owned(),
        import: ImportOptions::default(),
        calibrate: None,
        activations: Activations::Fit,
        degree: None,
        plan: Default::default(),
        layout: Layouts::Search,
        products: Products::Deep,
        precision: None,
        sample: None,
        labels: None,
        machine: None,
        keys_memory: None,
        verify: Verify::Skip,
        dump: Vec::new(),
        progress: Default::default(),
    };
    let prepared = driver::prepare(&options).unwrap();
    let lowered = driver::lower(&prepared, &options, &mut |_, _| {}).unwrap();
    let acts: Vec<_> = trainer.net.poly_acts().collect();
    assert_eq!(lowered.ranges.len(), acts.len());
    for (record, (id, act)) in lowered.ranges.iter().zip(acts) {
        assert!(record.layer.starts_with(&trainer.net.nodes[id].name), "{}", record.layer);
        assert_eq!(record.high, act.range());
    }
}

#[test]
fn a_resumed_run_is_the_whole_run() {
    let model = model("cifar10_resnet8.onnx");
    let mut data = pictures(&model);
    data.limit(96);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    // The second epoch still blends.
    let blend = Some(Blending { part: 0.8, features: 1.0 });
    let with = |epochs| Options { epochs, blend, checkpoint: Some(path.clone()), ..options(1) };
    let mut whole = trainer(&model, &data, Options { checkpoint: None, ..with(2) });
    whole.run(&mut Quiet).unwrap();
    // Ends as the first half of the longer run would: the same options, stopped by a copy after one epoch.
    struct Keep<'p>(&'p Path, PathBuf);
    impl Watch for Keep<'_> {
        fn step(&mut self, record: &Record, _: usize) {
            if record.step == 4 {
                std::fs::copy(self.0, &self.1).unwrap();
            }
        }
        fn epoch(&mut self, _: usize, _: &Evaluation) {}
    }
    let first = folder.path().join("first.safetensors");
    trainer(&model, &data, with(2)).run(&mut Keep(&path, first.clone())).unwrap();
    let mut resumed = trainer(&model, &data, with(2));
    let checkpoint = Checkpoint::read(&first).unwrap();
    assert_eq!(checkpoint.progress.epoch, 1);
    resumed.resume(checkpoint).unwrap();
    resumed.run(&mut Quiet).unwrap();
    assert_eq!(resumed.net.params, whole.net.params);
    let shares = |log: &Log| log.records.iter().map(|r| r.blend).collect::<Vec<_>>();
    assert_eq!(shares(&resumed.log), shares(&whole.log));
    assert!(shares(&whole.log)[..5].windows(2).all(|w| w[0] > w[1]), "{:?}", shares(&whole.log));
    let mut plain = trainer(&model, &data, Options { blend: None, ..with(2) });
    plain.run(&mut Quiet).unwrap();
    assert_ne!(plain.net.params, whole.net.params);
}

#[test]
fn checkpoints_of_other_models_are_refused() {
    let (small, large) = (model("cifar10_resnet8.onnx"), model("cifar10_resnet20.onnx"));
    let data = pictures(&small);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let of_large = trainer(&large, &data, options(1));
    Checkpoint::of(&of_large.net, &[0.0; 420], of_large.progress, 1.0, &of_large.log).write(&path).unwrap();
    let mut of_small = trainer(&small, &data, options(1));
    let error = of_small.resume(Checkpoint::read(&path).unwrap()).unwrap_err();
    assert!(matches!(error, TrainError::Mismatch { .. }), "{error}");
    std::fs::write(&path, b"no checkpoint").unwrap();
    assert!(matches!(Checkpoint::read(&path), Err(TrainError::Checkpoint { .. })));
}

#[test]
fn a_run_that_diverges_names_the_layer() {
    let model = model("cifar10_resnet8.onnx");
    let mut data = pictures(&model);
    data.limit(64);
    let sgd = Sgd { momentum: 0.9, decay: 1e-4, clip: f64::INFINITY, layer_clip: f64::INFINITY };
    let wild = Options { rate: 1e4, epochs: 20, sgd, ..options(1) };
    let error = trainer(&model, &data, wild).run(&mut Quiet).unwrap_err();
    let TrainError::Diverged { layer, .. } = &error else { panic!("{error}") };
    assert!(model.net.nodes.iter().any(|n| &n.name == layer), "{error}");
}

#[test]
fn labels_are_needed_for_cross_entropy() {
    let model = model("cifar10_resnet8.onnx");
    let data = pictures(&model);
    let inputs = Inputs { data: &data, preprocessing: &model.preprocessing };
    let options = Options { objective: Objective::Labels, ..options(1) };
    let net = student(&model, &data);
    let error = Trainer::new(net, model.net.clone(), None, inputs, inputs, options).err().unwrap();
    assert!(matches!(error, TrainError::NoLabels), "{error}");
}

fn teacher_of(model: &Model) -> Teacher<'_> {
    Teacher { net: model.net.clone(), preprocessing: &model.preprocessing }
}

#[test]
fn other_teachers_must_fit() {
    let (small, large) = (model("cifar10_resnet8.onnx"), model("cifar10_resnet20.onnx"));
    let mut data = pictures(&small);
    data.limit(64);
    let inputs = Inputs { data: &data, preprocessing: &small.preprocessing };
    let with = |features, teacher| {
        let objective = Objective::Distil(Distillation { temperature: 2.0, features });
        let (net, options) = (student(&small, &data), Options { objective, epochs: 1, ..options(1) });
        Trainer::new(net, small.net.clone(), Some(teacher_of(teacher)), inputs, inputs, options)
    };
    let error = with(1.0, &large).err().unwrap();
    assert!(error.to_string().contains("residual joins"), "{error}");
    let taught = with(0.0, &large).unwrap().run(&mut Quiet).unwrap();
    let alone = with(0.0, &small).unwrap().run(&mut Quiet).unwrap();
    assert_ne!(taught.agreement, None);
    assert_ne!(taught.difference, alone.difference);
    // What the teacher says of pictures normalised as it wants them is something else than what it says of the student's.
    let first_loss = |preprocessing: &Preprocessing| {
        let objective = Objective::Distil(Distillation { temperature: 2.0, features: 0.0 });
        let options = Options { objective, epochs: 1, log_every: 1, ..options(1) };
        let teacher = Teacher { net: large.net.clone(), preprocessing };
        let (net, original) = (student(&small, &data), small.net.clone());
        let mut trainer = Trainer::new(net, original, Some(teacher), inputs, inputs, options).unwrap();
        trainer.run(&mut Quiet).unwrap();
        trainer.log.records[0].loss
    };
    assert_ne!(first_loss(&small.preprocessing), first_loss(&large.preprocessing));
}
