//! The contracts of `schemas/`, the table definitions of `sql/` and the saved queries of `sql/queries/`, as the build script
//! found them.
//!
//! Knows names and texts; knows nothing of what they mean.

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

/// The text of a name in one of the lists.
pub(crate) fn text(list: &'static [(&'static str, &'static str)], name: &str) -> Option<&'static str> {
    list.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
