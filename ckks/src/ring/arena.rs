//! Memory of large polynomials: a few reservations of address space on huge pages, cut in ranges and used again.
//!
//! Fresh memory is handed out page by page when it is first touched, which costs far more than a pass of arithmetic over it,
//! and limbs of half a megabyte miss the translation cache at every small page. So a range that is given back stays in
//! memory, up to `Arena::idle`, and joins its neighbours; the lowest place that fits is taken first, so that pages at the
//! end of the arena stay unused and can be given back to the system. The arena knows what it holds: that is what a memory
//! budget is checked against.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};
use rayon::prelude::*;

/// Ranges are whole numbers of these.
const UNIT: usize = 16 << 10;
const HUGE_PAGE: usize = 2 << 20;
const SMALL_PAGE: usize = 4 << 10;
const UNITS_OF_PAGE: usize = HUGE_PAGE / UNIT;
/// Bytes by which ranges made one after the other start apart from a whole unit. Loops over several polynomials are at one place
/// of each at a time, and all at a distance of a power of two would compete for the same few places of the caches.
const SKEW: usize = (2 << 10) + 64;
const SKEWS: usize = UNIT / SKEW;
/// Address space that is reserved at a time; memory is taken when it is touched.
const SEGMENT: usize = 1 << 30;
/// Ranges from this many bytes on are worth a place here.
pub(super) const SMALLEST: usize = 256 << 10;
/// The same of ranges that waste nothing.
pub(super) const SMALLEST_PACKED: usize = 32 << 10;
/// Bytes that no one uses but that stay in memory, unless told otherwise.
const IDLE: usize = 1 << 30;

static ARENA: Mutex<Arena> = Mutex::new(Arena::new());

/// What the arena holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In use.
    pub used: u64,
    /// In memory: in use, or touched and kept for later.
    pub resident: u64,
    /// In memory and not to be given back: pages of which a part is in use.
    pub pinned: u64,
}

/// What the process' arena holds now.
pub fn usage() -> Usage {
    with_arena(|arena| arena.usage())
}

/// How many bytes may stay in memory though no polynomial uses them, and beyond which sum of bytes in memory none of them do.
pub fn set_limits(idle: u64, resident: u64) {
    with_arena(|arena| {
        (arena.idle, arena.ceiling) = (idle as usize / UNIT, resident as usize / HUGE_PAGE);
        arena.trim();
    });
}

/// Beyond how many bytes in memory nothing idle is kept; how much may be idle below stays as it is.
pub fn set_ceiling(resident: u64) {
    with_arena(|arena| {
        arena.ceiling = resident as usize / HUGE_PAGE;
        arena.trim();
    });
}

/// Touches memory for polynomials of so many bytes beyond what is in use, as far as the limits allow: the system takes its time to
/// hand out fresh pages, and then does so before a run instead of during it.
pub fn warm(bytes: u64) {
    const PIECE: usize = 16 << 20;
    let allowed = || with_arena(|arena| (arena.used * UNIT + PIECE) / HUGE_PAGE <= arena.ceiling);
    let piece = |_| if allowed() { Range::take(PIECE) } else { None };
    let pieces: Vec<Range> = (0..bytes as usize / PIECE).map_while(piece).collect();
    pieces.into_par_iter().filter(|range| range.clean).for_each(|mut range| {
        for page in range.words_mut().chunks_mut(SMALL_PAGE / size_of::<u64>()) {
            page[0] = 0;
        }
    });
}

fn with_arena<R>(work: impl FnOnce(&mut Arena) -> R) -> R {
    work(&mut ARENA.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Bytes that a range of so many bytes takes here.
pub(super) fn rounded(bytes: usize) -> usize {
    (bytes + (SKEWS - 1) * SKEW).next_multiple_of(UNIT)
}

/// The same of a packed range.
pub(super) fn packed(bytes: usize) -> usize {
    bytes.next_multiple_of(UNIT)
}

/// A range of the arena that has one owner. It goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Range {
    words: NonNull<u64>,
    len: usize,
    place: Place,
    /// Whether it holds zeros, never touched.
    pub(super) clean: bool,
}

/// Where a range is, in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: usize,
    start: usize,
    units: usize,
}

// SAFETY: a range owns the memory it points to, and the words are plain integers.
unsafe impl Send for Range {}
// SAFETY: shared access only reads.
unsafe impl Sync for Range {}

impl Range {
    /// A range of at least so many bytes; none if the system has no address space to give.
    pub(super) fn take(bytes: usize) -> Option<Range> {
        with_arena(|arena| {
            arena.skew = (arena.skew + 1) % SKEWS;
            arena.range(rounded(bytes) / UNIT, arena.skew * SKEW, bytes)
        })
    }

    /// The same without an own start: for what is read from one end to the other, by itself.
    pub(super) fn take_packed(bytes: usize) -> Option<Range> {
        with_arena(|arena| arena.range(packed(bytes) / UNIT, 0, bytes))
    }

