//! CPU kernels on plain slices: matrix products on packed weights, attention on the key-value cache's layout, norms and
//! activations; for AVX-512, AVX2 with FMA, and any other processor, chosen when the program runs.
//!
//! Knows numbers only: no tensors, layers or models. Work is spread over the rayon pool that the caller is in.
//!
//! **Every result depends on its own row only.** Each output of a product is one chain of multiply-adds over `k` in
//! ascending order, whatever the number of rows and whichever tile computes it; norms and softmax sum by lane, counted
//! from the row's start. So a row gives the same bits alone, in a batch, and in chunks.

use rayon::prelude::*;

/// Instruction sets with kernels of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F.
    Avx512,
    /// AVX2 with FMA.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// The best one of this processor.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("fma") {
                return Isa::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }

    /// Every one that this processor can run, best first.
    pub fn available() -> Vec<Isa> {
        match Isa::detect() {
            Isa::Avx512 => vec![Isa::Avx512, Isa::Avx2, Isa::Portable],
            Isa::Avx2 => vec![Isa::Avx2, Isa::Portable],
            Isa::Portable => vec![Isa::Portable],
        }
    }

    /// Columns in a panel of packed weights, and positions in a block of cached keys.
    pub const fn panel(self) -> usize {
        match self {
            Isa::Avx512 => 32,
            Isa::Avx2 | Isa::Portable => 16,
        }
    }

    /// Most rows of one register tile.
    pub(crate) const fn tile_rows(self) -> usize {
        match self {
            Isa::Avx512 => 12,
            Isa::Avx2 => 6,
            Isa::Portable => 2,
        }
    }
}

/// The widest panel of any instruction set.
pub(crate) const MAX_PANEL: usize = 32;
/// How far ahead weights are fetched, in values: one page.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 1024;
/// The highest tile of any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// A pointer that tasks may share; each task writes a part of its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);
// SAFETY: the functions below hand disjoint parts to their tasks, and wait for all of them.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// `offset` must be inside the slice that the pointer was made from.
    #[inline(always)]
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Register tiles
// ---------------------------------------------------------------------------------------------------------------------

/// One tile of a product: `c[i][j] = Σ_k a[i][k] · b[k][j]` for `i < MR` and a panel of columns.
///
/// # Safety
/// `a` must hold `MR` rows of `k` values at a stride of `lda`, `b` `k` rows of a panel at a stride of `ldb`, `c` `MR` rows
/// of a panel at a stride of `ldc`; the processor must have the instruction set.
pub(crate) type Tile =
    unsafe fn(k: usize, a: *const f32, lda: usize, b: *const f32, ldb: usize, c: *mut f32, ldc: usize);

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
unsafe fn tile_avx512<const MR: usize>(
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
    // SAFETY: all offsets are inside what the caller promises.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 2]; MR];
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
            b = b.add(ldb);
        }
        for (i, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(c.add(i * ldc), acc[0]);
            _mm512_storeu_ps(c.add(i * ldc + 16), acc[1]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const MR: usize>(
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
    // SAFETY: all offsets are inside what the caller promises.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; MR];
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
            b = b.add(ldb);
        }
        for (i, acc) in acc.iter().enumerate() {
            _mm256_storeu_ps(c.add(i * ldc), acc[0]);
            _mm256_storeu_ps(c.add(i * ldc + 8), acc[1]);
        }
    }
}

