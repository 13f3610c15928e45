//! The cheapest of a codebook's points around a place, candidates side by side.
//!
//! What an error costs is looked up: for each weight there is a vector with the costs of all digits, which the packed digits
//! of the candidates pick from. Sums go through the weights in their order, as the reference's do.

use super::lanes::{Lanes, MOST_LANES, Mask};
use qconv_formats::block::codebooks::Codebook;

/// A [`Codebook`] made for this search.
pub(super) struct Near {
    /// By place: where its list of candidates begins in units of [`MOST_LANES`], and its length in the lowest 12 bits. 0 where
    /// a point lies.
    places: Vec<u32>,
    /// Packed digits of candidates, lists filled up to [`MOST_LANES`] with their first.
    candidates: Vec<u16>,
    /// By place: the index of the point there.
    indices: Vec<u16>,
}

/// What an error costs in each lane, which is a group of weights: the `i`-th digit stands for `scale * (levels[i] + base)`.
pub(super) struct Costs<'a, F> {
    pub(super) scale: &'a [f32; MOST_LANES],
    pub(super) base: &'a [f32; MOST_LANES],
    /// Repeating after as many lanes as there are digits.
    pub(super) levels: F,
    /// Group after group.
    pub(super) weights: &'a [f32],
    /// How much the weights' errors count.
    pub(super) weighting: &'a [f32],
    /// Weights in a group.
    pub(super) group: usize,
    /// The first weight of a group that is looked at.
    pub(super) first: usize,
}

impl Near {
    pub(super) fn new(book: &Codebook) -> Near {
        let packed = |&index: &u16| {
            let digits = book.points[index as usize][..book.dims].iter();
            digits.rev().fold(0, |packed, &d| packed << book.bits | u16::from(d))
        };
        let mut near = Near { places: vec![0; book.places()], candidates: vec![], indices: vec![0; book.places()] };
        for place in 0..book.places() {
            match book.at(place) {
                Ok(index) => near.indices[place] = index,
                Err([]) => {}
                Err(list) => {
                    near.places[place] = (near.candidates.len() / MOST_LANES) as u32 * 4096 + list.len() as u32;
                    near.candidates.extend(list.iter().map(packed));
                    let filled = near.candidates.len().next_multiple_of(MOST_LANES);
                    near.candidates.resize(filled, packed(&list[0]));
                }
            }
        }
        near
    }

    /// The index of the point with these packed digits.
    pub(super) fn index(&self, packed: f32) -> u16 {
        self.indices[packed as usize]
    }

    /// In each of `lanes`, the packed digits of the point at a place (an integral float) or of the cheapest candidate around;
    /// and which were at their place.
    #[inline(always)]
    pub(super) fn points<F: Lanes, const DIMS: usize, const BITS: u32>(
        &self,
        isa: F::Isa,
        places: F,
        lanes: u32,
        costs: &Costs<F>,
    ) -> (F, u32) {
        let at = F::integer_array(places.integers());
        // First who must look, then the looking: whether a place holds a point is hard to predict.
        let (mut entries, mut exact) = ([0; MOST_LANES], 0);
        for lane in 0..F::LANES {
            entries[lane] = self.places[at[lane] as usize];
            exact |= u32::from(entries[lane] == 0) << lane;
        }
        exact &= lanes;
        let (mut points, mut left) = (places.array(), lanes & !exact);
        while left != 0 {
            let lane = left.trailing_zeros() as usize % F::LANES;
            left &= left - 1;
            let levels = F::all(isa, costs.scale[lane]) * (costs.levels + F::all(isa, costs.base[lane]));
            let at = lane * costs.group + costs.first;
            let (x, w) = (&costs.weights[at..][..DIMS], &costs.weighting[at..][..DIMS]);
            points[lane] = f32::from(self.cheapest::<F, DIMS, BITS>(isa, entries[lane], levels, x, w));
        }
        (F::load(isa, &points), exact)
    }

    /// The first candidate of least cost; the first of all where no cost is a number below the largest.
    #[inline(always)]
    fn cheapest<F: Lanes, const DIMS: usize, const BITS: u32>(
        &self,
        isa: F::Isa,
        entry: u32,
        levels: F,
        x: &[f32],
        w: &[f32],
    ) -> u16 {
        let mut tables = [levels; DIMS];
        for i in 0..DIMS {
            let difference = levels - F::all(isa, x[i]);
            tables[i] = F::all(isa, w[i]) * difference * difference;
        }
        let vectors = (entry as usize % 4096).div_ceil(F::LANES);
        let list = &self.candidates[entry as usize / 4096 * MOST_LANES..][..vectors * F::LANES];
        let one = F::all(isa, 1.0);
        let (mut least, mut vector, mut which) = (F::all(isa, f32::MAX), F::all(isa, 0.0), F::all(isa, 0.0));
        for candidates in list.chunks_exact(F::LANES) {
            let mut digits = F::load_integers(isa, candidates);
            let mut sum = tables[0].at::<BITS>(digits);
            for table in &tables[1..] {
                digits = F::without_low::<BITS>(digits);
                sum = sum + table.at::<BITS>(digits);
            }
            let better = sum.less(least);
            least = sum.or_else(better, least);
            which = vector.or_else(better, which);
            vector = vector + one;
        }
        // The first of the equally cheap.
        let cheapest = -least.negate().largest();
        let mut lanes = least.equals(F::all(isa, cheapest)).bits();
        let mut first = lanes.trailing_zeros() as usize % F::LANES;
        if list.len() > F::LANES {
            let vectors = which.array();
            let position = |lane: usize| small_integer(vectors[lane]) as usize * F::LANES + lane;
            first = position(first);
            lanes &= lanes - 1;
            while lanes != 0 {
                first = first.min(position(lanes.trailing_zeros() as usize % F::LANES));
                lanes &= lanes - 1;
            }
        }
        list[first]
    }
}

/// An integer from 0 up to 2^22 that is a float; quicker than a conversion, which must mind NaN.
#[inline(always)]
fn small_integer(x: f32) -> u32 {
    (x + 8_388_608.0).to_bits() & 0x007f_ffff
}
