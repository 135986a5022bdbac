//! The pieces of a model that are on the device now, which come and go by themselves while other work computes, and which nets
//! are built over.
//!
//! Nothing is decided here. Must not know nets. Callers: `residency` by way of `stored`, and whoever measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Error, Result, Tensor};

use super::arena::{DeviceLane, HostArena};
use super::store::Store;
use super::streaming::Ring;
use super::transfer::{Mark, Transfer};
use crate::models::weights::{Lane, Lanes, Weights};

/// Where a piece lies on the device.
#[derive(Clone, Default)]
struct Place {
    /// One a dtype; a piece that has nothing has none.
    lanes: Vec<Tensor>,
    /// Passes when it has arrived; `None` if it is not here.
    arrived: Option<Mark>,
}

/// The pieces of a model that are on the device or on their way there. Their memory goes back when they are freed, or
/// this is dropped, and every [`Weights`] and net over them is dropped too; with the driver it shows after the next
/// [`Transfer::settle`].
pub struct Parts {
    store: Arc<Store>,
    transfer: Transfer,
    /// By piece.
    places: Vec<Place>,
}

impl Parts {
    /// No piece on the device yet. All of a device's parts share one `transfer`.
    pub fn new(store: &Arc<Store>, transfer: &Transfer) -> Self {
        let places = vec![Place::default(); store.layout().segments().len()];
        Self { store: Arc::clone(store), transfer: transfer.clone(), places }
    }

