//! Detections drawn on the picture they were found in.

use std::path::Path;

use font8x8::UnicodeFonts;
use image::{ImageFormat, Rgb, RgbImage};

use super::decode::Detection;
use super::error::ClientError;

/// Pixels of a glyph's side.
const GLYPH: u32 = 8;
/// A picture of this many pixels on its longer side is drawn on with lines of one pixel.
const FINE: u32 = 500;
/// Angle between the hues of neighbouring classes: the golden angle, so that few classes look alike.
const HUE_STEP: f64 = 137.507_764;

/// Draws each detection as a frame with a caption; `caption` names it. Coordinates are pixels of the picture.
pub fn draw(picture: &RgbImage, found: &[Detection], caption: impl Fn(&Detection) -> String) -> RgbImage {
    let mut canvas = picture.clone();
    let unit = (picture.width().max(picture.height()) / FINE).max(1);
    // Best last: the boxes that matter lie on top.
    for detection in found.iter().rev() {
        let colour = colour(detection.class);
        frame(&mut canvas, detection, colour, unit + 1);
        write(&mut canvas, detection, &caption(detection), colour, unit);
    }
    canvas
}

/// What is written over a detection: its class, by name where that is known, and its score.
pub fn caption(detection: &Detection, labels: &[String]) -> String {
    match labels.get(detection.class) {
        Some(label) => format!("{label} {:.2}", detection.score),
        None => format!("{} {:.2}", detection.class, detection.score),
    }
}

/// Writes a picture as PNG, through a temporary file in the same folder.
///
/// # Errors
/// [`ClientError::Draw`].
pub fn save(path: &Path, picture: &RgbImage) -> Result<(), ClientError> {
    let refuse = |reason: String| ClientError::Draw { path: path.to_owned(), reason };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(|e| refuse(e.to_string()))?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).map_err(|e| refuse(e.to_string()))?;
    std::io::Write::write_all(&mut file, bytes.get_ref()).map_err(|e| refuse(e.to_string()))?;
    file.persist(path).map_err(|e| refuse(e.error.to_string()))?;
    Ok(())
}

/// A bright colour of its own for each class.
fn colour(class: usize) -> Rgb<u8> {
    let hue = (class as f64 * HUE_STEP).rem_euclid(360.0) / 60.0;
    let ramp = |shift: f64| {
        let x = (hue + shift).rem_euclid(6.0);
        (255.0 * (2.0 - (x - 3.0).abs()).clamp(0.0, 1.0)).round() as u8
    };
    Rgb([ramp(3.0), ramp(1.0), ramp(5.0)])
}

fn frame(canvas: &mut RgbImage, detection: &Detection, colour: Rgb<u8>, thickness: u32) {
    let [left, top, right, bottom] = detection.at.0.map(|v| v.round() as i64);
    let inner = i64::from(thickness);
    fill(canvas, [left, top, right, top + inner], colour);
    fill(canvas, [left, bottom - inner, right, bottom], colour);
    fill(canvas, [left, top, left + inner, bottom], colour);
    fill(canvas, [right - inner, top, right, bottom], colour);
}

/// The caption above the frame, or inside it where there is no room above, kept within the picture.
fn write(canvas: &mut RgbImage, detection: &Detection, text: &str, colour: Rgb<u8>, scale: u32) {
    let glyph = i64::from(GLYPH * scale);
    let margin = i64::from(scale);
    let (width, height) = (text.chars().count() as i64 * glyph + 2 * margin, glyph + 2 * margin);
    let [left, top] = [detection.at.0[0], detection.at.0[1]].map(|v| v.round() as i64);
    let left = left.min(i64::from(canvas.width()) - width).max(0);
    let top = if top >= height { top - height } else { top.max(0) };
    fill(canvas, [left, top, left + width, top + height], colour);
    let ink = ink_on(colour);
    for (i, symbol) in text.chars().enumerate() {
        let at = [left + margin + i as i64 * glyph, top + margin];
        write_glyph(canvas, symbol, at, ink, scale);
    }
}

