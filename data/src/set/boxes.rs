//! Boxes in the text form of YOLO: a line `class x y width height` per object, centre and size as shares of the picture.

/// An object in a picture; corners as shares of the picture's width and height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TruthBox {
    /// Class.
    pub class: usize,
    /// Left, top, right, bottom.
    pub corners: [f64; 4],
}

/// Parses a file of boxes; what is wrong comes with its line.
pub(super) fn parse(text: &str) -> Result<Vec<TruthBox>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            parse_line(line).ok_or_else(|| format!("line {}: `class x y width height` is expected", i + 1))
        })
        .collect()
}

fn parse_line(line: &str) -> Option<TruthBox> {
    let mut fields = line.split_whitespace();
    let class = fields.next()?.parse().ok()?;
    let numbers: Vec<f64> = fields.map(|f| f.parse().ok()).collect::<Option<_>>()?;
    let &[x, y, w, h] = numbers.as_slice() else { return None };
    let sound = numbers.iter().all(|v| v.is_finite()) && w >= 0.0 && h >= 0.0;
    sound.then_some(TruthBox { class, corners: [x - w / 2.0, y - h / 2.0, x + w / 2.0, y + h / 2.0] })
}
