//! Every form of a set, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use peregrine_ir::client::{ImageOrder, ImageSpec, PixelFormat};
use tempfile::TempDir;

use super::{InputFormat, Origin, Set, Truth, TruthBox, read_classes};
use crate::array::testing::{npy, npz};
use crate::error::DataError;
use crate::picture::Resize;

fn spec(size: u32) -> ImageSpec {
    ImageSpec {
        format: PixelFormat::Rgb,
        order: ImageOrder::Nchw,
        height: size,
        width: size,
        mean: vec![0.0; 3],
        std: vec![1.0; 3],
    }
}

struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn picture(&self, name: &str, red: u8) {
        let path = self.file(name, b"");
        RgbImage::from_pixel(2, 2, Rgb([red, 0, 0])).save(path).expect("a picture");
    }

    /// The folder's `root` as a tar file.
    fn tar(&self, root: &str) -> PathBuf {
        let path = self.path("set.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).expect("a file"));
        builder.append_dir_all(root, self.path(root)).expect("a folder");
        builder.finish().expect("a tar file");
        path
    }
}

fn open(path: &Path) -> Set {
    Set::open(path, Some(&spec(2))).expect("a set")
}

fn classes(set: &Set) -> Vec<Option<usize>> {
    let class = |truth: &Truth| match truth {
        Truth::Class(class) => Some(*class),
        Truth::None | Truth::Boxes(_) => None,
    };
    set.samples.iter().map(|s| class(&s.truth)).collect()
}

/// The first number of every sample.
fn firsts(set: &Set) -> Vec<f32> {
    let spec = spec(2);
    let format = InputFormat { shape: &[1, 3, 2, 2], image: Some(&spec), resize: Resize::Stretch };
    set.samples.iter().map(|s| s.input(format).expect("an input").data[0]).collect()
}

#[test]
fn class_folders_and_the_same_in_a_tar_file() {
    let bench = Bench::new();
    for (name, red) in [("s/test/dog/1.png", 255), ("s/test/cat/2.png", 51), ("s/test/dog/0.png", 0)] {
        bench.picture(name, red);
    }
    bench.file("s/readme.txt", b"not boxes");
    for mut set in [open(&bench.path("s")), open(&bench.tar("s"))] {
        assert_eq!(
            (set.classes.as_slice(), set.origin),
            (&["cat", "dog"].map(str::to_owned)[..], Origin::Folders)
        );
        assert_eq!(classes(&set), [Some(0), Some(1), Some(1)]);
        assert_eq!(firsts(&set), [0.2, 0.0, 1.0]);
        assert!(set.samples[0].name.ends_with("test/cat/2.png"), "{}", set.samples[0].name);
        set.adopt_names(&["Dog", "fish", "cat"].map(str::to_owned));
        assert_eq!(classes(&set), [Some(2), Some(0), Some(0)]);
    }
}

#[test]
fn numbered_folders_are_in_order_of_their_numbers_and_unknown_names_keep_the_order() {
    let bench = Bench::new();
    for name in ["s/10/a.png", "s/9/b.png"] {
        bench.picture(name, 0);
    }
    let mut set = open(&bench.path("s"));
    assert_eq!(
        (set.classes.as_slice(), classes(&set)),
        (&["9".to_owned(), "10".to_owned()][..], vec![Some(1), Some(0)])
    );
    set.adopt_names(&["cat".to_owned()]);
    assert_eq!(classes(&set), [Some(1), Some(0)]);
}

#[test]
fn names_that_end_in_numbers() {
    let bench = Bench::new();
    bench.picture("s/cifar_00_3.png", 0);
    bench.picture("s/cifar_01_8.png", 0);
    assert_eq!(classes(&open(&bench.path("s"))), [Some(3), Some(8)]);
    bench.picture("s/plain.png", 0);
    assert_eq!(classes(&open(&bench.path("s"))), [None; 3]);
}

