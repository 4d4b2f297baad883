//! Random changes of pictures: flips, crops, zooms, tones.

use fastrand::Rng;

use super::Pixels;

/// Which changes are made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augment {
    /// Mirrors half of the pictures.
    pub flip: bool,
    /// Shifts by up to this many pixels; black moves in.
    pub crop: usize,
    /// Cuts out a part of at least this share of the area and enlarges it; 1 for none.
    pub zoom: f32,
    /// Changes contrast by up to this share, and brightness by up to half of it of the whole scale; 0 for none.
    pub tone: f32,
}

impl Augment {
    /// No change.
    pub const NONE: Self = Self { flip: false, crop: 0, zoom: 1.0, tone: 0.0 };

    /// A changed copy.
    pub fn apply(&self, picture: &[u8], pixels: Pixels, rng: &mut Rng) -> Vec<u8> {
        // The same draws for every setting: a run with less augmentation sees the same order otherwise.
        let (flip, dx, dy) = (rng.bool(), rng.f32(), rng.f32());
        let (area, x0, y0) = (rng.f32(), rng.f32(), rng.f32());
        let tones = [rng.f32(), rng.f32()].map(|u| self.tone * (2.0 * u - 1.0));
        let mut picture = picture.to_vec();
        if self.zoom < 1.0 {
            picture = zoom(&picture, pixels, (self.zoom + (1.0 - self.zoom) * area).sqrt(), [y0, x0]);
        }
        let shift = |u: f32| (u * (2 * self.crop + 1) as f32) as isize - self.crop as isize;
        let shifts = [shift(dy), shift(dx)];
        let side = if self.flip && flip { Side::Mirrored } else { Side::AsIs };
        if shifts != [0, 0] || side == Side::Mirrored {
            picture = moved(&picture, pixels, shifts, side);
        }
        if self.tone > 0.0 {
            toned(&mut picture, tones);
        }
        picture
    }
}

/// Whether left and right are exchanged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    AsIs,
    Mirrored,
}

/// Shifts and mirrors.
fn moved(picture: &[u8], pixels: Pixels, [dy, dx]: [isize; 2], side: Side) -> Vec<u8> {
    let Pixels { channels, height, width } = pixels;
    let mut out = vec![0; picture.len()];
    for (i, pixel) in out.chunks_exact_mut(channels).enumerate() {
        let (y, x) = (i / width, i % width);
        let x = if side == Side::Mirrored { width - 1 - x } else { x };
        let (y, x) = (y as isize + dy, x as isize + dx);
        if (0..height as isize).contains(&y) && (0..width as isize).contains(&x) {
            pixel.copy_from_slice(&picture[(y as usize * width + x as usize) * channels..][..channels]);
        }
    }
    out
}

/// Changes contrast about the mean by a factor, and brightness by a part of the scale, as far as pixels go.
fn toned(picture: &mut [u8], [contrast, brightness]: [f32; 2]) {
    let mean = picture.iter().map(|&p| f32::from(p)).sum::<f32>() / picture.len().max(1) as f32;
    let change = |p: u8| mean + (1.0 + contrast) * (f32::from(p) - mean) + 127.5 * brightness;
    picture.iter_mut().for_each(|p| *p = change(*p).round().clamp(0.0, 255.0) as u8);
}

/// Enlarges a window of side `side` (relative), at `at` of the room left, bilinearly.
fn zoom(picture: &[u8], pixels: Pixels, side: f32, at: [f32; 2]) -> Vec<u8> {
    let Pixels { channels, height, width } = pixels;
    let source = |i: usize, extent: usize, at: f32| {
        let start = at * (1.0 - side) * (extent - 1) as f32;
        let position = start + side * i as f32;
        let low = (position as usize).min(extent - 1);
        (low, (low + 1).min(extent - 1), position - low as f32)
    };
    let mut out = Vec::with_capacity(picture.len());
    for y in 0..height {
        let (y0, y1, fy) = source(y, height, at[0]);
        for x in 0..width {
            let (x0, x1, fx) = source(x, width, at[1]);
            for c in 0..channels {
                let value = |y: usize, x: usize| f32::from(picture[(y * width + x) * channels + c]);
                let top = value(y0, x0) * (1.0 - fx) + value(y0, x1) * fx;
                let bottom = value(y1, x0) * (1.0 - fx) + value(y1, x1) * fx;
                out.push((top * (1.0 - fy) + bottom * fy).round() as u8);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIXELS: Pixels = Pixels { channels: 2, height: 3, width: 4 };

    fn picture() -> Vec<u8> {
        (1..=24).collect()
    }

    #[test]
    fn shifts_and_mirrors() {
        let same = moved(&picture(), PIXELS, [0, 0], Side::AsIs);
        assert_eq!(same, picture());
        let mirrored = moved(&picture(), PIXELS, [0, 0], Side::Mirrored);
        assert_eq!(mirrored[..8], [7, 8, 5, 6, 3, 4, 1, 2]);
        let shifted = moved(&picture(), PIXELS, [1, -1], Side::AsIs);
        assert_eq!(shifted[..4], [0, 0, 9, 10]);
        assert_eq!(shifted[16..], [0; 8]);
    }

    #[test]
    fn a_whole_window_is_the_picture() {
        assert_eq!(zoom(&picture(), PIXELS, 1.0, [0.5, 0.5]), picture());
        let flat = vec![7; 24];
        assert_eq!(zoom(&flat, PIXELS, 0.4, [0.9, 0.1]), flat);
    }

    #[test]
    fn tones_change_contrast_and_brightness_within_the_scale() {
        let mut picture = vec![100, 120, 140, 120];
        toned(&mut picture, [0.5, 0.2]);
        assert_eq!(picture, [116, 146, 176, 146]);
        let mut extreme = vec![0, 255];
        toned(&mut extreme, [0.5, 0.0]);
        assert_eq!(extreme, [0, 255]);
    }

    #[test]
    fn nothing_asked_nothing_changed_and_seeds_repeat() {
        let mut rng = Rng::with_seed(1);
        assert_eq!(Augment::NONE.apply(&picture(), PIXELS, &mut rng), picture());
        let all = Augment { flip: true, crop: 2, zoom: 0.5, tone: 0.3 };
        let draw = |seed| all.apply(&picture(), PIXELS, &mut Rng::with_seed(seed));
        assert_eq!(draw(5), draw(5));
        assert!((0..20).any(|s| draw(s) != draw(5)));
    }
}