    pub(super) fn words(&self) -> &[u64] {
        // SAFETY: the range is mapped readable memory that no other range overlaps, aligned to a cache line, and lives as long as
        // the segment, which is never unmapped.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }

    pub(super) fn words_mut(&mut self) -> &mut [u64] {
        self.clean = false;
        // SAFETY: as in `words`; the exclusive reference to the range is one to its memory.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_ptr(), self.len) }
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        with_arena(|arena| arena.give(self.place));
    }
}

/// A reservation of address space.
struct Segment {
    map: MmapRaw,
    /// Bytes before the first huge page.
    offset: usize,
    /// Free ranges: first unit and number of units. No two touch.
    free: BTreeMap<usize, usize>,
    /// Whether a unit was handed out since its page was last given to the system.
    dirty: Vec<bool>,
    /// Dirty units of each page.
    dirty_of_page: Vec<usize>,
}

impl Segment {
    fn new(bytes: usize) -> Option<Segment> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE);
        let map = MmapOptions::new().len(bytes + HUGE_PAGE).no_reserve_swap().map_anon().ok()?;
        // Advice that is not taken costs speed only.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let map = MmapRaw::from(map);
        let offset = (map.as_ptr() as usize).wrapping_neg() % HUGE_PAGE;
        let (units, pages) = (bytes / UNIT, bytes / HUGE_PAGE);
        let free = BTreeMap::from([(0, units)]);
        Some(Segment { map, offset, free, dirty: vec![false; units], dirty_of_page: vec![0; pages] })
    }

    fn pointer(&self, byte: usize) -> NonNull<u64> {
        // SAFETY: the byte is within the map, which is longer than its units by the offset.
        let pointer = unsafe { self.map.as_mut_ptr().add(self.offset + byte) };
        NonNull::new(pointer.cast()).unwrap_or(NonNull::dangling())
    }

    /// The first free range that is long enough.
    fn take(&mut self, units: usize) -> Option<usize> {
        let (&start, &len) = self.free.iter().find(|(_, len)| **len >= units)?;
        self.free.remove(&start);
        if len > units {
            self.free.insert(start + units, len - units);
        }
        Some(start)
    }

    fn give(&mut self, mut start: usize, mut units: usize) {
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            self.free.remove(&before);
            (start, units) = (before, units + len);
        }
        if let Some(len) = self.free.remove(&(start + units)) {
            units += len;
        }
        self.free.insert(start, units);
    }

    /// Marks units as handed out. How many were not before, and how many pages had none.
    fn mark(&mut self, start: usize, units: usize) -> (usize, usize) {
        let (mut fresh, mut pages) = (0, 0);
        for unit in start..start + units {
            if !std::mem::replace(&mut self.dirty[unit], true) {
                fresh += 1;
                let page = &mut self.dirty_of_page[unit / UNITS_OF_PAGE];
                pages += usize::from(*page == 0);
                *page += 1;
            }
        }
        (fresh, pages)
    }

    /// The last page in use that is all free.
    fn last_idle_page(&self) -> Option<usize> {
        self.free.iter().rev().find_map(|(&start, &units)| {
            let pages = start.div_ceil(UNITS_OF_PAGE)..(start + units) / UNITS_OF_PAGE;
            pages.rev().find(|&page| self.dirty_of_page[page] > 0)
        })
    }

    /// Pages in use that are all free.
    fn idle_pages(&self) -> usize {
        let whole = |(&start, &units): (&usize, &usize)| {
            let pages = start.div_ceil(UNITS_OF_PAGE)..(start + units) / UNITS_OF_PAGE;
            pages.filter(|&page| self.dirty_of_page[page] > 0).count()
        };
        self.free.iter().map(whole).sum()
    }

    /// Gives a free page to the system. How many of its units were dirty.
    fn give_back(&mut self, page: usize) -> Option<usize> {
        #[cfg(target_os = "linux")]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: no range lies on the page, so nothing refers to the memory that becomes zero.
            let done =
                unsafe { self.map.unchecked_advise_range(advice, self.offset + page * HUGE_PAGE, HUGE_PAGE) };
            done.ok()?;
            self.dirty[page * UNITS_OF_PAGE..(page + 1) * UNITS_OF_PAGE].fill(false);
            Some(std::mem::take(&mut self.dirty_of_page[page]))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = page;
            None
        }
    }
}

struct Arena {
    segments: Vec<Segment>,
    /// Units in use.
    used: usize,
    /// Dirty units, in use or not.
    dirty: usize,
    /// Pages with dirty units.
    pages: usize,
    /// Most dirty units that no one uses.
    idle: usize,
    /// Pages beyond which no idle one is kept.
    ceiling: usize,
    /// How far from its unit the last range starts, in [`SKEW`]s.
    skew: usize,
}

