//! Sources of data, good and bad.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ndarray::{Array1, Array4};
use ndarray_npy::{NpzWriter, WriteNpyExt};

use super::*;

const PIXELS: Pixels = Pixels { channels: 3, height: 2, width: 2 };

fn png(value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::from_pixel(2, 2, image::Rgb([value, 0, 9]));
    picture.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
    bytes
}

fn load(path: &Path) -> Result<Dataset, DataError> {
    Dataset::load(path, Some(PIXELS), 12, &Labels::FromData)
}

fn first(data: &Dataset, i: usize) -> u8 {
    match data.sample(i).unwrap() {
        Sample::Pixels(p) => p[0],
        Sample::Input(_) => panic!("pixels"),
    }
}

#[test]
fn folders_of_classes_and_archives_of_them_agree() {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (class, name, value) in [("cat", "a.png", 1), ("cat", "b.png", 2), ("ant", "a.png", 3)] {
        fs::create_dir_all(folder.path().join("d").join(class)).unwrap();
        fs::write(folder.path().join("d").join(class).join(name), png(value)).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(png(value).len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, format!("train/{class}/{name}"), png(value).as_slice()).unwrap();
    }
    let file = folder.path().join("d.tar");
    fs::write(&file, archive.into_inner().unwrap()).unwrap();
    for path in [folder.path().join("d"), file] {
        let data = load(&path).unwrap();
        assert_eq!((data.len(), data.labels()), (3, Some(&[0, 1, 1][..])), "{}", path.display());
        assert_eq!(data.classes(), ["ant", "cat"]);
        assert_eq!([0, 1, 2].map(|i| first(&data, i)), [3, 1, 2]);
    }
}

#[test]
fn a_flat_folder_has_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.png"), png(5)).unwrap();
    fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
    let data = load(folder.path()).unwrap();
    assert_eq!((data.len(), data.labels(), first(&data, 0)), (1, None, 5));
}

#[test]
fn arrays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let mut npz = NpzWriter::new(fs::File::create(&path).unwrap());
    let images = Array4::from_shape_fn((2, 3, 2, 2), |(n, c, y, x)| (n * 100 + c * 10 + y * 2 + x) as u8);
    npz.add_array("images", &images).unwrap();
    npz.add_array("labels", &Array1::from(vec![4i64, 7])).unwrap();
    npz.finish().unwrap();
    let data = load(&path).unwrap();
    assert_eq!(data.labels(), Some(&[4, 7][..]));
    assert_eq!(
        data.sample(1).unwrap(),
        Sample::Pixels(vec![100, 110, 120, 101, 111, 121, 102, 112, 122, 103, 113, 123])
    );
    let path = folder.path().join("a.npy");
    let inputs = Array4::from_shape_fn((2, 3, 2, 2), |(n, ..)| n as f32);
    inputs.write_npy(fs::File::create(&path).unwrap()).unwrap();
    assert_eq!(load(&path).unwrap().sample(1).unwrap(), Sample::Input(vec![1.0; 12]));
    let wrong = Dataset::load(&path, None, 13, &Labels::FromData);
    assert!(matches!(wrong, Err(DataError::Array { .. })));
}

#[test]
fn cifar_files() {
    let folder = tempfile::tempdir().unwrap();
    let pixels = Pixels { channels: 3, height: 32, width: 32 };
    let record: Vec<u8> = std::iter::once(6u8).chain((0..3072).map(|i| (i / 1024) as u8)).collect();
    fs::write(folder.path().join("data_batch_1.bin"), [record.clone(), record].concat()).unwrap();
    fs::write(folder.path().join("test_batch.bin"), [0u8; 5]).unwrap();
    let data = Dataset::load(folder.path(), Some(pixels), 3072, &Labels::FromData).unwrap();
    assert_eq!((data.len(), data.labels()), (2, Some(&[6, 6][..])));
    match data.sample(1).unwrap() {
        Sample::Pixels(p) => assert_eq!(p[..6], [0, 1, 2, 0, 1, 2]),
        Sample::Input(_) => panic!("pixels"),
    }
    let broken = folder.path().join("test_batch.bin");
    let error = Dataset::load(&broken, Some(pixels), 3072, &Labels::FromData).unwrap_err();
    assert!(matches!(error, DataError::Cifar { bytes: 5, .. }), "{error}");
}

#[test]
fn bad_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.npz");
    assert!(matches!(load(&missing), Err(DataError::Read { path, .. }) if path == missing));
    assert!(matches!(load(folder.path()), Err(DataError::Empty { .. })));
    let file = folder.path().join("a.xyz");
    fs::write(&file, "x").unwrap();
    assert!(matches!(load(&file), Err(DataError::Array { .. })));
    fs::write(folder.path().join("a.png"), "no picture").unwrap();
    assert!(matches!(load(folder.path()), Err(DataError::Picture { .. })));
    fs::write(folder.path().join("a.png"), png(1)).unwrap();
    let plain = Dataset::load(folder.path(), None, 12, &Labels::FromData);
    assert!(matches!(plain, Err(DataError::NoPictures { .. })));
    let labels = folder.path().join("labels.txt");
    fs::write(&labels, "1\n2\n").unwrap();
    let error = Dataset::load(folder.path(), Some(PIXELS), 12, &Labels::File(labels.clone())).unwrap_err();
    assert!(matches!(error, DataError::Labels { .. }), "{error}");
    fs::write(&labels, "3\n").unwrap();
    let data = Dataset::load(folder.path(), Some(PIXELS), 12, &Labels::File(labels)).unwrap();
    assert_eq!(data.labels(), Some(&[3][..]));
}

#[test]
fn parts_of_data() {
    let data = (0..12 * 10).map(|i| (i / 12) as u8).collect();
    let labels = vec![0, 0, 0, 1, 1, 1, 0, 1, 0, 1];
    let mut data = Dataset::of_pixels(PIXELS, data, Some(labels));
    let held = data.hold_out(5);
    assert_eq!((held.len(), data.len()), (2, 8));
    assert_eq!([0, 1].map(|i| first(&held, i)), [4, 9]);
    data.limit(2);
    assert_eq!((data.len(), data.labels()), (4, Some(&[0, 0, 1, 1][..])));
}
