//! Between main memory and a card: page-locking, plain allocations, copies on a second stream, unpacking on a third, and
//! events.
//!
//! Everything here is `unsafe` underneath and safe to call for `crate::memory`, which keeps what each type asks of its
//! caller. Must not know tensors' names or models.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DeviceRepr, DriverError, result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage};
use candle_core::op::BackpropOp;
use candle_core::{DType, Error, Result, Storage, Tensor};
use half::{bf16, f16};

use super::unpack;
use crate::memory::packed::lane::{Lane, SLOT, SLOTS};

fn failed(what: &str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Msg(format!("{what}: {error}"))
}

/// Main memory that a card may copy from on its own. Unlocked on drop, which must come before the memory is unmapped.
pub struct Locked {
    pieces: Vec<(usize, usize)>,
    device: CudaDevice,
}

impl Locked {
    /// Locks all of `memory` in registrations of `piece` bytes with `threads` threads: one registration of 24 GB is one
    /// thread's work for seconds.
    ///
    /// # Errors
    /// The limit of locked memory, or a lost card.
    pub fn new(memory: &[u8], piece: usize, threads: usize, device: &CudaDevice) -> Result<Self> {
        let start = memory.as_ptr() as usize;
        let pieces: Vec<(usize, usize)> =
            (0..memory.len()).step_by(piece).map(|at| (start + at, piece.min(memory.len() - at))).collect();
        let next = AtomicUsize::new(0);
        let lock = || {
            let mut locked = Vec::new();
            device.cuda_stream().context().bind_to_thread().map_err(|error| (error, locked.clone()))?;
            while let Some(&(at, bytes)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                register(at, bytes).map_err(|error| (error, locked.clone()))?;
                locked.push((at, bytes));
            }
            Ok(locked)
        };
        let results: Vec<std::result::Result<_, (DriverError, _)>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(lock)).collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
        });
        let mut all = Self { pieces: Vec::new(), device: device.clone() };
        let mut problem = None;
        for result in results {
            match result {
                Ok(locked) => all.pieces.extend(locked),
                Err((error, locked)) => {
                    all.pieces.extend(locked);
                    problem = Some(error);
                }
            }
        }
        match problem {
            // What was locked is unlocked by the drop of `all`.
            Some(error) => {
                let bytes = memory.len();
                let advice = "check `ulimit -l`, or set HOST_BUDGET lower";
                Err(Error::Msg(format!("{bytes} bytes cannot be page-locked: {error}; {advice}")))
            }
            None => Ok(all),
        }
    }
}

#[allow(unsafe_code)]
fn register(at: usize, bytes: usize) -> std::result::Result<(), DriverError> {
    // SAFETY: the range is part of a slice that the caller holds, so it is mapped; whoever keeps the `Locked` unlocks it
    // before it unmaps. The card only reads it, when told to.
    unsafe { sys::cuMemHostRegister_v2(at as *mut _, bytes, 0).result() }
}

impl Drop for Locked {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let context = Arc::clone(self.device.cuda_stream().context());
        context.record_err(context.bind_to_thread());
        for (at, _) in self.pieces.drain(..) {
            // SAFETY: registered by `register` and not unlocked since: this is the only place that does, once.
            context.record_err(unsafe { sys::cuMemHostUnregister(at as *mut _).result() });
        }
    }
}

/// A plain allocation of the driver. The tensor made with it owns it; this is its address, valid as long as a tensor that
/// shares its storage lives.
pub struct Block {
    address: sys::CUdeviceptr,
    bytes: usize,
    /// Behind the last unpacking into it, which copies into it must not overtake.
    unpacked: Mutex<Option<Event>>,
    /// Keeps the address valid.
    _tensor: Tensor,
}