fn write_glyph(canvas: &mut RgbImage, symbol: char, [left, top]: [i64; 2], ink: Rgb<u8>, scale: u32) {
    let basic = font8x8::BASIC_FONTS.get(symbol).or_else(|| font8x8::LATIN_FONTS.get(symbol));
    let Some(rows) = basic.or_else(|| font8x8::BASIC_FONTS.get('?')) else { return };
    let scale = i64::from(scale);
    for (y, row) in (0i64..).zip(rows) {
        for x in (0..i64::from(GLYPH)).filter(|x| row >> x & 1 == 1) {
            let (x, y) = (left + x * scale, top + y * scale);
            fill(canvas, [x, y, x + scale, y + scale], ink);
        }
    }
}

/// Black or white, whichever reads better.
fn ink_on(Rgb([r, g, b]): Rgb<u8>) -> Rgb<u8> {
    let brightness = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b);
    if brightness > 128_000 { Rgb([0; 3]) } else { Rgb([255; 3]) }
}

/// Fills left, top, right, bottom (the last two excluded), as far as they are in the picture.
fn fill(canvas: &mut RgbImage, [left, top, right, bottom]: [i64; 4], colour: Rgb<u8>) {
    let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
    for y in top.max(0)..bottom.min(height) {
        for x in left.max(0)..right.min(width) {
            canvas.put_pixel(x as u32, y as u32, colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode::PixelBox;
    use super::*;

    fn detection(at: [f64; 4]) -> Detection {
        Detection { class: 0, score: 0.5, at: PixelBox(at) }
    }

    #[test]
    fn frame_and_caption_are_where_they_should_be() {
        let grey = Rgb([9, 9, 9]);
        let picture = RgbImage::from_pixel(60, 60, grey);
        let drawn = draw(&picture, &[detection([10.0, 20.0, 40.0, 50.0])], |_| "I".to_owned());
        let red = colour(0);
        assert_eq!(red, Rgb([255, 0, 0]));
        for (x, y) in [(10, 20), (39, 49), (10, 35), (25, 21)] {
            assert_eq!(*drawn.get_pixel(x, y), red, "{x},{y}");
        }
        for (x, y) in [(9, 20), (25, 35), (40, 50), (12, 22)] {
            assert_eq!(*drawn.get_pixel(x, y), grey, "{x},{y}");
        }
        // The caption is 10x10 above the frame; the glyph has ink and background.
        let caption: Vec<Rgb<u8>> = (10..20)
            .flat_map(|y| (10..20).map(move |x| (x, y)))
            .map(|(x, y)| *drawn.get_pixel(x, y))
            .collect();
        let ink = caption.iter().filter(|&&p| p == Rgb([255; 3])).count();
        let glyph: u32 = font8x8::BASIC_FONTS.get('I').expect("a glyph").iter().map(|r| r.count_ones()).sum();
        assert_eq!(ink, glyph as usize);
        assert_eq!(caption.iter().filter(|&&p| p == red).count(), 100 - ink);
    }

    #[test]
    fn boxes_and_captions_past_the_edges_are_cut() {
        let picture = RgbImage::new(20, 12);
        let all = [detection([-50.0, -5.0, 300.0, 200.0]), detection([18.0, 2.0, 18.0, 2.0])];
        let drawn = draw(&picture, &all, |_| "long caption é \u{1F600}".to_owned());
        assert_eq!(drawn.dimensions(), (20, 12));
        assert_eq!(draw(&RgbImage::new(1, 1), &all, |_| String::new()).dimensions(), (1, 1));
    }

    #[test]
    fn colours_of_neighbouring_classes_differ() {
        let colours: Vec<[u8; 3]> = (0..80).map(|class| colour(class).0).collect();
        for pair in colours.windows(2) {
            let distance: i32 = (0..3).map(|k| (i32::from(pair[0][k]) - i32::from(pair[1][k])).abs()).sum();
            assert!(distance > 150, "{pair:?}");
        }
    }

    #[test]
    fn pictures_are_saved_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.png");
        save(&path, &RgbImage::from_pixel(3, 2, Rgb([1, 2, 3]))).expect("saved");
        assert_eq!(image::open(&path).expect("a picture").to_rgb8().get_pixel(2, 1), &Rgb([1, 2, 3]));
        let nowhere = save(&folder.path().join("no/out.png"), &RgbImage::new(1, 1)).expect_err("no folder");
        assert!(nowhere.to_string().contains("no/out.png"), "{nowhere}");
    }
}
