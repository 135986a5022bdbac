//! A net's repeated blocks, of which some may be on the device only while they run.
//!
//! The net says how a block is built and when it runs; whether its weights stay or come and go is decided by whoever made
//! the [`Weights`]. Building a block over weights that lie on the device costs look-ups, so a block that comes and goes
//! is built anew each time. A block that stays may still be on its way when the net begins: it is waited for where it
//! runs, so that the first blocks compute while the last cross the bus.

use std::fmt;
use std::sync::Arc;

use candle_core::{Error, Result};

use super::Weights;
use super::placed::Gate;

type Build<B> = dyn Fn(&Weights) -> Result<B> + Send + Sync;

/// Blocks `0..len` of one kind.
pub struct Blocks<B> {
    list: Vec<Block<B>>,
    build: Arc<Build<B>>,
}

enum Block<B> {
    /// On the device, or on its way there.
    Here(Arc<B>, Option<Gate>),
    Lent(Weights),
}

impl<B> Blocks<B> {
    /// `count` blocks right below `w`: `build` gets the view on each, `w.pp(0)` and so on.
    ///
    /// # Errors
    /// What `build` returns.
    pub fn new(
        w: &Weights,
        count: usize,
        build: impl Fn(&Weights) -> Result<B> + Send + Sync + 'static,
    ) -> Result<Self> {
        let list = (0..count)
            .map(|index| {
                let view = w.pp(index).as_block();
                if view.is_streamed() {
                    Ok(Block::Lent(view))
                } else {
                    build(&view).map(|block| Block::Here(Arc::new(block), view.gate()))
                }
            })
            .collect::<Result<_>>()?;
        Ok(Self { list, build: Arc::new(build) })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Runs `work` on block `index`. Nothing of the block may outlive the call. Blocks that come and go come without a
    /// wait if they are asked for in order.
    ///
    /// # Errors
    /// No such block, a copy that failed, or what `work` returns.
    pub fn with<R>(&self, index: usize, work: impl FnOnce(&B) -> Result<R>) -> Result<R> {
        match self.list.get(index) {
            Some(Block::Here(block, gate)) => {
                if let Some(gate) = gate {
                    gate.wait()?;
                }
                work(block)
            }
            Some(Block::Lent(view)) => {
                let lent = view.lend()?;
                let block = (self.build)(&lent)?;
                work(&block)
            }
            None => Err(Error::Msg(format!("no block {index}: the model has {}", self.list.len()))),
        }
    }
}

impl<B> Clone for Blocks<B> {
    fn clone(&self) -> Self {
        let list = self.list.iter().map(|block| match block {
            Block::Here(block, gate) => Block::Here(Arc::clone(block), gate.clone()),
            Block::Lent(view) => Block::Lent(view.clone()),
        });
        Self { list: list.collect(), build: Arc::clone(&self.build) }
    }
}

impl<B> fmt::Debug for Blocks<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streamed = self.list.iter().filter(|block| matches!(block, Block::Lent(_))).count();
        write!(f, "Blocks({}, {streamed} of them streamed)", self.list.len())
    }
}
