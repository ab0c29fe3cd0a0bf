//! Dense matrices in double precision: eigenvectors of symmetric ones, linear systems and inverses.
//!
//! Knows numbers only. Sums run in one order, whatever the number of threads. Eigenvectors are for the sizes of
//! embeddings, inverses for some thousands of rows; larger matrices want other methods.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{Error, Kind, Result};

/// Rotations stop when what stands beside the diagonal is so small against what stands on it.
const OFF_DIAGONAL: f64 = 1e-18;
/// Sweeps after which a matrix is given up; a dozen is usual.
const MAX_SWEEPS: usize = 60;
/// Columns of Cholesky's factor that are finished together, and columns of an inverse: so many rows of thousands of
/// values stay in a cache.
const BLOCK: usize = 32;

/// Eigenvalues and eigenvectors of a symmetric matrix, in no order: Jacobi's cyclic rotations (Golub and Van Loan,
/// Matrix Computations, 8.5), which are slow for large matrices and exact for small ones.
pub fn eigen(mut a: Vec<Vec<f64>>) -> Vec<(f64, Vec<f64>)> {
    let n = a.len();
    // Row j is the j-th eigenvector, so that rotations work on whole rows.
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..MAX_SWEEPS {
        let (mut off, mut on) = (0.0, 0.0);
        for (i, row) in a.iter().enumerate() {
            on += row[i] * row[i];
            off += row[i + 1..].iter().map(|x| x * x).sum::<f64>();
        }
        if off <= OFF_DIAGONAL * on {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p][q];
                if apq * apq <= OFF_DIAGONAL * (a[p][p] * a[q][q]).abs() / n as f64 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                rotate(&mut a, p, q, c, s);
                rotate(&mut vectors, p, q, c, s);
            }
        }
    }
    vectors.into_iter().enumerate().map(|(i, vector)| (a[i][i], vector)).collect()
}