unsafe fn tile_portable<const MR: usize>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
) {
    const NR: usize = Isa::Portable.panel();
    // SAFETY: all offsets are inside what the caller promises.
    unsafe {
        let mut acc = [[0f32; NR]; MR];
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
    macro_rules! by_rows {
        ($f:ident, $($n:literal)*) => {{
            const TILES: &[Tile] = &[$($f::<$n>),*];
            TILES[rows - 1]
        }};
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_rows!(tile_avx512, 1 2 3 4 5 6 7 8 9 10 11 12),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_rows!(tile_avx2, 1 2 3 4 5 6),
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

// ---------------------------------------------------------------------------------------------------------------------
// Matrix products on packed weights
// ---------------------------------------------------------------------------------------------------------------------

/// Where a product goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Overwrites the target.
    Set,
    /// Adds to the target, after the whole sum is made.
    Add,
}

/// Constant weights `[outputs, inputs]`, packed once: panels of columns, each `[inputs][panel]` without gaps.
#[derive(Debug)]
pub struct Packed {
    isa: Isa,
    inputs: usize,
    outputs: usize,
    panels: Vec<f32>,
}

impl Packed {
    /// Packs matrices of `inputs` columns that stand below each other.
    ///
    /// # Panics
    /// Where a part is no multiple of `inputs` long.
    pub fn new(isa: Isa, inputs: usize, parts: &[&[f32]]) -> Self {
        let nr = isa.panel();
        assert!(inputs > 0 && parts.iter().all(|p| p.len().is_multiple_of(inputs)), "weights must be whole rows");
        let rows: Vec<&[f32]> = parts.iter().flat_map(|p| p.chunks_exact(inputs)).collect();
        let mut panels = vec![0f32; rows.len().div_ceil(nr) * nr * inputs];
        panels.par_chunks_mut(nr * inputs).zip(rows.par_chunks(nr)).for_each(|(panel, rows)| {
            for (j, row) in rows.iter().enumerate() {
                for (k, value) in row.iter().enumerate() {
                    panel[k * nr + j] = *value;
                }
            }
        });
        Packed { isa, inputs, outputs: rows.len(), panels }
    }

    /// Packs the transpose of a matrix `[inputs, outputs]`.
    ///
    /// # Panics
    /// Where the matrix is not `inputs` whole rows.
    pub fn transposed(isa: Isa, inputs: usize, matrix: &[f32]) -> Self {
        let nr = isa.panel();
        assert!(inputs > 0 && matrix.len().is_multiple_of(inputs), "a matrix must be whole rows");
        let outputs = matrix.len() / inputs;
        let mut panels = vec![0f32; outputs.div_ceil(nr) * nr * inputs];
        panels.par_chunks_mut(nr * inputs).enumerate().for_each(|(p, panel)| {
            let columns = nr.min(outputs - p * nr);
            for (line, row) in panel.chunks_exact_mut(nr).zip(matrix.chunks_exact(outputs)) {
                line[..columns].copy_from_slice(&row[p * nr..][..columns]);
            }
        });
        Packed { isa, inputs, outputs, panels }
    }

    /// The instructions that it was packed for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Copies one row of the unpacked matrix: for embeddings that are also the output layer.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let nr = self.isa.panel();
        let panel = &self.panels[(row / nr) * nr * self.inputs..][..nr * self.inputs];
        for (k, out) in out.iter_mut().enumerate().take(self.inputs) {
            *out = panel[k * nr + row % nr];
        }
    }

    /// `c = a · Wᵀ + bias`, or added to `c`; `a` is `[m, inputs]`, `c` `[m, outputs]`.
    ///
    /// # Panics
    /// Where a slice has another length.
    pub fn product(&self, a: &[f32], bias: Option<&[f32]>, c: &mut [f32], into: Into) {
        let (k, n, nr) = (self.inputs, self.outputs, self.isa.panel());
        assert!(a.len().is_multiple_of(k), "the input must be whole rows");
        let m = a.len() / k;
        assert!(c.len() == m * n && bias.is_none_or(|b| b.len() == n), "the output must fit");
        if m == 0 {
            return;
        }
        // A block of input rows stays in a core's second-level cache while panels pass by.
        let most = self.isa.tile_rows();
        let block = ((512 * 1024 / 4 / k) / most * most).max(most);
        let blocks = m.div_ceil(block);
        let block = m.div_ceil(blocks);
        let panels = n.div_ceil(nr);
        let c = Shared(c.as_mut_ptr());
        (0..blocks * panels).into_par_iter().for_each(|task| {
            let (first, p) = (task / panels * block, task % panels);
            let rows = block.min(m - first);
            let b = self.panels[p * nr * k..][..nr * k].as_ptr();
            let columns = nr.min(n - p * nr);
            let mut part = [0f32; MAX_TILE_ROWS * MAX_PANEL];
            for_tiles(rows, most, |tile_first, height| {
                let row = first + tile_first;
                let a = &a[row * k..(row + height) * k];
                let direct = columns == nr && bias.is_none() && into == Into::Set;
                // SAFETY: `a` holds `height` rows of `k`; `b` a whole panel; the target is either the tile's own part of
                // `c`, whole panels wide, or `part`; `isa` was detected.
                unsafe {
                    let f = tile(self.isa, height);
                    if direct {
                        return f(k, a.as_ptr(), k, b, nr, c.at(row * n + p * nr), n);
                    }
                    f(k, a.as_ptr(), k, b, nr, part.as_mut_ptr(), nr);
                    for i in 0..height {
                        let target = std::slice::from_raw_parts_mut(c.at((row + i) * n + p * nr), columns);
                        let sum = &mut part[i * nr..i * nr + columns];
                        if let Some(bias) = bias {
                            for (s, b) in sum.iter_mut().zip(&bias[p * nr..]) {
                                *s += b;
                            }
                        }
                        match into {
                            Into::Set => target.copy_from_slice(sum),
                            Into::Add => {
                                for (t, s) in target.iter_mut().zip(sum.iter()) {
                                    *t += *s;
                                }
                            }
                        }
                    }
                }
            });
        });
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Elementwise kernels: plain Rust, compiled once for each instruction set
// ---------------------------------------------------------------------------------------------------------------------

/// Lanes by which sums are made.
const LANES: usize = 32;
/// Values below which spreading work over threads costs more than it brings.
const WORTH_A_TASK: usize = 16 * 1024;

/// Compiles `$body::<FMA>` for every instruction set, and `$name` that chooses.
macro_rules! per_isa {
    ($name:ident, $body:ident, ($($arg:ident: $ty:ty),*) $(-> $out:ty)?) => {
        #[inline]
        pub(crate) fn $name(isa: Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,fma")]
            fn avx512($($arg: $ty),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            match isa {
                // SAFETY: `Isa::detect` and `Isa::available` name only what the processor has.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;

/// `a · b + c`, in one rounding where the processor can.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e to the power of `x`, to about two units in the last place; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Comparisons this way round let NaN through.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, 12_582_912.0);
    let n = shifted - 12_582_912.0;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// Adds up lanes in a fixed order.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum_of_squares_body<const FMA: bool>(x: &[f32]) -> f32 {
    let mut acc = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            acc[i] = fma::<FMA>(chunk[i], chunk[i], acc[i]);
        }
    }
    for (acc, x) in acc.iter_mut().zip(rest) {
        *acc = fma::<FMA>(*x, *x, *acc);
    }
    total(acc)
}

#[inline(always)]
fn norm_rows_body<const FMA: bool>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let scale = 1.0 / (sum_of_squares_body::<FMA>(x) / width as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}
per_isa!(norm_rows, norm_rows_body, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]));

#[inline(always)]
fn swiglu_rows_body<const FMA: bool>(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (both, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = both.split_at(width);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }
}
per_isa!(swiglu_rows, swiglu_rows_body, (gate_up: &[f32], width: usize, out: &mut [f32]));

/// Turns the first `len` scores into exponentials and the rest into zeros; returns the sum.
#[inline(always)]
fn exponentials_body<const FMA: bool>(scores: &mut [f32], len: usize) -> f32 {
    let (scores, rest) = scores.split_at_mut(len);
    rest.fill(0.0);
    let mut most = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (m, s) in most.iter_mut().zip(chunk) {
            *m = if *s > *m { *s } else { *m };
        }
    }
    let most = most.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    let mut acc = [0f32; LANES];
    let mut chunks = scores.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp::<FMA>(chunk[i] - most);
            acc[i] += chunk[i];
        }
    }
    for (acc, s) in acc.iter_mut().zip(chunks.into_remainder()) {
        *s = exp::<FMA>(*s - most);
        *acc += *s;
    }
    total(acc)
}
per_isa!(exponentials, exponentials_body, (scores: &mut [f32], len: usize) -> f32);