#[test]
fn boxes_belong_to_pictures_of_the_same_stem() {
    let bench = Bench::new();
    bench.picture("s/images/a.png", 0);
    bench.picture("s/images/b.png", 0);
    bench.file("s/labels/a.txt", b"2 0.5 0.5 0.5 0.25\n\n0 0.25 0.25 0.5 0.5\n");
    let set = open(&bench.path("s"));
    let expected = [
        TruthBox { class: 2, corners: [0.25, 0.375, 0.75, 0.625] },
        TruthBox { class: 0, corners: [0.0, 0.0, 0.5, 0.5] },
    ];
    assert_eq!(set.samples[0].truth, Truth::Boxes(expected.to_vec()));
    assert_eq!(set.samples[1].truth, Truth::Boxes(vec![]), "a picture without objects");
    assert!(set.has_boxes() && !set.has_classes() && set.origin == Origin::Boxes);
    bench.file("s/labels/b.txt", b"2 0.5 0.5 x 0.25\n");
    let error = Set::open(&bench.path("s"), None).expect_err("no number").to_string();
    assert!(error.contains("b.txt") && error.contains("line 1"), "{error}");
    bench.file("s/labels/b.txt", b"");
    bench.file("s/others/b.txt", b"");
    assert!(Set::open(&bench.path("s"), None).expect_err("twice").to_string().contains("two files"));
}