impl Block {
    /// Room for `elements` numbers, holding anything, and the tensor over it. Not from the pool that candle's tensors come
    /// from: freed blocks must go back to the driver whatever the pool keeps.
    ///
    /// # Errors
    /// The card has no room, or is lost.
    pub fn new(dtype: DType, elements: usize, device: &CudaDevice) -> Result<(Tensor, Self)> {
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(failed("the card"))?;
        let bytes = elements * dtype.size_in_bytes();
        let address = allocate(bytes.max(1), device)?;
        let storage = match dtype {
            DType::U8 => owned::<u8>(address, elements, &stream, device),
            DType::F32 => owned::<f32>(address, elements, &stream, device),
            DType::F16 => owned::<f16>(address, elements, &stream, device),
            DType::BF16 => owned::<bf16>(address, elements, &stream, device),
            other => {
                drop(owned::<u8>(address, bytes, &stream, device));
                return Err(Error::Msg(format!(
                    "weights in {}: expected f32, f16, bf16 or u8",
                    other.as_str()
                )));
            }
        };
        let tensor = Tensor::from_storage(Storage::Cuda(storage), elements, BackpropOp::none(), false);
        Ok((tensor.clone(), Self { address, bytes, unpacked: Mutex::default(), _tensor: tensor }))
    }
}

/// What the pool keeps for later counts as taken; it is asked to give that back before an allocation fails.
#[allow(unsafe_code)]
fn allocate(bytes: usize, device: &CudaDevice) -> Result<sys::CUdeviceptr> {
    // SAFETY (all three): the context is current on this thread (`Block::new`); the pool is the device's own, which lives
    // as long as it; the memory is uninitialised, and every bit pattern is a number of the types that it becomes.
    match unsafe { result::malloc_sync(bytes) } {
        Ok(address) => Ok(address),
        Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
            let stream = device.cuda_stream();
            stream.synchronize().map_err(failed("the card"))?;
            let card = stream.context().cu_device();
            let trimmed = unsafe {
                result::device::get_mem_pool(card).and_then(|pool| result::mem_pool::trim_to(pool, 0))
            };
            trimmed.map_err(failed("the card's memory pool"))?;
            let address = unsafe { result::malloc_sync(bytes) };
            address.map_err(|error| Error::Msg(format!("{bytes} bytes of the card's memory: {error}")))
        }
        Err(error) => Err(failed("the card's memory")(error)),
    }
}

#[allow(unsafe_code)]
fn owned<T: CudaDType + DeviceRepr>(
    address: sys::CUdeviceptr,
    elements: usize,
    stream: &Arc<CudaStream>,
    device: &CudaDevice,
) -> CudaStorage {
    // SAFETY: `address` was just allocated with room for `elements` of T, nothing else owns it, and any bits are a T. The
    // slice frees it with cuMemFreeAsync on the compute stream, which the driver allows for memory of cuMemAlloc; the
    // pages go back at that stream's next synchronisation.
    let slice = unsafe { stream.upgrade_device_ptr::<T>(address, elements) };
    CudaStorage::wrap_cuda_slice(slice, device.clone())
}

/// Page-locked main memory.
#[derive(Clone, Copy)]
pub struct Registered<'a> {
    /// All of it.
    pub memory: &'a [u8],
    /// Bytes of its registrations, whose borders no copy may cross.
    pub piece: usize,
}

/// The compute stream of a card and one for copies beside it.
#[derive(Clone)]
pub struct Bus {
    device: CudaDevice,
    compute: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    /// From the first packed copy on.
    unpacking: Arc<Mutex<Option<Unpacking>>>,
}

/// Where packed copies unpack: a stream behind the copies, and memory for what does not unpack in place.
struct Unpacking {
    stream: Arc<CudaStream>,
    slots: Vec<Slot>,
    /// Index of the slot that was filled longest ago.
    next: usize,
}

struct Slot {
    block: Block,
    /// Behind the last unpacking out of it.
    read: Option<Event>,
}

impl Unpacking {
    fn new(device: &CudaDevice) -> Result<Self> {
        let context = device.cuda_stream().context().clone();
        context.bind_to_thread().map_err(failed("the card"))?;
        // Ahead of the computing: a wave is short, and the copies wait for it.
        let (_, first) = result::stream::get_priority_range().map_err(failed("the card's streams"))?;
        let stream = context.new_stream_with_priority(first).map_err(failed("an unpacking stream"))?;
        let slot = |_| -> Result<Slot> {
            let (_, block) = Block::new(DType::BF16, SLOT / 2, device)?;
            Ok(Slot { block, read: None })
        };
        Ok(Self { stream, slots: (0..SLOTS).map(slot).collect::<Result<_>>()?, next: 0 })
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        // The slots are freed behind the computing, which knows nothing of this stream.
        let context = Arc::clone(self.stream.context());
        context.record_err(self.stream.synchronize());
    }
}

