//! Tensors in a map: tests, converters, and what a caller has computed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;

use candle_core::{Device, Error, Result, Tensor};

use super::{Format, Loaded, Meta, Source};

impl<S: BuildHasher + Send + Sync> Source for HashMap<String, Tensor, S> {
    fn meta(&self, key: &str) -> Option<Meta> {
        let tensor = self.get(key)?;
        Some(Meta { shape: tensor.dims().to_vec(), format: Format::Dense(tensor.dtype()) })
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        let tensor = self.get(key).ok_or_else(|| Error::CannotFindTensor { path: key.to_owned() })?;
        let tensor = match rows {
            Some(rows) => tensor.narrow(0, rows.start, rows.len())?,
            None => tensor.clone(),
        };
        tensor.to_device(device)?.contiguous().map(Loaded::Dense)
    }

    fn keys(&self) -> Vec<String> {
        HashMap::keys(self).cloned().collect()
    }

    fn origin(&self, _: &str) -> String {
        "memory".to_owned()
    }
}
