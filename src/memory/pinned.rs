//! Main memory for weights: page-aligned, in huge pages, page-locked where there is a card.
//!
//! A card copies from page-locked memory at the bus's speed and without the processor; from other memory at a seventh of
//! it. Knows nothing of tensors. Callers: `store`, `packing`, `passage`.

use candle_core::{Device, Error, Result};
use memmap2::MmapMut;

/// Bytes that one registration locks. Copies must not cross a border between two. A multiple of a huge page.
#[cfg(feature = "cuda")]
pub const PIECE: usize = 64 << 20;

/// Bytes of a huge page, and where memory begins that has room for one: the system gives none where half of it is not ours.
const HUGE: usize = 2 << 20;

/// Zero bytes that become real memory when they are first written.
pub struct HostMemory {
    map: MmapMut,
    /// Bytes of the map before them.
    start: usize,
    bytes: usize,
    #[cfg(feature = "cuda")]
    locked: Option<crate::cuda::bus::Locked>,
}

impl HostMemory {
    /// Reserves `bytes`.
    ///
    /// # Errors
    /// The system has no room.
    pub fn new(bytes: usize) -> Result<Self> {
        let spare = if bytes < HUGE { 0 } else { HUGE };
        // An empty map is an error.
        let map = MmapMut::map_anon((bytes + spare).max(1)).map_err(|error| {
            Error::Msg(format!("{bytes} bytes of main memory for weights: {error}; lower HOST_BUDGET"))
        })?;
        // Locking and copying walk the pages: 512 times fewer. Without them all works, only slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = if spare == 0 { 0 } else { map.as_ptr().align_offset(HUGE).min(spare) };
        Ok(Self {
            map,
            start,
            bytes,
            #[cfg(feature = "cuda")]
            locked: None,
        })
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        self.map.get(self.start..self.start + self.bytes).unwrap_or_default()
    }

    /// All of them, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.get_mut(self.start..self.start + self.bytes).unwrap_or_default()
    }

    /// Forgets all but the first `bytes`. What was never written of the others never became memory.
    pub fn keep(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(bytes);
    }

    /// Page-locks all of it for `device` with several threads, piece by piece; nothing on a CPU. Best done when the
    /// memory has been written.
    ///
    /// # Errors
    /// The system's limit of locked memory, or a lost card.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub fn lock(&mut self, device: &Device, threads: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(device), None) = (device, &self.locked) {
            self.locked = Some(crate::cuda::bus::Locked::new(self.bytes(), PIECE, threads, device)?);
        }
        let _ = (device, threads);
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Drop for HostMemory {
    fn drop(&mut self) {
        // Before the pages go.
        self.locked = None;
    }
}