impl Bus {
    /// Makes the copy stream.
    ///
    /// # Errors
    /// The card is lost.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let compute = device.cuda_stream();
        let copies = compute.context().new_stream().map_err(failed("a copy stream"))?;
        Ok(Self { device: device.clone(), compute, copies, unpacking: Arc::default() })
    }

    fn unpacking(&self) -> MutexGuard<'_, Option<Unpacking>> {
        self.unpacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the copy stream bytes `from` of `host`, to lie in `to`, `offset` bytes in. The caller keeps `host` until a mark made
    /// later has passed, and lets no work read that part of `to` before.
    ///
    /// # Errors
    /// A range outside of either, a lost card.
    pub fn copy(&self, host: Registered<'_>, from: Range<usize>, to: &Block, offset: usize) -> Result<()> {
        self.behind_unpacking(to)?;
        self.put(host, from, to, offset)
    }

    /// Copies into `to` from now on wait for what last unpacked into it: that runs on a stream of its own.
    fn behind_unpacking(&self, to: &Block) -> Result<()> {
        let unpacked = to.unpacked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        unpacked.map_or(Ok(()), |event| self.copy_after(&event))
    }

    /// [`Bus::copy`], whatever was put there before.
    #[allow(unsafe_code)]
    fn put(&self, host: Registered<'_>, from: Range<usize>, to: &Block, offset: usize) -> Result<()> {
        let Registered { memory, piece } = host;
        if from.end > memory.len() || from.start > from.end || offset + from.len() > to.bytes {
            let (host, to) = (memory.len(), to.bytes);
            return Err(Error::Msg(format!("a copy of bytes {from:?} of {host} to {offset} of {to}")));
        }
        self.copies.context().bind_to_thread().map_err(failed("the card"))?;
        let mut at = from.start;
        while at < from.end {
            let end = from.end.min((at / piece + 1) * piece);
            let Some(bytes) = memory.get(at..end) else { break };
            let address = to.address + (offset + at - from.start) as u64;
            // SAFETY: both ranges were checked above and `to` keeps its allocation. The host memory outlives the copy and
            // nobody reads the target during it: the caller's duty, which `memory::HostArena` and `memory::Mark` carry out.
            unsafe { result::memcpy_htod_async(address, bytes, self.copies.cu_stream()) }
                .map_err(failed("a copy to the card"))?;
            at = end;
        }
        Ok(())
    }

    /// Gives the copy stream the blobs of `lane`, the first of them `start` bytes into `host`, and has them unpacked to the
    /// start of `to` behind it. The caller's duties are [`Bus::copy`]'s.
    ///
    /// # Errors
    /// A range outside of either, no room for the slots, a lost card. Nothing of it is under way then.
    pub fn copy_packed(&self, host: Registered<'_>, start: usize, lane: &Lane, to: &Block) -> Result<()> {
        let mut unpacking = self.unpacking();
        let unpacking = match &mut *unpacking {
            Some(unpacking) => unpacking,
            none => none.insert(Unpacking::new(&self.device)?),
        };
        let begun = self.begin_packed(unpacking, host, start, lane, to);
        if begun.is_err() {
            // Half of it may be under way with no event behind it. A lost card says so at the next call.
            let context = self.copies.context();
            context.record_err(self.copies.synchronize());
            context.record_err(unpacking.stream.synchronize());
        }
        begun
    }

    #[allow(unsafe_code)]
    fn begin_packed(
        &self,
        unpacking: &mut Unpacking,
        host: Registered<'_>,
        start: usize,
        lane: &Lane,
        to: &Block,
    ) -> Result<()> {
        let blobs = |range: Range<usize>| start + range.start..start + range.end;
        let (in_place, staged) = (lane.in_place(), lane.staged());
        let Unpacking { stream, slots, next } = unpacking;
        let (Some(offset), Some(slot)) = (lane.offset(), slots.get_mut(*next)) else {
            return Err(Error::Msg(format!("a packed lane of {} bytes cannot unpack", lane.bytes())));
        };
        if lane.bytes() > to.bytes || staged.len() > slot.block.bytes {
            let (bytes, to) = (lane.bytes(), to.bytes);
            return Err(Error::Msg(format!("a packed lane of {bytes} bytes unpacks into {to}")));
        }
        *next = (*next + 1) % SLOTS;
        // Into the lane behind what last unpacked into it, into the slot behind what last unpacked out of it.
        self.behind_unpacking(to)?;
        self.put(host, blobs(in_place), to, offset)?;
        if let Some(read) = &slot.read {
            self.copy_after(read)?;
        }
        self.put(host, blobs(staged), &slot.block, 0)?;
        let copied = Event::behind(&self.copies)?;
        stream.wait(&copied.0).map_err(failed("waiting for a copy"))?;
        for wave in lane.waves() {
            let from = if wave.staged { slot.block.address } else { to.address + offset as u64 };
            // SAFETY: the blobs lie there once `copied` has passed, for which the stream waits; the lane has room, checked
            // above. Waves of a stream follow each other, and none writes where it or a later one reads (`lane`). Later copies
            // into either block wait for `done`, and so does, by way of `mark_copies`, whoever reads or frees the lane.
            unsafe { unpack::unpack(from, &wave, lane.bytes() / 2, to.address, stream) }?;
        }
        let done = Event::behind(stream)?;
        slot.read = Some(done.clone());
        *to.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        Ok(())
    }

    /// An event behind all copies so far, unpacked.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mark_copies(&self) -> Result<Event> {
        let copied = Event::behind(&self.copies)?;
        match &*self.unpacking() {
            // Behind the unpacking, and behind copies that needed none.
            Some(unpacking) => {
                unpacking.stream.wait(&copied.0).map_err(failed("waiting for a copy"))?;
                Event::behind(&unpacking.stream)
            }
            None => Ok(copied),
        }
    }

    /// An event behind all copies so far, not unpacked: main memory has been read.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mark_read(&self) -> Result<Event> {
        Event::behind(&self.copies)
    }

    /// An event behind all copies so far whose time can be read.
    ///
    /// # Errors
    /// The card is lost.
    pub fn time_copies(&self) -> Result<Event> {
        let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.copies.record_event(timed).map(|event| Event(Arc::new(event))).map_err(failed("an event"))
    }

    /// An event behind all computing so far.
    ///
    /// # Errors
    /// The card is lost.
    pub fn mark_compute(&self) -> Result<Event> {
        Event::behind(&self.compute)
    }

    /// Lets later computing wait for `event`.
    ///
    /// # Errors
    /// The card is lost.
    pub fn compute_after(&self, event: &Event) -> Result<()> {
        self.compute.wait(&event.0).map_err(failed("waiting for a copy"))
    }

    /// Lets later copies wait for `event`.
    ///
    /// # Errors
    /// The card is lost.
    pub fn copy_after(&self, event: &Event) -> Result<()> {
        self.copies.wait(&event.0).map_err(failed("waiting for the computing"))
    }
}

/// A point in a stream.
#[derive(Clone)]
pub struct Event(Arc<CudaEvent>);

impl Event {
    fn behind(stream: &CudaStream) -> Result<Self> {
        stream.record_event(None).map(|event| Self(Arc::new(event))).map_err(failed("an event"))
    }

    /// Whether the work before it is done, or failed.
    pub fn has_passed(&self) -> bool {
        let context = self.0.context();
        context.record_err(context.bind_to_thread());
        !matches!(self.0.try_is_complete(), Ok(false))
    }

    /// Seconds on the card from `earlier` to this; `None` unless both have passed and were made to be timed.
    pub fn seconds_since(&self, earlier: &Self) -> Option<f64> {
        if !(self.has_passed() && earlier.has_passed()) {
            return None;
        }
        earlier.0.elapsed_ms(&self.0).ok().map(|milliseconds| f64::from(milliseconds) / 1e3)
    }

    /// Until it is done, or failed.
    pub fn wait(&self) {
        let context = self.0.context();
        context.record_err(self.0.synchronize());
    }
}
