//! Instruction sets: which ones there are, which one this processor has, and how a loop is compiled for each of them.
//!
//! The only place that asks the processor. Knows no arithmetic.
//!
//! A new instruction set is a new [`Level`]: a detection here, an arm in `per_isa!`, and a register tile in
//! [`crate::kernels::tile`].

/// Instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 F, and what [`Level::Avx2`] asks for.
    Avx512,
    /// AVX2 with FMA and F16C: x86-64-v3.
    Avx2,
    /// Whatever the compiler makes of plain Rust.
    Portable,
}

impl Level {
    /// Best first.
    const ALL: [Level; 3] = [Level::Avx512, Level::Avx2, Level::Portable];

    fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => std::arch::is_x86_feature_detected!("avx512f") && Level::Avx2.is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("fma")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512 | Level::Avx2 => false,
            Level::Portable => true,
        }
    }
}

/// An instruction set that this processor has: [`Isa::detect`] and [`Isa::available`] alone make one, after asking the
/// processor. Unsafe code relies on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Level);

impl Isa {
    /// The best one of this processor.
    pub fn detect() -> Self {
        Isa(Level::ALL.into_iter().find(|level| level.is_available()).unwrap_or(Level::Portable))
    }

    /// Every one that this processor has, best first.
    pub fn available() -> Vec<Isa> {
        Level::ALL.into_iter().filter(|level| level.is_available()).map(Isa).collect()
    }

    /// Which one it is.
    pub const fn level(self) -> Level {
        self.0
    }

    /// Columns in a panel of packed weights, and positions in a block of cached keys.
    pub const fn panel(self) -> usize {
        match self.0 {
            Level::Avx512 => 32,
            Level::Avx2 | Level::Portable => 16,
        }
    }

    /// Most rows of one register tile.
    pub(crate) const fn tile_rows(self) -> usize {
        match self.0 {
            Level::Avx512 => 12,
            Level::Avx2 => 6,
            Level::Portable => 2,
        }
    }
}

/// For `per_isa!`: the portable version rounds twice, after the multiplication and after the addition.
pub(crate) const ROUNDS_TWICE: bool = false;
/// For `per_isa!`: the portable version uses fused multiply-adds where every processor of the architecture has them.
pub(crate) const FUSES_ON_ARM: bool = cfg!(target_arch = "aarch64");

/// Compiles a body for every instruction set and defines the function that chooses:
///
/// ```text
/// per_isa! { pub(crate) fn NAME = BODY::<PORTABLE>(ARGUMENT: TYPE, ...) -> TYPE }
/// ```
///
/// The function takes an [`Isa`] before the body's own arguments. `BODY<const FMA: bool>` is a plain Rust loop that is
/// `#[inline(always)]`; it runs with `FMA = true` where fused multiply-adds are part of the instruction set, and with
/// `FMA = PORTABLE` elsewhere: one of `ROUNDS_TWICE` and `FUSES_ON_ARM`. They differ because published results of the
/// decoder and of the encoder were made that way.
macro_rules! per_isa {
    (
        $(#[$doc:meta])*
        $vis:vis fn $name:ident = $body:ident::<$portable:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)?
    ) => {
        $(#[$doc])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::kernels::isa::Isa, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $out)? {
                $body::<true>($($arg),*)
            }
            match isa.level() {
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Level::Avx512 => {
                    // SAFETY: an `Isa` of this level exists only where the processor has AVX-512 F and FMA.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::isa::Level::Avx2 => {
                    // SAFETY: an `Isa` of this level exists only where the processor has AVX2 and FMA.
                    unsafe { avx2($($arg),*) }
                }
                _ => $body::<{ $crate::kernels::isa::$portable }>($($arg),*),
            }
        }
    };
}

pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_instruction_set_is_the_first_that_is_available() {
        let all = Isa::available();
        assert_eq!(all.first(), Some(&Isa::detect()));
        assert_eq!(all.last().map(|isa| isa.level()), Some(Level::Portable));
    }
}
