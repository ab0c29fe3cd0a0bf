//! Workloads of the CPU kernels whose instructions `ci/instructions.sh` counts: `instructions --list` names them, one a line,
//! `instructions NAME` runs one, on one thread, with AVX2.
//!
//! Compiles the files of `src/kernels/` as they stand and nothing else of curec, so that it builds in seconds. Knows no counts: those
//! stand in `counts.tsv`, and `ci/instructions.py` compares.
//!
//! A count must not depend on the machine. So the instruction set is AVX2 even where there is a better one (Valgrind knows no AVX-512);
//! rayon's pool is the main thread alone; shapes and values are fixed. What libraries of the system do, memory above all, is not
//! counted: callgrind tells it apart.

#![allow(clippy::disallowed_methods, reason = "fences are for the product")]

mod attention;
mod products;
mod rows;

/// curec's own, file by file: as `src/lib.rs` declares them.
#[allow(dead_code, unreachable_pub)]
#[path = "../../../src/kernels"]
mod kernels {
    pub mod isa;
    pub mod arithmetic;
    pub mod tile;
    pub mod narrow;
    pub mod product;
    pub mod rows;
    pub mod norm;
    pub mod activation;
    pub mod softmax;
    pub mod heads;
    pub mod cached_attention;
    pub mod packed_attention;
    pub mod row_attention;
}

use std::hint::black_box;
use std::process::ExitCode;

use rayon::ThreadPoolBuilder;

use crate::kernels::isa::{Isa, Level};

/// What is counted of a workload: the kernel on inputs that are there.
type Work = Box<dyn FnMut()>;

/// A workload's name, and what makes its inputs.
type Workload = (&'static str, fn(Isa) -> Work);

/// The one function whose instructions are counted, with all that it calls.
///
/// The closure is called through a pointer, and what comes of it is looked at: so it is compiled apart from its inputs, whose values
/// the compiler would otherwise know, and this function does not end before it.
#[unsafe(no_mangle)]
#[inline(never)]
fn curec_counted(work: &mut dyn FnMut()) -> bool {
    work();
    black_box(true)
}

/// Numbers in -1..1 that look random and are the same everywhere.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn run(name: &str) -> Result<(), String> {
    let found = all().find(|(known, _)| *known == name);
    let (_, prepare) = found.ok_or_else(|| format!("there is no workload {name:?}; --list names them"))?;
    let avx2 = Isa::available().into_iter().find(|isa| isa.level() == Level::Avx2);
    let isa = avx2.ok_or("this processor has no AVX2 with FMA and F16C")?;
    // The main thread is the pool: nothing is handed over, and nothing waits.
    let pool = ThreadPoolBuilder::new().num_threads(1).use_current_thread();
    pool.build_global().map_err(|e| format!("rayon's pool: {e}"))?;
    let mut work = prepare(black_box(isa));
    curec_counted(&mut *work);
    Ok(())
}

fn all() -> impl Iterator<Item = &'static Workload> {
    products::ALL.iter().chain(attention::ALL).chain(rows::ALL)
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("--list") => {
            all().for_each(|(name, _)| println!("{name}"));
            Ok(())
        }
        Some(name) => run(name),
        None => Err("usage: instructions --list | NAME".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("instructions: {reason}");
            ExitCode::from(2)
        }
    }
}