    /// Allocates `pieces` and begins to copy them, out of the host copy or, if there is none, out of the files. Pieces that
    /// are here already stay. With a host copy it returns before the copies are done, without one when all has been read, or
    /// `go_on` said no.
    ///
    /// # Errors
    /// The device has no room or is lost, the files cannot be read, `go_on` said no. With a host copy pieces that came before
    /// stay; of what comes from the files all does or nothing.
    pub fn bring(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()> {
        let missing: Vec<usize> = pieces.iter().copied().filter(|piece| !self.holds(*piece)).collect();
        match self.store.host() {
            Some(host) => missing.into_iter().try_for_each(|piece| self.copy(&host, piece)),
            None => self.read(&missing, go_on),
        }
    }

    fn copy(&mut self, host: &Arc<HostArena>, piece: usize) -> Result<()> {
        let lanes = self.lanes(piece)?;
        let copied = lanes.iter().try_for_each(|lane| self.transfer.copy(host, piece, lane));
        let mark = self.close(copied)?;
        host.read_until(mark.clone());
        self.put(piece, &lanes, mark);
        Ok(())
    }

    fn read(&mut self, pieces: &[usize], go_on: &dyn Fn() -> bool) -> Result<()> {
        let lanes = pieces.iter().map(|piece| Ok((*piece, self.lanes(*piece)?)));
        let lanes: Vec<(usize, Vec<DeviceLane>)> = lanes.collect::<Result<_>>()?;
        let files = (self.store.layout().as_ref(), self.store.source.as_ref());
        let brought = self.transfer.passage().bring(&self.transfer, files, &lanes, go_on);
        let mark = self.close(brought.map_err(|error| self.store.named(&error)))?;
        for (piece, lanes) in &lanes {
            self.put(*piece, lanes, mark.clone());
        }
        Ok(())
    }

    /// Room for a piece.
    fn lanes(&self, piece: usize) -> Result<Vec<DeviceLane>> {
        let Some(segment) = self.store.layout().segments().get(piece) else {
            return Err(Error::Msg(format!("{}: no piece {piece}", self.store.name())));
        };
        let lane = |lane: &Lane| DeviceLane::new(lane.dtype, lane.bytes, self.transfer.device());
        segment.lanes.iter().map(lane).collect()
    }

    /// Passes when what was `begun` is done. What failed half way must end before its lanes are freed.
    fn close(&self, begun: Result<()>) -> Result<Mark> {
        let mark = self.transfer.mark_copies()?;
        if let Err(error) = begun {
            self.transfer.compute_after(&mark)?;
            return Err(error);
        }
        Ok(mark)
    }

    fn put(&mut self, piece: usize, lanes: &[DeviceLane], mark: Mark) {
        if let Some(place) = self.places.get_mut(piece) {
            let lanes = lanes.iter().map(|lane| lane.tensor().clone()).collect();
            *place = Place { lanes, arrived: Some(mark) };
        }
    }

    /// Lets go of `pieces`. Nets over them must have been dropped, or they hold the memory on.
    pub fn free(&mut self, pieces: &[usize]) {
        self.order_frees();
        for piece in pieces {
            if let Some(place) = self.places.get_mut(*piece) {
                *place = Place::default();
            }
        }
    }

    /// Memory is freed behind the computing; copies into it must be done by then. On a lost card there is nothing left
    /// to order.
    fn order_frees(&self) {
        let running = |place: &Place| place.arrived.as_ref().is_some_and(|mark| !mark.has_passed());
        if self.places.iter().any(running) {
            let _ = self.transfer.mark_copies().and_then(|mark| self.transfer.compute_after(&mark));
        }
    }

    /// Whether a piece is here or on its way.
    pub fn holds(&self, piece: usize) -> bool {
        self.places.get(piece).is_some_and(|place| place.arrived.is_some())
    }

    /// Bytes of the pieces that are here or on their way.
    pub fn bytes(&self) -> u64 {
        let sizes = self.store.pieces();
        sizes.iter().enumerate().filter(|(piece, _)| self.holds(*piece)).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of the pieces that have arrived.
    pub fn arrived(&self) -> u64 {
        let here = |place: &Place| place.arrived.as_ref().is_some_and(Mark::has_passed);
        let sizes = self.store.pieces();
        self.places.iter().zip(sizes).filter(|(place, _)| here(place)).map(|(_, bytes)| bytes).sum()
    }

    /// Waits until all pieces have arrived.
    pub fn wait(&self) {
        for mark in self.places.iter().filter_map(|place| place.arrived.as_ref()) {
            mark.wait();
        }
    }

    /// What the net is built from: all pieces but the `streamed` ones have to be here or on their way. Computing that is asked
    /// for from now on waits, on the device, for the pieces that are no blocks; a block is waited for where it runs. Streamed
    /// pieces pass through two slots each time that the net runs; with
    /// `again`, the first of them come back ahead of the next run.
    ///
    /// # Errors
    /// A piece is missing; a streamed one is no block, or there is no host copy to stream from; no room for the slots.
    pub fn weights(&self, streamed: &[usize], again: bool) -> Result<Weights> {
        let store = &self.store;
        let name = &store.name();
        if let Some(piece) =
            (0..self.places.len()).find(|piece| !self.holds(*piece) && !streamed.contains(piece))
        {
            return Err(Error::Msg(format!("{name}: piece {piece} is not on the device")));
        }
        if let Some(piece) = streamed.iter().find(|piece| !store.blocks().any(|block| block == **piece)) {
            return Err(Error::Msg(format!("{name}: piece {piece} cannot be streamed")));
        }
        let ring = match (streamed, store.host()) {
            ([], _) => None,
            (_, Some(host)) => Some(Ring::new(store.layout(), &host, &self.transfer, streamed, again)?),
            (_, None) => return Err(Error::Msg(format!("{name}: streaming without a host copy"))),
        };
        let mut pieces = Vec::with_capacity(self.places.len());
        for (place, segment) in self.places.iter().zip(store.layout().segments()) {
            let arrival = Awaited::new(place.arrived.clone());
            if !segment.is_block {
                arrival.wait(&self.transfer)?;
            }
            pieces.push((place.lanes.clone(), arrival));
        }
        let transfer = self.transfer.clone();
        let lanes = Arc::new(DeviceLanes { pieces, streamed: streamed.to_vec(), ring, transfer });
        let (layout, source) = (Arc::clone(store.layout()), Arc::clone(&store.source));
        Ok(Weights::placed(layout, lanes, source, store.dtype, &store.device))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.order_frees();
    }
}

/// A piece's arrival as the computing sees it.
struct Awaited {
    mark: Option<Mark>,
    /// Whether the computing is behind it already: asked at every block of every step.
    done: AtomicBool,
}

impl Awaited {
    fn new(mark: Option<Mark>) -> Self {
        let done = AtomicBool::new(mark.is_none());
        Self { mark, done }
    }

    fn wait(&self, transfer: &Transfer) -> Result<()> {
        if self.done.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(mark) = self.mark.as_ref().filter(|mark| !mark.has_passed()) {
            transfer.compute_after(mark)?;
        }
        self.done.store(true, Ordering::Release);
        Ok(())
    }
}

/// A model's memory on the device, as nets see it.
struct DeviceLanes {
    /// Lanes by dtype, and their arrival.
    pieces: Vec<(Vec<Tensor>, Awaited)>,
    streamed: Vec<usize>,
    ring: Option<Arc<Ring>>,
    transfer: Transfer,
}

impl Lanes for DeviceLanes {
    fn lane(&self, segment: usize, dtype: DType) -> Option<Tensor> {
        if self.is_streamed(segment) {
            return None;
        }
        self.pieces.get(segment)?.0.iter().find(|lane| lane.dtype() == dtype).cloned()
    }

    fn is_streamed(&self, segment: usize) -> bool {
        self.streamed.contains(&segment)
    }

    fn arrive(&self, segment: usize) -> Result<()> {
        self.pieces.get(segment).map_or(Ok(()), |(_, arrival)| arrival.wait(&self.transfer))
    }

    fn lend(&self, segment: usize) -> Result<Arc<dyn Lanes>> {
        match &self.ring {
            Some(ring) => Ring::lend(ring, segment),
            None => Err(Error::Msg(format!("piece {segment} is not streamed"))),
        }
    }
}
