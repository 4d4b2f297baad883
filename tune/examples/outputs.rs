//! First output of a model on pictures, by tract and by the trainer, for comparison with other runtimes
//! (`fixtures/scripts/tuned_agreement.py`):
//! `cargo run --release -p peregrine-tune --example outputs -- fixtures/models/cifar10_resnet8.onnx fixtures/images/cifar10 out.npz`.

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;

use clap::Parser;
use ndarray::Array2;
use ndarray_npy::NpzWriter;
use peregrine_compiler::inputs::read_sample;
use peregrine_compiler::onnx::ImageOverrides;
use peregrine_compiler::oracle::Tract;
use peregrine_data::picture::Resize;
use peregrine_data::set::InputFormat;
use peregrine_ir::client::ClientTensor;
use peregrine_tune::net::{Keep, Mode, Net};
use peregrine_tune::tensor::{Pool, Tensor};
use peregrine_tune::tuned::Model;

#[derive(Parser)]
struct Args {
    /// Model.
    model: PathBuf,
    /// Folder of pictures, taken in the order of their names.
    images: PathBuf,
    /// Arrays `tract` and `trainer` to write, one row for each picture.
    output: PathBuf,
}

fn trainer(net: &mut Net, input: &ClientTensor) -> Vec<f32> {
    let shape = net.input_shape();
    let map = shape.h * shape.w;
    let data = (0..shape.len()).map(|i| input.data[i % shape.c * map + i / shape.c]).collect();
    let tape = net.forward(Tensor { shape, data }, Mode::EVALUATE, Keep::Only(&[]), &mut Pool::default());
    tape.value(net.outputs[0].1).data.clone()
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut model = Model::read(&args.model, ImageOverrides::default(), None)?;
    let tract = Tract::load(&fs::read(&args.model)?)?;
    let format = InputFormat {
        shape: &model.preprocessing.shape,
        image: model.preprocessing.image.as_ref(),
        resize: Resize::Stretch,
    };
    let mut files: Vec<PathBuf> =
        fs::read_dir(&args.images)?.map(|f| Ok(f?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let (mut by_tract, mut by_trainer) = (Vec::new(), Vec::new());
    for file in &files {
        let input = read_sample(file, format)?;
        by_tract.extend(tract.run(&input)?.swap_remove(0).data);
        by_trainer.extend(trainer(&mut model.net, &input));
    }
    let rows = files.len();
    let mut npz = NpzWriter::new(File::create(&args.output)?);
    npz.add_array("tract", &Array2::from_shape_vec((rows, by_tract.len() / rows.max(1)), by_tract)?)?;
    npz.add_array("trainer", &Array2::from_shape_vec((rows, by_trainer.len() / rows.max(1)), by_trainer)?)?;
    npz.finish()?;
    Ok(())
}
