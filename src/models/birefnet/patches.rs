//! The picture as patches: the decoder looks at it again at every level, folded to the level's size without losing a pixel.

use candle_core::{Result, Tensor};

use super::config::PatchOrder;

/// `x` (batch, channels, height, width) cut into `edge` x `edge` patches that are stacked as channels:
/// (batch, channels · edge², height / edge, width / edge).
///
/// # Errors
/// Sides that `edge` does not divide.
pub fn picture_to_patches(x: &Tensor, edge: usize, order: PatchOrder) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if edge == 0 || !height.is_multiple_of(edge) || !width.is_multiple_of(edge) {
        candle_core::bail!("picture of {height} x {width}: {edge} x {edge} patches do not fit");
    }
    let (rows, columns) = (height / edge, width / edge);
    let axes = match order {
        PatchOrder::ChannelsFirst => [0, 1, 2, 4, 3, 5],
        PatchOrder::ColumnsFirst => [0, 4, 2, 1, 3, 5],
    };
    x.reshape((batch, channels, edge, rows, edge, columns))?.permute(axes)?.contiguous()?.reshape((
        batch,
        channels * edge * edge,
        rows,
        columns,
    ))
}
