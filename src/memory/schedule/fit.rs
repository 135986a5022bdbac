//! Whether each visit fits alone, and which blocks have to be streamed so that it does.

use std::fmt;

use super::{Itinerary, ModelId, Size, Streaming, Visit};
use crate::memory::budget::gib;

/// Slots of a ring: one is computed with while the other is filled.
pub const RING_SLOTS: u64 = 2;

/// What of a model is on the device while it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// Pieces that are resident.
    pub(super) resident: Vec<bool>,
    /// Bytes of a slot; 0 if nothing is streamed.
    pub(super) slot: u64,
}

impl Form {
    fn whole(size: &Size) -> Self {
        Self { resident: vec![true; size.pieces.len()], slot: 0 }
    }

    pub(super) fn ring(&self) -> u64 {
        RING_SLOTS * self.slot
    }

    pub(super) fn streaming(&self, model: ModelId, size: &Size) -> Option<Streaming> {
        if self.slot == 0 {
            return None;
        }
        let pieces: Vec<usize> =
            self.resident.iter().enumerate().filter(|(_, here)| !**here).map(|(index, _)| index).collect();
        let bytes = pieces.iter().filter_map(|index| size.pieces.get(*index)).sum();
        Some(Streaming { model, pieces, bytes, slot: self.slot })
    }
}

/// One model of a visit that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Its name.
    pub model: String,
    /// All of it.
    pub bytes: u64,
    /// What it takes at least: less than all if its blocks can be streamed.
    pub least: u64,
}

/// A visit needs more than there is, even with nothing else on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotFit {
    /// Which visit.
    pub visit: String,
    /// Its models.
    pub needs: Vec<Need>,
    /// What computing takes.
    pub work: u64,
    /// What there is.
    pub budget: u64,
}

impl CannotFit {
    /// The least that would do.
    pub fn least(&self) -> u64 {
        self.needs.iter().map(|need| need.least).sum::<u64>() + self.work
    }
}

impl fmt::Display for CannotFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not fit on the device: ", self.visit)?;
        for need in &self.needs {
            write!(f, "{} {}", need.model, gib(need.bytes))?;
            if need.least < need.bytes {
                write!(f, " ({} with its layers streamed)", gib(need.least))?;
            }
            f.write_str(" + ")?;
        }
        write!(
            f,
            "{} for computing = {} at least; there are {} for weights and computing. ",
            gib(self.work),
            gib(self.least()),
            gib(self.budget)
        )?;
        let weights = self.least().saturating_sub(self.work);
        if weights < self.budget {
            let share = 100 * (self.budget - weights) / self.work.max(1);
            write!(f, "A picture of {share} % of the pixels would fit; so would ")?;
        } else {
            f.write_str("What would help: a quantised model, or ")?;
        }
        write!(f, "{} more memory.", gib(self.least().saturating_sub(self.budget)))
    }
}

impl std::error::Error for CannotFit {}

/// The form of each model: whole, unless a visit does not fit; then the tightest of its visits decides for all of them,
/// so that nothing moves between two visits of one model.
pub(super) fn forms(
    sizes: &[Size],
    itinerary: &Itinerary,
    budget: Option<u64>,
) -> Result<Vec<Form>, Box<CannotFit>> {
    // Most bytes of blocks that may be resident, for each model that must be streamed.
    let mut caps: Vec<Option<u64>> = vec![None; sizes.len()];
    if let Some(budget) = budget {
        for visit in &itinerary.visits {
            squeeze(sizes, visit, budget, &mut caps)?;
        }
    }
    Ok(sizes
        .iter()
        .zip(caps)
        .map(|(size, cap)| match cap {
            Some(cap) => Form { resident: spread(&size.pieces, cap), slot: size.slot },
            None => Form::whole(size),
        })
        .collect())
}

fn squeeze(
    sizes: &[Size],
    visit: &Visit,
    budget: u64,
    caps: &mut [Option<u64>],
) -> Result<(), Box<CannotFit>> {
    let models: Vec<(usize, &Size)> =
        visit.models.iter().filter_map(|id| Some((id.0, sizes.get(id.0)?))).collect();
    let mut need = visit.work + models.iter().map(|(_, size)| size.bytes()).sum::<u64>();
    let mut streamable: Vec<(usize, &Size)> =
        models.iter().copied().filter(|(_, size)| least(size) < size.bytes()).collect();
    streamable.sort_by_key(|(index, size)| (std::cmp::Reverse(size.bytes() - least(size)), *index));
    for (index, size) in streamable {
        if need <= budget {
            break;
        }
        let blocks = size.bytes() - first(size);
        let ring = RING_SLOTS * size.slot;
        let cap = blocks.saturating_sub(need - budget + ring);
        let known = caps.get(index).copied().flatten();
        if let Some(entry) = caps.get_mut(index) {
            *entry = Some(known.map_or(cap, |known| known.min(cap)));
        }
        need = need - blocks + cap + ring;
    }
    if need <= budget {
        return Ok(());
    }
    let needs = models
        .iter()
        .map(|(_, size)| Need { model: size.name.clone(), bytes: size.bytes(), least: least(size) })
        .collect();
    Err(Box::new(CannotFit { visit: visit.label.clone(), needs, work: visit.work, budget }))
}

fn first(size: &Size) -> u64 {
    size.pieces.first().copied().unwrap_or(0)
}

/// With every block streamed, if that helps.
fn least(size: &Size) -> u64 {
    let streamed = first(size) + RING_SLOTS * size.slot;
    if size.slot > 0 { streamed.min(size.bytes()) } else { size.bytes() }
}

/// Which pieces stay if their blocks may take `cap` bytes: as many as fit, the streamed ones evenly between them, so
/// that the bus fills a slot while resident blocks compute.
fn spread(pieces: &[u64], cap: u64) -> Vec<bool> {
    let blocks: u64 = pieces.iter().skip(1).sum();
    let away = 1.0 - cap as f64 / blocks.max(1) as f64;
    let mut resident = vec![true; pieces.len()];
    let mut kept = blocks;
    let mut debt = 0.0;
    for (here, bytes) in resident.iter_mut().zip(pieces).skip(1) {
        debt += away * *bytes as f64;
        if debt >= *bytes as f64 / 2.0 {
            *here = false;
            kept -= bytes;
            debt -= *bytes as f64;
        }
    }
    // Rounding leaves a block too many, or room for one more.
    for index in (1..pieces.len()).rev() {
        let (Some(here), Some(bytes)) = (resident.get_mut(index), pieces.get(index)) else { continue };
        if *here && kept > cap {
            *here = false;
            kept -= bytes;
        }
    }
    for (here, bytes) in resident.iter_mut().zip(pieces).skip(1) {
        if !*here && kept + bytes <= cap {
            *here = true;
            kept += bytes;
        }
    }
    resident
}
