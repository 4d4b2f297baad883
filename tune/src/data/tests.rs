//! Samples and labels of every kind of set; parts of data.

use std::fs;
use std::path::Path;

use peregrine_data::picture::Resize;
use peregrine_ir::client::{ImageOrder, ImageSpec, PixelFormat};

use super::*;

const PIXELS: Pixels = Pixels { channels: 3, height: 2, width: 2 };

fn spec() -> ImageSpec {
    let (mean, std) = (vec![0.0; 3], vec![1.0; 3]);
    ImageSpec { format: PixelFormat::Rgb, order: ImageOrder::Nchw, height: 2, width: 2, mean, std }
}

fn load_as(path: &Path, labels: &Labels) -> Result<Dataset, DataError> {
    let format = InputFormat { shape: &[1, 3, 2, 2], image: Some(&spec()), resize: Resize::Stretch };
    Dataset::load(path, format, &[], labels)
}

fn load(path: &Path) -> Result<Dataset, DataError> {
    load_as(path, &Labels::FromData)
}

fn write(path: &Path, value: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::RgbImage::from_pixel(2, 2, image::Rgb([value, 0, 9])).save(path).unwrap();
}

fn first(data: &Dataset, i: usize) -> u8 {
    match data.sample(i).unwrap() {
        Sample::Pixels(p) => p[0],
        Sample::Input(_) => panic!("pixels"),
    }
}

fn of_pixels(data: Vec<u8>, labels: Vec<usize>) -> Dataset {
    let (count, store) = (labels.len(), Store::Decoded { pixels: PIXELS, data });
    Dataset { store, count, labels: Some(labels) }
}

#[test]
fn folders_are_labels_and_names_of_the_model_number_them() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [("cat/a.png", 1), ("cat/b.png", 2), ("ant/a.png", 3)] {
        write(&folder.path().join(name), value);
    }
    let data = load(folder.path()).unwrap();
    assert_eq!((data.len(), data.labels(), data.pixels()), (3, Some(&[0, 1, 1][..]), Some(PIXELS)));
    assert_eq!([0, 1, 2].map(|i| first(&data, i)), [3, 1, 2]);
    assert_eq!(data.sample(0).unwrap(), Sample::Pixels([3, 0, 9].repeat(4)));
    assert_eq!(load_as(folder.path(), &Labels::None).unwrap().labels(), None);
    let format = InputFormat { shape: &[1, 3, 2, 2], image: Some(&spec()), resize: Resize::Stretch };
    let names = ["cat", "ant"].map(str::to_owned);
    let named = Dataset::load(folder.path(), format, &names, &Labels::FromData).unwrap();
    assert_eq!(named.labels(), Some(&[1, 0, 0][..]));
}

#[test]
fn one_folder_and_numbers_in_names_are_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("flat/frame_1.png"), 5);
    write(&folder.path().join("flat/frame_2.png"), 6);
    for path in [folder.path().join("flat"), folder.path().to_owned()] {
        let data = load(&path).unwrap();
        assert_eq!((data.len(), data.labels(), first(&data, 1)), (2, None, 6), "{}", path.display());
    }
}

#[test]
fn labels_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.png"), 1);
    let labels = folder.path().join("labels");
    fs::write(&labels, "1\n2\n").unwrap();
    let error = load_as(folder.path(), &Labels::File(labels.clone())).unwrap_err().to_string();
    assert!(error.contains("1 samples, 2 labels"), "{error}");
    fs::write(&labels, "3\n").unwrap();
    let data = load_as(folder.path(), &Labels::File(labels)).unwrap();
    assert_eq!(data.labels(), Some(&[3][..]));
}

#[test]
fn arrays_are_pictures_or_inputs() {
    use ndarray_npy::WriteNpyExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npy");
    let save = |inputs: ndarray::Array4<f32>| inputs.write_npy(fs::File::create(&path).unwrap()).unwrap();
    save(ndarray::Array4::from_shape_fn((2, 3, 2, 2), |(n, ..)| n as f32));
    let data = load(&path).unwrap();
    assert_eq!((data.sample(1).unwrap(), data.pixels()), (Sample::Input(vec![1.0; 12]), None));
    for (wrong, what) in [
        (ndarray::Array4::zeros((2, 3, 2, 3)), "has shape [3, 2, 3]"),
        (ndarray::Array4::from_elem((1, 3, 2, 2), f32::NAN), "holds NaN"),
    ] {
        save(wrong);
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("a.npy") && error.contains(what), "{error}");
    }
}

#[test]
fn bad_data_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.npz");
    assert!(matches!(load(&missing), Err(DataError::Read { path, .. }) if path == missing));
    assert!(load(folder.path()).unwrap_err().to_string().contains("holds no picture (png"));
    fs::write(folder.path().join("a.png"), "no picture").unwrap();
    assert!(matches!(load(folder.path()), Err(DataError::Picture { .. })));
    write(&folder.path().join("a.png"), 1);
    fs::write(folder.path().join("b.png"), "no picture").unwrap();
    assert!(matches!(load(folder.path()), Err(DataError::Picture { path, .. }) if path.ends_with("b.png")));
    fs::remove_file(folder.path().join("b.png")).unwrap();
    let format = InputFormat { shape: &[1, 12], image: None, resize: Resize::Stretch };
    let error = Dataset::load(folder.path(), format, &[], &Labels::FromData).unwrap_err().to_string();
    assert!(error.contains("model inputs"), "{error}");
}

#[test]
fn pictures_on_demand_are_those_decoded_at_once() {
    let folder = tempfile::tempdir().unwrap();
    for value in 0..4 {
        write(&folder.path().join(format!("{value}.png")), value);
    }
    let decoded = load(folder.path()).unwrap();
    let samples = Set::open(folder.path(), Some(&spec())).unwrap().samples;
    let mut lazy = Dataset { store: Store::OnDemand { image: spec(), samples }, count: 4, labels: None };
    assert_eq!((lazy.pixels(), lazy.sample(3).unwrap()), (decoded.pixels(), decoded.sample(3).unwrap()));
    let held = lazy.hold_out(2);
    assert_eq!(([first(&held, 0), first(&held, 1)], first(&lazy, 1)), ([1, 3], 2));
    fs::remove_file(folder.path().join("2.png")).unwrap();
    assert!(matches!(lazy.sample(1), Err(DataError::Read { .. })));
}

#[test]
fn parts_of_data() {
    let data = (0..12 * 10).map(|i| (i / 12) as u8).collect();
    let mut data = of_pixels(data, vec![0, 0, 0, 1, 1, 1, 0, 1, 0, 1]);
    let held = data.hold_out(5);
    assert_eq!((held.len(), data.len()), (2, 8));
    assert_eq!([0, 1].map(|i| first(&held, i)), [4, 9]);
    data.limit(2);
    assert_eq!((data.len(), data.labels()), (4, Some(&[0, 0, 1, 1][..])));
}
