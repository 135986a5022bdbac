//! Latents as tokens: each 2 x 2 patch of all channels is one.

use candle_core::{Result, Tensor};

/// (batch, channels, 2 rows, 2 columns) to (batch, rows x columns, 4 channels); channel slowest within a token.
///
/// # Errors
/// Odd sides.
pub fn pack(latents: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = latents.dims4()?;
    latents
        .reshape(vec![batch, channels, height / 2, 2, width / 2, 2])?
        .permute(vec![0, 2, 4, 1, 3, 5])?
        .reshape((batch, (height / 2) * (width / 2), channels * 4))
}

/// [`pack`] undone, for `rows` x `columns` tokens.
///
/// # Errors
/// Another number of tokens.
pub fn unpack(tokens: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let (batch, _, channels) = tokens.dims3()?;
    tokens
        .reshape(vec![batch, rows, columns, channels / 4, 2, 2])?
        .permute(vec![0, 3, 1, 4, 2, 5])?
        .reshape((batch, channels / 4, rows * 2, columns * 2))
}
