//! Parquet footers before they are trusted: the Parquet library reserves memory by the counts that a footer states, and
//! recurses as deep as its schema nests, so a damaged one can ask for more than any machine has.
//!
//! Knows the Thrift compact protocol as far as skipping needs it. Knows nothing of what a footer means but where the
//! schema states how many children a column has.

/// Deeper than any footer or schema nests.
const MAX_DEPTH: usize = 64;
/// `FileMetaData.schema`, and in its elements `SchemaElement.num_children`.
const SCHEMA: i64 = 2;
const NUM_CHILDREN: i64 = 5;

/// What a footer states that cannot be; `None` where all counts fit. What is not the compact protocol at all passes:
/// the library refuses it without reserving anything.
pub(crate) fn wild_count(footer: &[u8]) -> Option<String> {
    let mut walk = Walk { bytes: footer, wild: None, children: 0, open: Vec::new() };
    // Where the walk ends early, what it found before is all that the library could have come across.
    let _ = walk.structure(0, Place::File);
    walk.wild
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    File,
    /// An element of a schema of so many.
    Schema(u64),
    Elsewhere,
}

struct Walk<'a> {
    bytes: &'a [u8],
    wild: Option<String>,
    /// Children that the schema's elements have stated so far.
    children: u64,
    /// Of the groups around the next element, children that are still to come.
    open: Vec<u64>,
}

impl Walk<'_> {
    fn skip(&mut self, n: usize) -> Option<()> {
        self.bytes = self.bytes.get(n..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Notes a count of items that is larger than `most`.
    fn count(&mut self, n: u64, most: u64) -> Option<()> {
        if n <= most {
            return Some(());
        }
        self.wild = Some(format!("its footer states {n} items where {most} could be"));
        None
    }

    /// An element of the schema ends, with so many children.
    fn element(&mut self, children: u64) -> Option<()> {
        while self.open.pop_if(|left| *left == 0).is_some() {}
        if let Some(left) = self.open.last_mut() {
            *left -= 1;
        }
        if children > 0 {
            self.open.push(children);
        }
        if self.open.len() > MAX_DEPTH {
            self.wild = Some(format!("its schema nests deeper than {MAX_DEPTH}"));
            return None;
        }
        Some(())
    }

    fn structure(&mut self, depth: usize, place: Place) -> Option<()> {
        let (mut id, mut children) = (0_i64, 0);
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == 0 {
                return if matches!(place, Place::Schema(_)) { self.element(children) } else { Some(()) };
            }
            id = match head >> 4 {
                0 => self.zigzag()?,
                delta => id + i64::from(delta),
            };
            match (place, id, kind) {
                (Place::Schema(elements), NUM_CHILDREN, 5) => {
                    children = u64::try_from(self.zigzag()?).unwrap_or(0);
                    self.children = self.children.saturating_add(children);
                    self.count(self.children, elements)?;
                }
                (Place::File, SCHEMA, _) => self.value(kind, depth, true)?,
                // A field that is a truth value has it in its head.
                (_, _, 1 | 2) => {}
                _ => self.value(kind, depth, false)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize, is_schema: bool) -> Option<()> {
        let depth = (depth < MAX_DEPTH).then_some(depth + 1)?;
        match kind {
            1..=3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let n = self.varint()?;
                self.skip(usize::try_from(n).ok()?)
            }
            9 | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                self.count(n, self.bytes.len() as u64)?;
                let place = if is_schema { Place::Schema(n) } else { Place::Elsewhere };
                (0..n).try_for_each(|_| match head & 0x0f {
                    12 => self.structure(depth, place),
                    kind => self.value(kind, depth, false),
                })
            }
            11 => {
                let n = self.varint()?;
                self.count(n, self.bytes.len() as u64)?;
                let kinds = if n > 0 { self.byte()? } else { 0 };
                (0..n).try_for_each(|_| {
                    self.value(kinds >> 4, depth, false)?;
                    self.value(kinds & 0x0f, depth, false)
                })
            }
            12 => self.structure(depth, Place::Elsewhere),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// version = 1; schema = [{name "a", num_children 0}]; rows = 3; row groups = `groups`
    fn footer(children: u8, groups: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0x1c, 0x48, 1, b'a', 0x15, children, 0, 0x16, 6];
        bytes.extend(groups);
        bytes.push(0);
        bytes
    }

    #[test]
    fn counts_larger_than_the_footer_are_told() {
        assert_eq!(wild_count(&footer(2, &[0x19, 0x0c])), None);
        let said = wild_count(&footer(0x7e, &[0x19, 0x0c])).unwrap();
        assert!(said.contains("63 items where 1"), "{said}");
        let said = wild_count(&footer(2, &[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07])).unwrap();
        assert!(said.contains("2147483647 items where 1"), "{said}");
        // A chain of groups, each in the one before.
        let mut deep = vec![0x15, 2, 0x19, 0xfc, 100];
        deep.extend([0x48, 1, b'a', 0x15, 2, 0].repeat(100));
        assert!(wild_count(&deep).unwrap().contains("deeper than 64"));
        assert_eq!(wild_count(b""), None);
        assert_eq!(wild_count(&[0x1c; 5000]), None);
    }
}
