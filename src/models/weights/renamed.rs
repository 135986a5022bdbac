//! A source under other names: each tensor is made of rows of one or more tensors of another source.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Error, Result, Tensor};

use super::{Extent, Loaded, Meta, Source, quantised};

/// Rows of a tensor of the inner source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Inner key.
    pub key: String,
    /// All rows if `None`.
    pub rows: Option<Range<usize>>,
}

/// How one tensor is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Below each other.
    pub parts: Vec<Part>,
    /// Drops trailing dimensions of 1 past the second: a 1 x 1 convolution read as a linear layer.
    pub flatten: bool,
}

impl Recipe {
    /// The tensor `key`, unchanged.
    pub fn whole(key: impl Into<String>) -> Self {
        Self { parts: vec![Part { key: key.into(), rows: None }], flatten: false }
    }

    /// Some rows of `key`.
    pub fn rows(key: impl Into<String>, rows: Range<usize>) -> Self {
        Self { parts: vec![Part { key: key.into(), rows: Some(rows) }], flatten: false }
    }
}

/// A source seen through recipes. Keys without one do not exist.
pub struct Renamed {
    inner: Arc<dyn Source>,
    recipes: HashMap<String, Recipe>,
}

impl Renamed {
    /// `recipes` by outer key.
    pub fn new(inner: Arc<dyn Source>, recipes: HashMap<String, Recipe>) -> Self {
        Self { inner, recipes }
    }

    /// Inner keys below `prefix`, without it.
    pub fn stripped(inner: Arc<dyn Source>, prefix: &str) -> Self {
        let recipes = inner
            .keys()
            .into_iter()
            .filter_map(|key| Some((key.strip_prefix(prefix)?.to_owned(), Recipe::whole(key.clone()))))
            .collect();
        Self { inner, recipes }
    }
}

/// Drops trailing ones past the second dimension.
fn flat(mut shape: Vec<usize>) -> Vec<usize> {
    while shape.len() > 2 && shape.last() == Some(&1) {
        shape.pop();
    }
    shape
}

impl Source for Renamed {
    fn meta(&self, key: &str) -> Option<Meta> {
        let recipe = self.recipes.get(key)?;
        let mut rows = 0;
        let mut whole: Option<Meta> = None;
        for part in &recipe.parts {
            let meta = self.inner.meta(&part.key)?;
            let stored = meta.shape.first().copied().unwrap_or(0);
            // Rows that are not there do not count, so that a short tensor shows in the shape.
            rows += part.rows.as_ref().map_or(stored, |rows| rows.end.min(stored).saturating_sub(rows.start));
            whole.get_or_insert(meta);
        }
        let mut meta = whole?;
        if let Some(first) = meta.shape.first_mut() {
            *first = rows;
        }
        if recipe.flatten {
            meta.shape = flat(meta.shape);
        }
        Some(meta)
    }

    fn load(&self, key: &str, rows: Option<Range<usize>>, device: &Device) -> Result<Loaded> {
        let recipe = self.recipes.get(key).ok_or_else(|| Error::CannotFindTensor { path: key.to_owned() })?;
        if rows.is_some() {
            return Err(Error::Msg(format!("{key}: rows of a renamed tensor")));
        }
        let mut loaded = recipe
            .parts
            .iter()
            .map(|part| self.inner.load(&part.key, part.rows.clone(), device))
            .collect::<Result<Vec<_>>>()?;
        let joined = if loaded.len() == 1 {
            loaded.swap_remove(0)
        } else if quantised::joinable(&loaded) {
            let inputs = self.meta(key).and_then(|meta| meta.shape.get(1).copied()).unwrap_or(1);
            Loaded::Quantised(quantised::join(loaded, inputs, device)?)
        } else {
            let dense = loaded
                .into_iter()
                .map(|part| match part {
                    Loaded::Dense(tensor) => Ok(tensor),
                    Loaded::Quantised(blocks) => blocks.dequantize(device),
                })
                .collect::<Result<Vec<_>>>()?;
            Loaded::Dense(Tensor::cat(&dense, 0)?)
        };
        match joined {
            Loaded::Dense(tensor) if recipe.flatten => {
                let shape = flat(tensor.dims().to_vec());
                tensor.reshape(shape).map(Loaded::Dense)
            }
            other => Ok(other),
        }
    }

    fn extents(&self, key: &str, rows: Option<Range<usize>>) -> Option<Vec<Extent>> {
        let recipe = self.recipes.get(key)?;
        if rows.is_some() {
            return None;
        }
        let parts = recipe.parts.iter().map(|part| self.inner.extents(&part.key, part.rows.clone()));
        parts.collect::<Option<Vec<_>>>().map(|parts| parts.concat())
    }

    fn keys(&self) -> Vec<String> {
        self.recipes.keys().cloned().collect()
    }

    fn origin(&self, key: &str) -> String {
        match self.recipes.get(key).and_then(|recipe| recipe.parts.first()) {
            Some(part) => format!("{} (there: {})", self.inner.origin(&part.key), part.key),
            None => self.inner.origin(key),
        }
    }
}