/// Root-mean-square norm of every row: `x / √(mean(x²) + eps) · weight`; `x` and `out` are `[n, weight.len()]`.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(x.len() == out.len() && x.len().is_multiple_of(width), "rows must be whole");
    let chunk = rows_per_task(width) * width;
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| norm_rows(isa, x, weight, eps, out));
}

/// `silu(gate) · up` of every row; `gate_up` is `[n, 2 · width]`, gates first, `out` `[n, width]`.
///
/// # Panics
/// Where the slices do not fit each other.
pub fn swiglu(isa: Isa, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(gate_up.len() == 2 * out.len() && out.len().is_multiple_of(width), "rows must be whole");
    let chunk = rows_per_task(width) * width;
    let tasks = out.par_chunks_mut(chunk).zip(gate_up.par_chunks(2 * chunk));
    tasks.for_each(|(out, gate_up)| swiglu_rows(isa, gate_up, width, out));
}

fn rows_per_task(width: usize) -> usize {
    (WORTH_A_TASK / width).max(1)
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention
// ---------------------------------------------------------------------------------------------------------------------

/// How heads lie in a row: first the query heads, then the key heads, then the value heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides `queries`.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
}

impl Heads {
    /// Width of a row of queries, keys and values.
    pub fn row(&self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }
}