#[test]
fn arrays_planar_and_interleaved() {
    let bench = Bench::new();
    let planar: Vec<u8> = (0..24).collect();
    let labels = npy("<i8", &[2], &[4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    let path =
        bench.file("a.npz", &npz(&[("images", npy("|u1", &[2, 3, 2, 2], &planar)), ("labels", labels)]));
    let set = open(&path);
    assert_eq!((firsts(&set), classes(&set)), (vec![0.0, 12.0 / 255.0], vec![Some(4), Some(1)]));
    let interleaved = bench.file("b.npy", &npy("|u1", &[2, 2, 2, 3], &planar));
    let mut set = open(&interleaved);
    assert_eq!((firsts(&set), classes(&set)), (vec![0.0, 12.0 / 255.0], vec![None, None]));
    assert!(set.set_classes(&[1]).is_err());
    let floats: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let values = open(&bench.file("c.npy", &npy("<f4", &[1, 3, 2, 2], &floats)));
    assert_eq!(firsts(&values), [0.0]);
    let nameless = bench.file("d.npz", &npz(&[("pictures", npy("|u1", &[1, 2, 2], &[0; 4]))]));
    let error = Set::open(&nameless, None).expect_err("no images").to_string();
    assert!(error.contains("`images`") && error.contains("pictures"), "{error}");
}

#[test]
fn cifar_binaries() {
    let bench = Bench::new();
    let mut bytes = vec![7u8];
    bytes.extend((0..3072u32).map(|i| (i / 1024) as u8));
    bytes.extend(std::iter::once(2).chain(std::iter::repeat_n(255, 3072)));
    let set = Set::open(&bench.file("test_batch.bin", &bytes), None).expect("CIFAR-10");
    let spec = spec(32);
    let format = InputFormat { shape: &[1, 3, 32, 32], image: Some(&spec), resize: Resize::Stretch };
    let first = set.samples[0].input(format).expect("an input").data;
    assert_eq!(classes(&set), [Some(7), Some(2)]);
    assert_eq!([first[0], first[1024], first[2048]], [0.0, 1.0 / 255.0, 2.0 / 255.0]);
    let broken = Set::open(&bench.file("x.bin", &bytes[..5000]), None).expect_err("no records");
    assert!(broken.to_string().contains("5000 bytes"), "{broken}");
    // A folder of such files is the training part, in order of their names.
    bench.file("c/test_batch.bin", &[0; 5]);
    bench.file("c/data_batch_2.bin", &bytes[..3073]);
    bench.file("c/data_batch_1.bin", &bytes[3073..]);
    let set = Set::open(&bench.path("c"), None).expect("CIFAR-10");
    assert_eq!((classes(&set), set.origin), (vec![Some(2), Some(7)], Origin::Records));
}

#[test]
fn csv_rows_are_label_and_interleaved_pixels() {
    let bench = Bench::new();
    let path = bench.file("t.csv", b"label,p\n3,1,2,3,4,5,6,7,8,9,10,11,255,\n1,0,0,0,0,0,0,0,0,0,0,0,0\n");
    let set = open(&path);
    assert_eq!((firsts(&set), classes(&set)), (vec![1.0 / 255.0, 0.0], vec![Some(3), Some(1)]));
    for (text, part) in [
        ("3,1,2\n", "line 1: 2 pixels"),
        ("3,300\n", "`300`"),
        ("3,1,2,3,4,5,6,7,8,9,10,11,12\nx,1\n", "line 2: `x`"),
    ] {
        let refused = Set::open(&bench.file("u.csv", text.as_bytes()), Some(&spec(2)));
        assert!(refused.as_ref().is_err_and(|e| e.to_string().contains(part)), "{text}: {refused:?}");
    }
    assert!(Set::open(&path, None).is_err(), "a csv needs the model's picture size");
}

#[test]
fn classes_from_a_file() {
    let bench = Bench::new();
    for name in ["s/a.png", "s/b.png"] {
        bench.picture(name, 0);
    }
    let set = open(&bench.path("s"));
    let names = ["cat", "dog"].map(str::to_owned);
    let read = |text: &str| read_classes(&bench.file("c.txt", text.as_bytes()), &set, &names);
    assert_eq!(read("1\ncat\n").expect("in order"), [1, 0]);
    assert_eq!(read("b.png 1\na.png 0\n").expect("by name"), [0, 1]);
    assert!(read("b.png 1\n").expect_err("a is missing").to_string().contains("`a.png`"));
    assert!(read("bird\n0\n").expect_err("no class").to_string().contains("`bird`"));
    let shorts = bench.file("c.npy", &npy("<i2", &[2], &[1, 0, 255, 255]));
    assert!(read_classes(&shorts, &set, &names).expect_err("negative").to_string().contains("-1"));
}

#[test]
fn a_limit_is_spread_over_the_set() {
    let bench = Bench::new();
    let path = bench.file("a.npy", &npy("|u1", &[10, 2, 2], &[0; 40]));
    let mut set = open(&path);
    set.limit(4);
    let names: Vec<&str> = set.samples.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["#2", "#4", "#7", "#9"]);
    set.limit(9);
    assert_eq!(set.samples.len(), 4);
}

#[test]
fn what_is_no_set_is_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.path("empty")).expect("a folder");
    for path in [bench.path("empty"), bench.file("x.zip", b"PK")] {
        assert!(matches!(Set::open(&path, None), Err(DataError::Set { .. })), "{}", path.display());
    }
    for missing in ["none.npz", "none"] {
        assert!(matches!(Set::open(&bench.path(missing), None), Err(DataError::Read { .. })), "{missing}");
    }
    assert!(Set::open(&bench.file("x.tar", &[1; 700]), None).is_err());
    let mut header = tar::Header::new_gnu();
    header.set_path("a.png").expect("a name");
    header.set_size(1 << 40);
    header.set_cksum();
    let huge =
        Set::open(&bench.file("y.tar", &[header.as_bytes(), &[0; 512][..]].concat()), None).expect("a set");
    assert!(huge.samples[0].read().expect_err("too large").to_string().contains("1099511627776 bytes"));
    bench.file("s/dog/a.png", b"no picture");
    let spec = spec(2);
    let format = InputFormat { shape: &[1, 3, 2, 2], image: Some(&spec), resize: Resize::Stretch };
    let error = open(&bench.path("s")).samples[0].input(format).expect_err("no picture").to_string();
    assert!(error.contains("a.png"), "{error}");
}
