//! Model inputs from files: one sample, calibration sets, and a synthetic input.

use std::path::Path;

use peregrine_data::DataError;
use peregrine_data::array::{self, Numbers};
use peregrine_data::picture::{self, Resize};
use peregrine_data::set::{InputFormat, Set};
use peregrine_ir::client::{ClientTensor, ImageSpec};

/// What files are turned into: inputs of `shape`, pictures by `image`.
pub fn format<'a>(shape: &'a [usize], image: Option<&'a ImageSpec>) -> InputFormat<'a> {
    InputFormat { shape, image, resize: Resize::Stretch }
}

/// Reads one input: a picture, or a `.npy` array (floats as they are, bytes as pixels).
///
/// # Errors
/// [`DataError`].
pub fn read_sample(path: &Path, format: InputFormat<'_>) -> Result<ClientTensor, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_owned(), source })?;
    let data = if bytes.starts_with(b"\x93NUMPY") {
        of_array(path, array::parse(path, &bytes)?, format)?
    } else {
        let spec = format.image.ok_or_else(|| no_fit(path, "is a picture", format))?;
        let fitted = picture::fit(&picture::decode(path, &bytes)?, spec, format.resize);
        picture::normalise(&fitted.planes, spec)
    };
    Ok(ClientTensor { shape: format.shape.to_vec(), data })
}

fn of_array(path: &Path, array: array::Array, format: InputFormat<'_>) -> Result<Vec<f32>, DataError> {
    let fits = array.shape == format.shape || format.shape.split_first() == Some((&1, &array.shape));
    if !fits {
        return Err(no_fit(path, &format!("has shape {:?}", array.shape), format));
    }
    match (array.numbers, format.image) {
        (Numbers::Values(values), _) => match values.iter().find(|v| !v.is_finite()) {
            Some(value) => Err(no_fit(path, &format!("holds {value}"), format)),
            None => Ok(values.iter().map(|&v| v as f32).collect()),
        },
        (Numbers::Pixels(pixels), Some(spec)) => {
            Ok(picture::normalise(&picture::planes_of_tensor(&pixels, spec), spec))
        }
        (Numbers::Pixels(_), None) => Err(no_fit(path, "holds pixels", format)),
        (Numbers::Integers(_), _) => Err(no_fit(path, "holds integers", format)),
    }
}

/// Reads calibration inputs: everything that [`Set::open`] opens; labels are not looked at.
///
/// # Errors
/// [`DataError`].
pub fn read_calibration(path: &Path, format: InputFormat<'_>) -> Result<Vec<ClientTensor>, DataError> {
    let set = Set::open(path, format.image)?;
    let tensor = |data| ClientTensor { shape: format.shape.to_vec(), data };
    let named = |error| match error {
        DataError::Input { what, found, expected } => {
            DataError::Input { what: format!("{}: {what}", path.display()), found, expected }
        }
        other => other,
    };
    set.samples.iter().map(|sample| Ok(tensor(sample.input(format).map_err(named)?.data))).collect()
}

/// A smooth, deterministic picture, normalised as a real one would be; for other inputs a wave in -1..1.
pub fn synthetic(format: InputFormat<'_>) -> ClientTensor {
    let data = match format.image {
        Some(spec) => picture::normalise(&picture::test_pattern(spec), spec),
        None => (0..format.shape.iter().product::<usize>()).map(|i| (i as f32 * 0.37).sin()).collect(),
    };
    ClientTensor { shape: format.shape.to_vec(), data }
}

fn no_fit(path: &Path, found: &str, format: InputFormat<'_>) -> DataError {
    DataError::Input {
        what: path.display().to_string(),
        found: found.to_owned(),
        expected: format!("{:?}", format.shape),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::PathBuf;

    use ndarray_npy::{NpzWriter, WriteNpyExt};
    use peregrine_ir::client::{ImageOrder, PixelFormat};

    use super::*;

    fn spec() -> ImageSpec {
        let (mean, std) = (vec![0.5, 0.0, 0.25], vec![0.5, 1.0, 2.0]);
        ImageSpec { format: PixelFormat::Rgb, order: ImageOrder::Nchw, height: 2, width: 3, mean, std }
    }

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn pictures_are_resized_and_normalised() {
        let mut png = Vec::new();
        let picture = image::RgbImage::from_pixel(6, 4, image::Rgb([255, 51, 0]));
        picture.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let (folder, path) = write("a.png", &png);
        let spec = spec();
        let pictures = format(&[1, 3, 2, 3], Some(&spec));
        let sample = read_sample(&path, pictures).unwrap();
        assert_eq!(sample.data[..6], [1.0; 6]);
        assert!((sample.data[6] - 0.2).abs() < 1e-6);
        assert_eq!(read_calibration(folder.path(), pictures).unwrap(), [sample]);
        assert!(matches!(read_sample(&path, format(&[1, 7], None)), Err(DataError::Input { .. })));
    }

    #[test]
    fn bad_files_are_named() {
        let spec = spec();
        let format = format(&[1, 3, 2, 3], Some(&spec));
        let (folder, path) = write("a.png", b"no picture");
        assert!(matches!(read_sample(&path, format), Err(DataError::Picture { path: p, .. }) if p == path));
        assert!(read_calibration(&path, format).is_err());
        assert!(matches!(read_sample(&folder.path().join("none"), format), Err(DataError::Read { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(read_calibration(empty.path(), format), Err(DataError::Set { .. })));
    }

    #[test]
    fn arrays() {
        let spec = spec();
        let format = format(&[1, 3, 2, 3], Some(&spec));
        type Archive<'a> = NpzWriter<Cursor<&'a mut Vec<u8>>>;
        let archive = |add: &dyn Fn(&mut Archive<'_>)| {
            let mut bytes = Vec::new();
            let mut npz = NpzWriter::new(Cursor::new(&mut bytes));
            add(&mut npz);
            npz.finish().unwrap();
            write("c.npz", &bytes)
        };
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<u8>::zeros((5, 3, 2, 3))).unwrap());
        let images = read_calibration(&path, format).unwrap();
        assert_eq!((images.len(), images[0].data[0]), (5, -1.0));
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<f32>::ones((2, 3, 2, 3))).unwrap());
        assert_eq!(read_calibration(&path, format).unwrap()[1].data, [1.0; 18]);
        let (_keep, path) =
            archive(&|npz| npz.add_array("images", &ndarray::Array4::<f32>::ones((5, 3, 4, 4))).unwrap());
        assert!(matches!(read_calibration(&path, format), Err(DataError::Input { .. })));
        let (_keep, path) = archive(&|npz| npz.add_array("z", &ndarray::Array1::<u8>::zeros(3)).unwrap());
        assert!(read_calibration(&path, format).unwrap_err().to_string().contains("images"));
        let mut npy = Vec::new();
        ndarray::Array3::<f32>::from_elem((3, 2, 3), f32::NAN).write_npy(&mut npy).unwrap();
        let (_keep, path) = write("s.npy", &npy);
        assert!(read_sample(&path, format).unwrap_err().to_string().contains("NaN"));
        let mut npy = Vec::new();
        ndarray::Array3::<u8>::from_elem((3, 2, 3), 255).write_npy(&mut npy).unwrap();
        let (_keep, path) = write("p.npy", &npy);
        assert_eq!(read_sample(&path, format).unwrap().data[..6], [1.0; 6]);
    }
}