impl Arena {
    const fn new() -> Arena {
        let (idle, ceiling) = (IDLE / UNIT, usize::MAX);
        Arena { segments: Vec::new(), used: 0, dirty: 0, pages: 0, idle, ceiling, skew: 0 }
    }

    fn usage(&self) -> Usage {
        let idle: usize = self.segments.iter().map(Segment::idle_pages).sum();
        let [resident, pinned] = [self.pages, self.pages - idle].map(|pages| (pages * HUGE_PAGE) as u64);
        Usage { used: (self.used * UNIT) as u64, resident, pinned }
    }

    /// A range of so many units that begins `offset` bytes after its place.
    fn range(&mut self, units: usize, offset: usize, bytes: usize) -> Option<Range> {
        let (place, clean) = self.take(units)?;
        let words = self.segments[place.segment].pointer(place.start * UNIT + offset);
        Some(Range { words, len: bytes / size_of::<u64>(), place, clean })
    }

    /// A place, and whether it was never touched.
    fn take(&mut self, units: usize) -> Option<(Place, bool)> {
        let found = self.segments.iter_mut().enumerate().find_map(|(i, s)| Some((i, s.take(units)?)));
        let (segment, start) = match found {
            Some(found) => found,
            None => {
                self.segments.push(Segment::new(SEGMENT.max(units * UNIT))?);
                let last = self.segments.len() - 1;
                (last, self.segments[last].take(units)?)
            }
        };
        let (fresh, pages) = self.segments[segment].mark(start, units);
        self.used += units;
        self.dirty += fresh;
        self.pages += pages;
        if pages > 0 {
            self.trim();
        }
        Some((Place { segment, start, units }, fresh == units))
    }

    fn give(&mut self, place: Place) {
        self.segments[place.segment].give(place.start, place.units);
        self.used -= place.units;
        self.trim();
    }

    /// Gives idle pages to the system, the last first, while there are too many.
    fn trim(&mut self) {
        while self.dirty - self.used > self.idle || self.pages > self.ceiling {
            let last = self.segments.iter().enumerate().rev();
            let Some((segment, page)) = last.filter_map(|(i, s)| Some((i, s.last_idle_page()?))).next()
            else {
                return;
            };
            let Some(units) = self.segments[segment].give_back(page) else { return };
            self.dirty -= units;
            self.pages -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_lowest_first_and_join_when_given_back() {
        let mut arena = Arena::new();
        let places: Vec<Place> = [5, 40, 3].into_iter().map(|units| arena.take(units).unwrap().0).collect();
        assert_eq!(places.iter().map(|p| p.start).collect::<Vec<_>>(), [0, 5, 45]);
        let page = HUGE_PAGE as u64;
        assert_eq!(arena.usage(), Usage { used: 48 * UNIT as u64, resident: page, pinned: page });
        arena.give(places[0]);
        arena.give(places[1]);
        assert_eq!(arena.take(45).unwrap(), (Place { segment: 0, start: 0, units: 45 }, false));
        arena.give(places[2]);
        assert_eq!(arena.segments[0].free.len(), 1, "neighbours join");
        let (whole, _) = arena.take(SEGMENT / UNIT + 1).unwrap();
        assert_eq!((whole.segment, arena.segments.len()), (1, 2), "larger than a segment: one of its own");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn idle_pages_go_back_beyond_the_limits_and_come_again_as_zeros() {
        let mut arena = Arena::new();
        arena.idle = UNITS_OF_PAGE;
        let (a, clean) = arena.take(3 * UNITS_OF_PAGE).unwrap();
        assert!(clean);
        let first = arena.segments[0].pointer(2 * HUGE_PAGE);
        // SAFETY: the unit is part of the range just taken.
        unsafe { *first.as_ptr() = 7 };
        arena.give(a);
        let stays = Usage { used: 0, resident: HUGE_PAGE as u64, pinned: 0 };
        assert_eq!(arena.usage(), stays, "one page stays");
        let (b, clean) = arena.take(3 * UNITS_OF_PAGE).unwrap();
        assert!(!clean && b == a);
        // SAFETY: as above.
        assert_eq!(unsafe { *first.as_ptr() }, 0);
        arena.ceiling = 4;
        let (c, _) = arena.take(2 * UNITS_OF_PAGE).unwrap();
        arena.give(b);
        assert_eq!(arena.usage().resident, 3 * HUGE_PAGE as u64);
        arena.ceiling = 2;
        arena.trim();
        assert_eq!(arena.usage().resident, 2 * HUGE_PAGE as u64, "what is in use stays, whatever the limit");
        arena.give(c);
    }

    #[test]
    fn a_range_of_a_thread_can_be_dropped_by_another() {
        let mut range = Range::take(SMALLEST).expect("there is memory");
        range.words_mut().fill(3);
        std::thread::spawn(move || assert!(range.words().iter().all(|&word| word == 3))).join().unwrap();
    }
}