/// Turns rows `p < q` into each other.
fn rotate(rows: &mut [Vec<f64>], p: usize, q: usize, c: f64, s: f64) {
    let (head, tail) = rows.split_at_mut(q);
    for (x, y) in head[p].iter_mut().zip(&mut tail[0]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

/// The sum of products, in order.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Solves `a · x = b` for a symmetric positive definite `a` by Cholesky's factors. `a` is `[n, n]`, of which the lower
/// half is read; `b` is `[n, m]`, row by row, and becomes `x`.
///
/// # Errors
/// `Kind::Internal` for other shapes, and for a matrix that is not positive definite.
pub fn solve(mut a: Vec<f64>, n: usize, b: &mut [f64], m: usize) -> Result<()> {
    if b.len() != n * m {
        return Err(unsolvable("its parts do not fit together"));
    }
    cholesky(&mut a, n)?;
    substitute(&a, n, 0, b, m);
    Ok(())
}

/// The inverse of a symmetric positive definite `a` by Cholesky's factors: `[n, n]` as `a`, of which the lower half is
/// read, and symmetric to the bit. Takes about `n³` operations on all threads of the pool, and memory for two matrices.
///
/// # Errors
/// `Kind::Internal` for another shape, and for a matrix that is not positive definite.
pub fn inverse(mut a: Vec<f64>, n: usize) -> Result<Vec<f64>> {
    cholesky(&mut a, n)?;
    let mut out = vec![0.0; n * n];
    // Some columns at a time, from their diagonal downwards. They are written as rows, from the diagonal to the right.
    out.par_chunks_mut((BLOCK * n).max(1)).enumerate().with_max_len(1).for_each(|(block, rows)| {
        let (first, width) = (block * BLOCK, rows.len() / n);
        let mut columns = vec![0.0; (n - first) * width];
        (0..width).for_each(|k| columns[k * width + k] = 1.0);
        substitute(&a, n, first, &mut columns, width);
        for (i, values) in columns.chunks_exact(width).enumerate() {
            values.iter().enumerate().for_each(|(k, x)| rows[k * n + first + i] = *x);
        }
    });
    for i in 0..n {
        for j in 0..i {
            out[i * n + j] = out[j * n + i];
        }
    }
    Ok(out)
}

fn unsolvable(why: &str) -> Error {
    Error::new(Kind::Internal, format!("a linear system cannot be solved: {why}"))
}

/// Cholesky's factor of a symmetric positive definite `a`, `[n, n]`, of which the lower half is read. It becomes the
/// factor, and the upper half the factor's transpose, so that both can be read by rows.
fn cholesky(a: &mut [f64], n: usize) -> Result<()> {
    if a.len() != n * n {
        return Err(unsolvable("its parts do not fit together"));
    }
    for first in (0..n).step_by(BLOCK) {
        let end = (first + BLOCK).min(n);
        let (head, tail) = a.split_at_mut(end * n);
        for i in first..end {
            let (above, row) = head.split_at_mut(i * n);
            reduce(row, above, n, first..i);
            let left = row[i] - dot(&row[..i], &row[..i]);
            if left.is_nan() || left <= 0.0 || left.is_infinite() {
                return Err(unsolvable("the matrix is not positive definite"));
            }
            row[i] = left.sqrt();
        }
        // The rows below know nothing of each other.
        let head = &*head;
        tail.par_chunks_exact_mut(n).for_each(|row| reduce(row, head, n, first..end));
    }
    for i in 0..n {
        for j in 0..i {
            a[j * n + i] = a[i * n + j];
        }
    }
    Ok(())
}

/// Finishes `columns` of a row of Cholesky's factor, whose values before them are finished. `above` are the factor's
/// rows of these columns and all before them.
fn reduce(row: &mut [f64], above: &[f64], n: usize, columns: Range<usize>) {
    for j in columns {
        let other = &above[j * n..=j * n + j];
        let (before, rest) = row.split_at_mut(j);
        rest[0] = (rest[0] - dot(before, &other[..j])) / other[j];
    }
}

/// Solves with the factor that [`cholesky`] made: forwards, and back with its transpose. `b` holds rows of `m` values
/// from row `first` on; those before it are zero on the right side, and are not solved for.
fn substitute(a: &[f64], n: usize, first: usize, b: &mut [f64], m: usize) {
    let divide = |b: &mut [f64], i: usize| {
        let diagonal = a[i * n + i];
        b[(i - first) * m..(i - first + 1) * m].iter_mut().for_each(|x| *x /= diagonal);
    };
    for i in first..n {
        for j in first..i {
            subtract(b, i - first, j - first, a[i * n + j], m);
        }
        divide(b, i);
    }
    for i in (first..n).rev() {
        for j in i + 1..n {
            subtract(b, i - first, j - first, a[i * n + j], m);
        }
        divide(b, i);
    }
}

/// Row `i` less `factor` times row `j`, of rows of `m` values.
fn subtract(rows: &mut [f64], i: usize, j: usize, factor: f64, m: usize) {
    let (low, high) = (i.min(j), i.max(j));
    let (head, tail) = rows.split_at_mut(high * m);
    let (low, high) = (&mut head[low * m..(low + 1) * m], &mut tail[..m]);
    let (to, from) = if i < j { (low, high) } else { (high, low) };
    to.iter_mut().zip(from).for_each(|(x, y)| *x -= factor * *y);
}

/// The orthogonal matrix nearest to a square one (its polar factor; Higham, Functions of Matrices, 8): `u` that makes
/// the trace of `uᵀ · m` largest, which is Procrustes' rotation (Schönemann 1966) where `m` is `aᵀ · b`. Directions
/// that `m` says nothing of stay where they are.
///
/// # Errors
/// `Kind::Internal` for a matrix that is not square.
pub fn nearest_rotation(m: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
    let n = m.len();
    if m.iter().any(|row| row.len() != n) {
        return Err(Error::new(Kind::Internal, "only a square matrix has a rotation that is nearest"));
    }
    let size = m.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
    let little = if size > 0.0 { 1e-4 * size } else { 1.0 };
    let mut a = m.to_vec();
    for (i, row) in a.iter_mut().enumerate() {
        row[i] += little;
    }
    let found = eigen(product(&transposed(&a), &a));
    // (aᵀ a)^(-1/2), a sum over its eigenvectors.
    let least = found.iter().map(|(value, _)| *value).fold(0.0, f64::max) * 1e-14;
    let mut root = vec![vec![0.0; n]; n];
    for (value, vector) in found.iter().filter(|(value, _)| *value > least) {
        for (row, x) in root.iter_mut().zip(vector) {
            row.iter_mut().zip(vector).for_each(|(to, y)| *to += x * y / value.sqrt());
        }
    }
    let mut u = product(&a, &root);
    // What rounding has left is taken away: u (3 - uᵀ u) / 2 doubles the number of right digits.
    for _ in 0..3 {
        let mut off = product(&transposed(&u), &u);
        for (i, row) in off.iter_mut().enumerate() {
            row.iter_mut().for_each(|x| *x *= -0.5);
            row[i] += 1.5;
        }
        u = product(&u, &off);
    }
    Ok(u)
}

fn transposed(m: &[Vec<f64>]) -> Vec<Vec<f64>> {
    (0..m.first().map_or(0, Vec::len)).map(|j| m.iter().map(|row| row[j]).collect()).collect()
}

fn product(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let columns = transposed(b);
    a.iter().map(|row| columns.iter().map(|column| dot(row, column)).collect()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::needless_range_loop)]
    use super::*;
    use crate::network::random::Random;

    fn random(rows: usize, n: usize, name: &str) -> Vec<Vec<f64>> {
        let mut random = Random::new(1, name);
        (0..rows).map(|_| (0..n).map(|_| random.normal()).collect()).collect()
    }

    #[test]
    fn eigenvectors_make_the_matrix_again() {
        let n = 24;
        let any = random(n, n, "matrix");
        let matrix: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| any[i][j] + any[j][i]).collect()).collect();
        let found = eigen(matrix.clone());
        for i in 0..n {
            for j in 0..n {
                let again: f64 = found.iter().map(|(value, vector)| value * vector[i] * vector[j]).sum();
                assert!((again - matrix[i][j]).abs() < 1e-9, "{i} {j}: {again} for {}", matrix[i][j]);
                let product = dot(&found[i].1, &found[j].1);
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_system_is_solved() {
        let (n, m) = (7, 3);
        let any = random(n, n, "system");
        let a = product(&transposed(&any), &any);
        let wanted: Vec<f64> = (0..n * m).map(|i| i as f64 - 4.0).collect();
        let mut b = vec![0.0; n * m];
        for i in 0..n {
            for j in 0..n {
                for k in 0..m {
                    b[i * m + k] += a[i][j] * wanted[j * m + k];
                }
            }
        }
        solve(a.concat(), n, &mut b, m).unwrap();
        assert!(b.iter().zip(&wanted).all(|(x, y)| (x - y).abs() < 1e-6), "{b:?}");
        assert!(solve(vec![0.0; 4], 2, &mut [1.0, 1.0], 1).is_err());
        assert!(solve(vec![1.0; 4], 2, &mut [1.0], 1).is_err());
    }

    #[test]
    fn an_inverse_undoes_its_matrix_to_the_same_bits_on_any_number_of_threads() {
        // Neither one block nor whole blocks.
        let n = 2 * BLOCK + 7;
        let any = random(n, n, "inverse");
        let mut a = product(&transposed(&any), &any);
        (0..n).for_each(|i| a[i][i] += 1.0);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| inverse(a.concat(), n).unwrap())
        };
        let found = run(1);
        assert_eq!(found, run(3));
        let rows: Vec<Vec<f64>> = found.chunks_exact(n).map(<[f64]>::to_vec).collect();
        let one = product(&a, &rows);
        for i in 0..n {
            for j in 0..n {
                assert!((one[i][j] - f64::from(u8::from(i == j))).abs() < 1e-9, "{i} {j}: {}", one[i][j]);
                assert_eq!(rows[i][j].to_bits(), rows[j][i].to_bits());
            }
        }
        // A system with the identity on its right side is the same.
        let mut solved: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect();
        solve(a.concat(), n, &mut solved, n).unwrap();
        assert!(solved.iter().zip(&found).all(|(x, y)| (x - y).abs() < 1e-9));
        assert_eq!(inverse(Vec::new(), 0).unwrap(), Vec::<f64>::new());
        assert!(inverse(vec![1.0; 4], 2).is_err(), "of rank one");
        assert!(inverse(vec![1.0; 3], 2).is_err());
    }

    #[test]
    fn a_planted_rotation_is_found() {
        let n = 6;
        let a = random(60, n, "vectors");
        let turn = nearest_rotation(&random(n, n, "turn")).unwrap();
        let turned = product(&a, &turn);
        let found = nearest_rotation(&product(&transposed(&a), &turned)).unwrap();
        for i in 0..n {
            for j in 0..n {
                // The little that is added to the diagonal moves it by as little.
                assert!((found[i][j] - turn[i][j]).abs() < 1e-2, "{found:?} for {turn:?}");
            }
        }
        let same = product(&transposed(&found), &found);
        assert!((0..n).all(|i| (0..n).all(|j| (same[i][j] - f64::from(u8::from(i == j))).abs() < 1e-12)));
        // What says nothing turns nothing.
        let still = nearest_rotation(&[[0.0; 3]; 3].map(|row| row.to_vec())).unwrap();
        assert!((0..3).all(|i| (still[i][i] - 1.0).abs() < 1e-12), "{still:?}");
    }
}