/// How one layer's keys and values lie in the cache.
///
/// Keys stand in blocks of [`Isa::panel`] positions, `[slot][head][block][width][position in block]`, so that scores are
/// a product with packed weights; values stand as `[slot][head][position][padded width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheLayout {
    /// The instruction set whose panels it has.
    pub isa: Isa,
    /// Heads of the model.
    pub heads: Heads,
    /// Blocks in a slot.
    pub blocks: usize,
}

impl CacheLayout {
    /// The layout for slots of at least so many positions.
    pub fn new(isa: Isa, heads: Heads, positions: usize) -> Self {
        CacheLayout { isa, heads, blocks: positions.div_ceil(isa.panel()) }
    }

    fn positions(&self) -> usize {
        self.blocks * self.isa.panel()
    }

    fn padded(&self) -> usize {
        self.heads.width.next_multiple_of(self.isa.panel())
    }

    /// Values of one head's keys in one slot.
    pub fn keys_per_head(&self) -> usize {
        self.positions() * self.heads.width
    }

    /// Values of one head's values in one slot.
    pub fn values_per_head(&self) -> usize {
        self.positions() * self.padded()
    }

    /// How much of a head's keys holds the first `len` positions.
    pub fn keys_prefix(&self, len: usize) -> usize {
        len.div_ceil(self.isa.panel()) * self.isa.panel() * self.heads.width
    }

    /// How much of a head's values holds the first `len` positions.
    pub fn values_prefix(&self, len: usize) -> usize {
        len * self.padded()
    }
}

/// A token's place in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Slot.
    pub slot: usize,
    /// Position in the slot.
    pub position: usize,
}

/// Tokens of one row that follow each other: `tokens` rows of the step from `first` on, at `slot` from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Slot.
    pub slot: usize,
    /// Position of the first token.
    pub start: usize,
    /// Row of the first token in the step.
    pub first: usize,
    /// How many tokens.
    pub tokens: usize,
}

/// Cosines and sines of the rotary embedding, `[positions, width / 2]` each.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Half of the head's width.
    pub half: usize,
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

impl Rope {
    /// The table for heads of `width`, positions below `positions`.
    pub fn new(width: usize, positions: usize, theta: f64) -> Self {
        let half = width / 2;
        let angle = |i: usize| {
            // In f32, as the models were trained and as transformers computes it.
            let frequency = 1.0 / theta.powf((2 * (i % half)) as f64 / width as f64);
            f64::from((i / half) as f32 * frequency as f32)
        };
        let cos = (0..positions * half).map(|i| angle(i).cos() as f32).collect();
        let sin = (0..positions * half).map(|i| angle(i).sin() as f32).collect();
        Rope { half, cos, sin }
    }

