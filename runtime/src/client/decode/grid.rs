//! Raw heads as grids of predictions, whatever the order of their axes.

use super::super::tensor::NamedTensor;

/// A head: `channels` numbers in each of `rows * columns` cells of `stride` pixels.
pub(super) struct Grid<'a> {
    pub(super) name: &'a str,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) channels: usize,
    pub(super) stride: f64,
    data: &'a [f64],
    /// Distance in `data` of neighbouring channels, rows and columns; a fifth axis splits channels (anchor, prediction).
    strides: [usize; 3],
    /// Predictions per anchor and the distance of anchors, where anchors have an axis of their own.
    anchor: Option<(usize, usize)>,
}

impl<'a> Grid<'a> {
    /// The head that a tensor is, when its grid tiles an input of `input` columns and rows in square cells.
    pub(super) fn of(tensor: &'a NamedTensor, input: [u32; 2]) -> Option<Self> {
        let name = tensor.name.as_str();
        let data = tensor.data.as_slice();
        match *tensor.shape.as_slice() {
            [1, a, b, c] => {
                let planar = stride(input, b, c).map(|stride| Self {
                    name,
                    rows: b,
                    columns: c,
                    channels: a,
                    stride,
                    data,
                    strides: [b * c, c, 1],
                    anchor: None,
                });
                planar.or_else(|| {
                    let stride = stride(input, a, b)?;
                    let strides = [1, b * c, c];
                    Some(Self { name, rows: a, columns: b, channels: c, stride, data, strides, anchor: None })
                })
            }
            [1, anchors, rows, columns, values] => Some(Self {
                name,
                rows,
                columns,
                channels: anchors * values,
                stride: stride(input, rows, columns)?,
                data,
                strides: [1, columns * values, values],
                anchor: Some((values, rows * columns * values)),
            }),
            _ => None,
        }
    }

    /// A number of a cell.
    pub(super) fn at(&self, channel: usize, row: usize, column: usize) -> f64 {
        let [by_channel, by_row, by_column] = self.strides;
        let start = match self.anchor {
            Some((values, by_anchor)) => channel / values * by_anchor + channel % values * by_channel,
            None => channel * by_channel,
        };
        self.data[start + row * by_row + column * by_column]
    }

    /// Rows and columns of all cells.
    pub(super) fn cells(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let columns = self.columns;
        (0..self.rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
    }
}

/// Pixels of a cell, when `rows * columns` square cells tile the input. One cell alone is no grid, nor is a cell of less
/// than four pixels.
fn stride([width, height]: [u32; 2], rows: usize, columns: usize) -> Option<f64> {
    let (width, height) = (width as usize, height as usize);
    let tiles = rows * columns > 1 && width.is_multiple_of(columns) && height.is_multiple_of(rows);
    (tiles && width / columns == height / rows && width / columns >= 4).then(|| (width / columns) as f64)
}
