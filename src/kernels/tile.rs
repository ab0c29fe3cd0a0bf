//! Register tiles: the innermost part of every matrix product and of attention by products.
//!
//! Knows pointers and strides. A tile is written for one instruction set; [`tile`] chooses. Each output is one chain of
//! multiply-adds over `k` in ascending order, whatever the height of the tile.

use crate::kernels::isa::{Isa, Level};

/// The widest panel of any instruction set.
pub(crate) const MAX_PANEL: usize = 32;
/// The highest tile of any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;
/// The panel of [`Level::Portable`].
const PORTABLE_PANEL: usize = 16;
/// How far ahead weights are fetched, in values: one page.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1024;

/// A pointer to a slice that tasks share; each task writes a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);
// SAFETY: a `Shared` gives out no more than addresses; whoever writes there promises in `Shared::at` and `Shared::part`
// that no other thread uses the same values.
unsafe impl Send for Shared {}
// SAFETY: as for `Send`.
unsafe impl Sync for Shared {}

impl Shared {
    /// Shares a slice; who does so waits for all tasks before the slice is used again.
    pub(crate) fn new(slice: &mut [f32]) -> Self {
        Shared(slice.as_mut_ptr())
    }

    /// The address of one value.
    ///
    /// # Safety
    /// `offset` must lie inside the slice that was shared, which must still be borrowed. What is written there must not
    /// be used by another task.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller promises that the offset lies inside the slice.
        unsafe { self.0.add(offset) }
    }

    /// `length` values from `offset` on.
    ///
    /// # Safety
    /// They must lie inside the slice that was shared, which must still be borrowed. No other task may use them
    /// meanwhile, and the caller must ask for none of them twice at a time.
    #[inline(always)]
    pub(crate) unsafe fn part<'a>(self, offset: usize, length: usize) -> &'a mut [f32] {
        // SAFETY: the caller promises that the part lies inside the slice and is its own.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), length) }
    }
}

/// One tile of a product: `c[i][j] = Σ_k a[i][k] · b[k][j]` for `i < MR` and a panel of columns; with `ON` the sums go on from
/// what stands in `c`.
///
/// # Safety
/// `a` must hold `MR` rows of `k` values at a stride of `lda`, `b` `k` rows of a panel at a stride of `ldb`, `c` `MR`
/// rows of a panel at a stride of `ldc`; nothing else may read or write `c` meanwhile; the processor must have the
/// instruction set, which it has where an [`Isa`] says so.
pub(crate) type Tile =
    unsafe fn(k: usize, a: *const f32, lda: usize, b: *const f32, ldb: usize, c: *mut f32, ldc: usize);

/// The tile of AVX-512: panels of two registers.
///
/// # Safety
/// As for [`Tile`]; the processor must have AVX-512 F and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
unsafe fn tile_avx512<const MR: usize, const ON: bool>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    // SAFETY: the caller promises `k` rows of 32 values in `b`, `MR` rows of `k` in `a` and of 32 in `c`: all that is
    // read and written. Addresses beyond `b` (what is fetched ahead, and the row after the last) are never
    // dereferenced.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; MR];
        if ON {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm512_loadu_ps(c.add(i * ldc)), _mm512_loadu_ps(c.add(i * ldc + 16))];
            }
        }
        let mut b = b;
        for p in 0..k {
            // With so much arithmetic for each line the processor's own prefetching starts too late.
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD + 16).cast());
            let b0 = _mm512_loadu_ps(b);
            let b1 = _mm512_loadu_ps(b.add(16));
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*a.add(i * lda + p));
                acc[0] = _mm512_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm512_fmadd_ps(x, b1, acc[1]);
            }
            b = b.wrapping_add(ldb);
        }
        for (i, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * ldc), acc[0]);
            _mm512_storeu_ps(c.add(i * ldc + 16), acc[1]);
        }
    }
}