    #[inline(always)]
    pub(crate) fn turn(&self, head: &mut [f32], position: usize) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }

    /// The other way round: what turning gives back, too.
    #[inline(always)]
    pub(crate) fn turn_back(&self, head: &mut [f32], position: usize) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        let (a, b) = head.split_at_mut(self.half);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            let (x, y) = (*a, *b);
            *a = x * cos + y * sin;
            *b = y * cos - x * sin;
        }
    }
}

/// Norms of the heads of queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// Weight for queries, one head wide.
    pub query: &'a [f32],
    /// Weight for keys, one head wide.
    pub key: &'a [f32],
    /// Epsilon.
    pub eps: f32,
}

/// Norms and turns the queries and keys of a step, and writes keys and values into the cache.
///
/// `qkv` is `[places.len(), heads.row()]`; its queries are changed in place, ready for [`attend`].
///
/// # Panics
/// Where a place lies outside the cache or a slice has another length.
pub fn append(
    layout: &CacheLayout,
    rope: &Rope,
    norms: Option<HeadNorms<'_>>,
    places: &[Place],
    qkv: &mut [f32],
    keys: &mut [f32],
    values: &mut [f32],
) {
    let (heads, nr, padded) = (layout.heads, layout.isa.panel(), layout.padded());
    let (width, row) = (heads.width, heads.row());
    let (per_keys, per_values) = (layout.keys_per_head(), layout.values_per_head());
    assert!(qkv.len() == places.len() * row, "rows must be whole");
    let slots = keys.len() / (per_keys * heads.keys).max(1);
    assert!(values.len() == slots * heads.keys * per_values, "keys and values must have the same slots");
    assert!(places.iter().all(|p| p.slot < slots && p.position < layout.positions()), "places must be in the cache");
    let (keys, values) = (Shared(keys.as_mut_ptr()), Shared(values.as_mut_ptr()));
    let rows = (WORTH_A_TASK / 4 / row).max(1);
    qkv.par_chunks_mut(rows * row).zip(places.par_chunks(rows)).for_each(|(qkv, places)| {
        let mut normed = vec![0f32; width];
        for (qkv, place) in qkv.chunks_exact_mut(row).zip(places) {
            let (turned, new_values) = qkv.split_at_mut((heads.queries + heads.keys) * width);
            for (h, head) in turned.chunks_exact_mut(width).enumerate() {
                if let Some(norms) = norms {
                    let weight = if h < heads.queries { norms.query } else { norms.key };
                    norm_rows(layout.isa, head, weight, norms.eps, &mut normed);
                    head.copy_from_slice(&normed);
                }
                rope.turn(head, place.position);
            }
            let new_keys = &turned[heads.queries * width..];
            for (h, (key, value)) in new_keys.chunks_exact(width).zip(new_values.chunks_exact(width)).enumerate() {
                let head = place.slot * heads.keys + h;
                let block = head * per_keys + place.position / nr * nr * width + place.position % nr;
                let line = head * per_values + place.position * padded;
                // SAFETY: slot and position were checked; a place stands once in a step, so tasks write different parts.
                unsafe {
                    for (d, key) in key.iter().enumerate() {
                        *keys.at(block + d * nr) = *key;
                    }
                    std::ptr::copy_nonoverlapping(value.as_ptr(), values.at(line), width);
                }
            }
        }
    });
}

/// Cuts spans so that their work spreads over threads.
pub fn cut(spans: &[Span]) -> Vec<Span> {
    const PIECE: usize = 32;
    let mut pieces = Vec::with_capacity(spans.len());
    for span in spans {
        for done in (0..span.tokens).step_by(PIECE) {
            pieces.push(Span {
                start: span.start + done,
                first: span.first + done,
                tokens: PIECE.min(span.tokens - done),
                ..*span
            });
        }
    }
    pieces
}

