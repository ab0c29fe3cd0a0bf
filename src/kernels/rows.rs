//! Plain loops over rows: how many make a task, adding and multiplying rows, sums by column.
//!
//! Knows numbers only. Nothing here gains from a version for each instruction set: these loops wait for
//! memory.

use rayon::prelude::*;

/// Values below which spreading work over threads costs more than it brings.
pub(crate) const MIN_TASK: usize = 16 * 1024;
/// Rows in a task of a training kernel.
pub(crate) const TRAINED_ROWS: usize = 16;

/// How many rows of `width` make a task.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (MIN_TASK / width).max(1)
}

/// `target += values`, value by value.
pub(crate) fn add(target: &mut [f32], values: &[f32]) {
    let tasks = target.par_chunks_mut(MIN_TASK).zip(values.par_chunks(MIN_TASK));
    tasks.for_each(|(t, v)| t.iter_mut().zip(v).for_each(|(t, v)| *t += v));
}

/// `target *= values`, value by value.
pub(crate) fn multiply(target: &mut [f32], values: &[f32]) {
    let tasks = target.par_chunks_mut(MIN_TASK).zip(values.par_chunks(MIN_TASK));
    tasks.for_each(|(t, v)| t.iter_mut().zip(v).for_each(|(t, v)| *t *= v));
}

/// Adds one row to every row of `x`; nothing where it is empty.
pub(crate) fn add_to_each(x: &mut [f32], row: &[f32]) {
    if row.is_empty() {
        return;
    }
    x.par_chunks_mut(rows_per_task(row.len()) * row.len()).for_each(|x| {
        for x in x.chunks_exact_mut(row.len()) {
            x.iter_mut().zip(row).for_each(|(x, r)| *x += r);
        }
    });
}

/// Sums by column of `[n, width]`, in the order of the rows, on this thread.
pub(crate) fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in x.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    }
    sums
}

/// Sums of parts, value by value, in the order of the parts.
pub(crate) fn sum_of_parts(parts: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    }
    sums
}

/// Some rows of `x` below each other.
pub(crate) fn select(x: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| x[row * width..(row + 1) * width].iter().copied()).collect()
}

/// Rows added at their places among `of` rows of zeros.
pub(crate) fn spread(x: &[f32], width: usize, rows: &[usize], of: usize) -> Vec<f32> {
    let mut out = vec![0f32; of * width];
    for (row, values) in rows.iter().zip(x.chunks_exact(width)) {
        out[row * width..(row + 1) * width].iter_mut().zip(values).for_each(|(o, v)| *o += v);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_and_put_back() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(select(&x, 2, &[2, 0]), [5.0, 6.0, 1.0, 2.0]);
        assert_eq!(spread(&[5.0, 6.0, 1.0, 2.0], 2, &[2, 0], 3), [1.0, 2.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!(column_sums(&x, 2), [9.0, 12.0]);
        let mut sum = x;
        add_to_each(&mut sum, &[1.0, -1.0]);
        add(&mut sum, &x);
        assert_eq!(sum, [3.0, 3.0, 7.0, 7.0, 11.0, 11.0]);
    }
}
