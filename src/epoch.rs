//! Units in which numbers count the time since 1970 UTC, by the names that job files and commands have for them.
//!
//! Knows names and sizes. Knows no columns and reads no number.

/// A unit of the time since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochUnit {
    /// `s`
    Seconds,
    /// `ms`
    Millis,
    /// `us`
    Micros,
    /// `ns`
    Nanos,
}

impl EpochUnit {
    /// All of them, the longest first.
    pub const ALL: [EpochUnit; 4] = [EpochUnit::Seconds, EpochUnit::Millis, EpochUnit::Micros, EpochUnit::Nanos];

    /// The unit of that name.
    pub fn parse(name: &str) -> Option<EpochUnit> {
        EpochUnit::ALL.into_iter().find(|unit| unit.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            EpochUnit::Seconds => "s",
            EpochUnit::Millis => "ms",
            EpochUnit::Micros => "us",
            EpochUnit::Nanos => "ns",
        }
    }

    /// How many of them make a second.
    pub fn per_second(self) -> f64 {
        match self {
            EpochUnit::Seconds => 1.0,
            EpochUnit::Millis => 1e3,
            EpochUnit::Micros => 1e6,
            EpochUnit::Nanos => 1e9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_have_names_and_sizes() {
        for unit in EpochUnit::ALL {
            assert_eq!(EpochUnit::parse(unit.name()), Some(unit));
        }
        assert_eq!((EpochUnit::parse(""), EpochUnit::parse("S")), (None, None));
        // What an importer multiplies by is exact.
        let factors = EpochUnit::ALL.map(|unit| 1e6 / unit.per_second());
        assert_eq!(factors.map(f64::to_bits), [1e6, 1e3, 1.0, 1e-3].map(f64::to_bits));
    }
}
