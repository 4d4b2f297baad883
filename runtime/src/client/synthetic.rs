//! The test pattern used when there is neither an input file nor a sample.

use peregrine_ir::client::{ClientPart, ImageSpec};

use super::image::{channels, normalise};

/// A smooth, deterministic picture (crossed waves, a disc, a ramp, different in every channel), normalised as a real one
/// would be; for other inputs a wave in -1..1.
pub fn test_pattern(client: &ClientPart, image: Option<&ImageSpec>) -> Vec<f64> {
    match image {
        Some(spec) => normalise(&pixels(spec), spec),
        None => {
            let length = client.input_shape.iter().product::<usize>();
            (0..length).map(|i| (i as f64 * 0.37).sin()).collect()
        }
    }
}

fn pixels(spec: &ImageSpec) -> Vec<f32> {
    let (h, w) = (spec.height.max(1), spec.width.max(1));
    let mut planes = Vec::with_capacity(channels(spec.format) * h as usize * w as usize);
    for c in 0..channels(spec.format) {
        let phase = c as f32 * 2.1;
        for row in 0..h {
            for column in 0..w {
                let (y, x) = (row as f32 / h as f32, column as f32 / w as f32);
                let disc = if (y - 0.5).hypot(x - 0.5) < 0.3 { 0.3 } else { 0.0 };
                let waves = (x * 9.0 + phase).sin() * (y * 7.0 - phase).cos();
                planes.push((255.0 * (0.35 + disc + 0.2 * waves + 0.1 * y)).clamp(0.0, 255.0));
            }
        }
    }
    planes
}