/// Causal attention of a step's queries over the cache, which holds the step's own keys already (see [`append`]).
///
/// `qkv` is `[n, heads.row()]`, `out` `[n, queries · width]`; spans cover every row once.
///
/// # Panics
/// Where a span lies outside the step or the cache, or a slice has another length.
pub fn attend(layout: &CacheLayout, spans: &[Span], qkv: &[f32], keys: &[f32], values: &[f32], out: &mut [f32]) {
    let (heads, nr, padded, isa) = (layout.heads, layout.isa.panel(), layout.padded(), layout.isa);
    let (width, row) = (heads.width, heads.row());
    let group = heads.queries / heads.keys;
    let out_row = heads.queries * width;
    assert!(qkv.len() / row * out_row == out.len() && qkv.len().is_multiple_of(row), "rows must be whole");
    let (per_keys, per_values) = (layout.keys_per_head(), layout.values_per_head());
    let scale = 1.0 / (width as f32).sqrt();
    let n = out.len() / out_row;
    assert!(
        spans.iter().all(|s| s.first + s.tokens <= n && s.start + s.tokens <= layout.positions()),
        "spans must fit"
    );
    let out = Shared(out.as_mut_ptr());
    let most = isa.tile_rows();
    (0..spans.len() * heads.keys).into_par_iter().for_each_init(Vec::<f32>::new, |scratch, task| {
        let (span, h) = (spans[task / heads.keys], task % heads.keys);
        let head = span.slot * heads.keys + h;
        let keys = &keys[head * per_keys..][..per_keys];
        let values = &values[head * per_values..][..per_values];
        // Scores are as wide as whole blocks.
        let widest = (span.start + span.tokens).next_multiple_of(nr);
        // What is read was written before, so what an earlier task left need not be cleared.
        let rows = most.min(span.tokens * group);
        let needed = rows * (width + widest + padded);
        if scratch.len() < needed {
            scratch.resize(needed, 0.0);
        }
        let (queries, scratch) = scratch.split_at_mut(rows * width);
        let (scores, sums) = scratch.split_at_mut(rows * widest);
        // A tile's rows are the group's heads of one token after the other.
        for_tiles(span.tokens * group, most, |first, height| {
            let place = |i: usize| (span.first + (first + i) / group, (first + i) % group);
            let reach = |i: usize| span.start + (first + i) / group + 1;
            for i in 0..height {
                let (token, g) = place(i);
                let query = &qkv[token * row + (h * group + g) * width..][..width];
                for (q, x) in queries[i * width..].iter_mut().zip(query) {
                    *q = x * scale;
                }
            }
            let len = reach(height - 1);
            let f = tile(isa, height);
            for block in 0..len.div_ceil(nr) {
                let keys = &keys[block * nr * width..][..nr * width];
                // SAFETY: a whole block of keys; `height` rows of queries; scores are whole blocks wide.
                unsafe {
                    f(width, queries.as_ptr(), width, keys.as_ptr(), nr, scores[block * nr..].as_mut_ptr(), widest)
                };
            }
            let mut norm = [0f32; MAX_TILE_ROWS];
            for i in 0..height {
                norm[i] = 1.0 / exponentials(isa, &mut scores[i * widest..][..len], reach(i));
            }
            for column in (0..padded).step_by(nr) {
                let values = &values[column..];
                // SAFETY: `len` positions are inside the slot; `column` plus a panel is inside the padded width.
                unsafe {
                    f(len, scores.as_ptr(), widest, values.as_ptr(), padded, sums[column..].as_mut_ptr(), padded)
                };
            }
            for i in 0..height {
                let (token, g) = place(i);
                // SAFETY: spans and heads are disjoint, so this part is the task's own.
                let out =
                    unsafe { std::slice::from_raw_parts_mut(out.at(token * out_row + (h * group + g) * width), width) };
                for (o, s) in out.iter_mut().zip(&sums[i * padded..]) {
                    *o = s * norm[i];
                }
            }
        });
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// Numbers in -1..1 that look random and are the same everywhere.
    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn products_are_right_and_a_row_does_not_depend_on_its_neighbours() {
        for isa in Isa::available() {
            for (k, n) in [(1, 1), (7, 5), (64, 33), (100, 96), (576, 70), (1537, 48)] {
                let (w, bias) = (noise(n * k, 1), noise(n, 2));
                let packed = Packed::new(isa, k, &[&w[..k], &w[k..]]);
                let a = noise(50 * k, 3);
                let mut row = vec![0.0; k];
                packed.row(n / 2, &mut row);
                assert_eq!(row, w[n / 2 * k..][..k], "{isa:?}");
                let alone: Vec<f32> = a
                    .chunks(k)
                    .flat_map(|a| {
                        let mut c = vec![1.0; n];
                        packed.product(a, Some(&bias), &mut c, Into::Set);
                        c
                    })
                    .collect();
                for m in [1, 2, 3, 11, 12, 13, 25, 50] {
                    let mut c = vec![0.5; m * n];
                    packed.product(&a[..m * k], Some(&bias), &mut c, Into::Set);
                    assert!(c.iter().zip(&alone).all(|(x, y)| x.to_bits() == y.to_bits()), "{isa:?} {m} {n} {k}");
                    let mut plain = vec![0.0; m * n];
                    packed.product(&a[..m * k], None, &mut plain, Into::Set);
                    let mut added = vec![2.0; m * n];
                    packed.product(&a[..m * k], None, &mut added, Into::Add);
                    for i in 0..m * n {
                        let (r, j) = (i / n, i % n);
                        let exact: f64 = (0..k).map(|p| f64::from(a[r * k + p]) * f64::from(w[j * k + p])).sum();
                        assert!((f64::from(plain[i]) - exact).abs() < 1e-4, "{isa:?} {m} {n} {k}");
                        assert_eq!(added[i].to_bits(), (2.0 + plain[i]).to_bits());
                        assert_eq!(c[i].to_bits(), (plain[i] + bias[j]).to_bits());
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_are_close_and_keep_nan() {
        for x in [-100.0f32, -87.0, -20.5, -1.0, -1e-6, 0.0, 0.3, 1.0, 10.25, 80.0] {
            for got in [exp::<true>(x), exp::<false>(x)] {
                let want = f64::from(x.max(-87.0)).exp();
                assert!((f64::from(got) / want - 1.0).abs() < 4e-7, "{x}: {got} {want}");
            }
        }
        assert!(exp::<true>(f32::NAN).is_nan());
        assert!(exp::<true>(1000.0).is_finite());
    }

    #[test]
    fn norms_and_activations_are_right() {
        for isa in Isa::available() {
            for width in [1, 8, 31, 64, 100, 576] {
                let (x, w) = (noise(9 * width, 4), noise(width, 5));
                let mut out = vec![0.0; x.len()];
                rms_norm(isa, &x, &w, 1e-5, &mut out);
                for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / width as f64;
                    let scale = 1.0 / (mean + 1e-5).sqrt();
                    for i in 0..width {
                        assert!((f64::from(out[i]) - f64::from(x[i]) * scale * f64::from(w[i])).abs() < 2e-6);
                    }
                }
                let both = noise(2 * 9 * width, 6);
                swiglu(isa, &both, width, &mut out);
                for (both, out) in both.chunks(2 * width).zip(out.chunks(width)) {
                    for i in 0..width {
                        let (g, u) = (f64::from(both[i]), f64::from(both[width + i]));
                        assert!((f64::from(out[i]) - g / (1.0 + (-g).exp()) * u).abs() < 1e-6);
                    }
                }
            }
        }
    }

    /// Attention of one row in f64, from unturned queries, keys and values.
    fn exact(heads: Heads, rope: &Rope, qkv: &[f32]) -> Vec<f64> {
        let (width, row) = (heads.width, heads.row());
        let n = qkv.len() / row;
        let head = |t: usize, h: usize, turn: bool| -> Vec<f64> {
            let mut x = qkv[t * row + h * width..][..width].to_vec();
            if turn {
                rope.turn(&mut x, t);
            }
            x.into_iter().map(f64::from).collect()
        };
        let mut out = Vec::new();
        for t in 0..n {
            for h in 0..heads.queries {
                let kv = h / (heads.queries / heads.keys);
                let q = head(t, h, true);
                let dot = |p: usize| -> f64 {
                    head(p, heads.queries + kv, true).iter().zip(&q).map(|(a, b)| a * b).sum::<f64>()
                        / (width as f64).sqrt()
                };
                let weights: Vec<f64> = (0..=t).map(|p| dot(p).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..width {
                    let value = |p: usize| head(p, heads.queries + heads.keys + kv, false)[d];
                    out.push((0..=t).map(|p| weights[p] * value(p)).sum::<f64>() / total);
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_right_whole_in_chunks_and_beside_others() {
        for isa in Isa::available() {
            for heads in [
                Heads { queries: 9, keys: 3, width: 64 },
                Heads { queries: 4, keys: 1, width: 16 },
                Heads { queries: 2, keys: 2, width: 24 },
            ] {
                let (n, row) = (75, heads.row());
                let layout = CacheLayout::new(isa, heads, 80);
                let rope = Rope::new(heads.width, 80, 10_000.0);
                let qkv = noise(n * row, 7);
                let want = exact(heads, &rope, &qkv);
                let run = |slots: usize, slot: usize, chunks: &[usize]| -> Vec<f32> {
                    // Whatever a slot held before, even what is not a number, must not show.
                    let mut keys = vec![f32::NAN; slots * heads.keys * layout.keys_per_head()];
                    let mut values = vec![f32::NAN; slots * heads.keys * layout.values_per_head()];
                    let (mut out, mut start) = (Vec::new(), 0);
                    for &tokens in chunks {
                        let mut spans = Vec::new();
                        let (mut step, mut places) = (Vec::new(), Vec::new());
                        for s in 0..slots {
                            let tokens = if s == slot { tokens } else { 1 };
                            spans.push(Span { slot: s, start, first: places.len(), tokens });
                            places.extend((0..tokens).map(|i| Place { slot: s, position: start + i }));
                            match s == slot {
                                true => step.extend_from_slice(&qkv[start * row..(start + tokens) * row]),
                                false => step.extend(noise(row, 100 + s as u64)),
                            }
                        }
                        let mut attended = vec![0.0; places.len() * heads.queries * heads.width];
                        append(&layout, &rope, None, &places, &mut step, &mut keys, &mut values);
                        if slots > 1 && start > 0 {
                            // Neighbours of this test have no past; give them some.
                            for s in (0..slots).filter(|s| *s != slot) {
                                let size = heads.keys * layout.keys_per_head();
                                keys[s * size..(s + 1) * size].fill(0.25);
                                let size = heads.keys * layout.values_per_head();
                                values[s * size..(s + 1) * size].fill(0.25);
                            }
                        }
                        attend(&layout, &cut(&spans), &step, &keys, &values, &mut attended);
                        let first = spans[slot].first * heads.queries * heads.width;
                        out.extend_from_slice(&attended[first..][..tokens * heads.queries * heads.width]);
                        start += tokens;
                    }
                    out
                };
                let whole = run(1, 0, &[n]);
                for (got, want) in whole.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?} {heads:?}: {got} {want}");
                }
                for (slots, slot, chunks) in
                    [(1, 0, vec![1; n]), (1, 0, vec![10, 33, 32]), (3, 1, vec![40, 1, 34]), (2, 1, vec![n])]
                {
                    let other = run(slots, slot, &chunks);
                    let same = whole.iter().zip(&other).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && whole.len() == other.len(), "{isa:?} {heads:?} {slots} {chunks:?}");
                }
            }
        }
    }
}