/// The tile of AVX2: panels of two registers.
///
/// # Safety
/// As for [`Tile`]; the processor must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const MR: usize, const ON: bool>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
) {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };
    // SAFETY: the caller promises `k` rows of 16 values in `b`, `MR` rows of `k` in `a` and of 16 in `c`: all that is
    // read and written. Addresses beyond `b` (what is fetched ahead, and the row after the last) are never
    // dereferenced.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; MR];
        if ON {
            for (i, acc) in acc.iter_mut().enumerate() {
                *acc = [_mm256_loadu_ps(c.add(i * ldc)), _mm256_loadu_ps(c.add(i * ldc + 8))];
            }
        }
        let mut b = b;
        for p in 0..k {
            _mm_prefetch::<_MM_HINT_T0>(b.wrapping_add(AHEAD).cast());
            let b0 = _mm256_loadu_ps(b);
            let b1 = _mm256_loadu_ps(b.add(8));
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*a.add(i * lda + p));
                acc[0] = _mm256_fmadd_ps(x, b0, acc[0]);
                acc[1] = _mm256_fmadd_ps(x, b1, acc[1]);
            }
            b = b.wrapping_add(ldb);
        }
        for (i, acc) in acc.iter().enumerate() {
            _mm256_storeu_ps(c.add(i * ldc), acc[0]);
            _mm256_storeu_ps(c.add(i * ldc + 8), acc[1]);
        }
    }
}

/// The tile of any processor; multiplication and addition round on their own.
///
/// # Safety
/// As for [`Tile`].
unsafe fn tile_portable<const MR: usize, const ON: bool>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
) {
    const NR: usize = PORTABLE_PANEL;
    // SAFETY: the caller promises `k` rows of a panel in `b`, `MR` rows of `k` in `a` and of a panel in `c`, which
    // nothing else uses meanwhile.
    unsafe {
        let mut acc = [[0f32; NR]; MR];
        if ON {
            for (i, acc) in acc.iter_mut().enumerate() {
                acc.copy_from_slice(std::slice::from_raw_parts(c.add(i * ldc), NR));
            }
        }
        for p in 0..k {
            let b = std::slice::from_raw_parts(b.add(p * ldb), NR);
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = *a.add(i * lda + p);
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc += x * b;
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            std::slice::from_raw_parts_mut(c.add(i * ldc), NR).copy_from_slice(acc);
        }
    }
}

/// The tile of `rows` rows, at most [`Isa::tile_rows`].
#[inline]
pub(crate) fn tile(isa: Isa, rows: usize) -> Tile {
    chosen::<false>(isa, rows)
}

/// The same, going on from the sums that stand in `c`: as if the rows of `b` before these had been its own.
#[inline]
pub(crate) fn tile_onto(isa: Isa, rows: usize) -> Tile {
    chosen::<true>(isa, rows)
}

#[inline]
fn chosen<const ON: bool>(isa: Isa, rows: usize) -> Tile {
    macro_rules! by_rows {
        ($f:ident, $($n:literal)*) => {{
            let tiles: &[Tile] = &[$($f::<$n, ON>),*];
            tiles[rows - 1]
        }};
    }
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => by_rows!(tile_avx512, 1 2 3 4 5 6 7 8 9 10 11 12),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => by_rows!(tile_avx2, 1 2 3 4 5 6),
        _ => by_rows!(tile_portable, 1 2),
    }
}

/// Cuts `rows` into tiles of nearly equal height, none above `most`; calls `f(first, height)`.
#[inline]
pub(crate) fn for_tiles(rows: usize, most: usize, mut f: impl FnMut(usize, usize)) {
    let count = rows.div_ceil(most);
    let mut first = 0;
    for i in 0..count {
        let height = (rows - first).div_ceil(count - i);
        f(first, height);
        first += height;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_hold_the_largest_tile() {
        for isa in Isa::available() {
            assert!(isa.panel() <= MAX_PANEL && isa.tile_rows() <= MAX_TILE_ROWS, "{isa:?}");
            assert!(isa.level() != Level::Portable || isa.panel() == PORTABLE_PANEL);
        }
    }
}
