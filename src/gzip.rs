//! Texts that are packed by gzip, told by their first bytes, not by their names.
//!
//! Knows the format, files of several members included. Knows nothing of what texts hold.

use std::io::{BufRead, Error, ErrorKind, Read, Result};

use flate2::bufread::MultiGzDecoder;

/// Whether something that begins like this is packed.
pub fn is_packed(start: &[u8]) -> bool {
    start.starts_with(&[0x1f, 0x8b])
}

/// The plain text of something packed. What is truncated or damaged gives an error that says so, of
/// [`ErrorKind::InvalidData`].
pub fn unpacking<R: BufRead>(packed: R) -> impl Read {
    Unpacking(MultiGzDecoder::new(packed))
}

struct Unpacking<R>(MultiGzDecoder<R>);

impl<R: BufRead> Read for Unpacking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => Error::new(ErrorKind::InvalidData, "its gzip data ends too early"),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                Error::new(ErrorKind::InvalidData, format!("its gzip data is damaged: {e}"))
            }
            _ => e,
        })
    }
}

/// The first `most` bytes of the plain text of something packed, and whether these are all. Of something packed that is
/// not `whole`, what can be told of its beginning.
///
/// # Errors
/// As [`unpacking`].
pub fn beginning(packed: &[u8], whole: bool, most: usize) -> Result<(Vec<u8>, bool)> {
    let mut plain = Vec::new();
    let mut reader = unpacking(packed).take(most as u64 + 1);
    // What was unpacked before an error stays in `plain`.
    let outcome = reader.read_to_end(&mut plain);
    if whole && plain.len() <= most {
        outcome?;
    }
    let is_all = whole && plain.len() <= most;
    plain.truncate(most);
    Ok((plain, is_all))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn text() -> Vec<u8> {
        (0..20_000).flat_map(|i| format!("line {}\n", i * i).into_bytes()).collect()
    }

    #[test]
    fn several_members_are_one_text() {
        let whole = [packed(b"a\n"), packed(b"b\n")].concat();
        assert!(is_packed(&whole) && !is_packed(b"a\n") && !is_packed(b""));
        assert_eq!(beginning(&whole, true, 100).unwrap(), (b"a\nb\n".to_vec(), true));
        assert_eq!(beginning(&whole, true, 3).unwrap(), (b"a\nb".to_vec(), false));
        assert_eq!(beginning(&whole, true, 4).unwrap(), (b"a\nb\n".to_vec(), true));
    }

    #[test]
    fn a_piece_gives_the_beginning_and_a_torn_file_an_error() {
        let (text, whole) = (text(), packed(&text()));
        let (start, is_all) = beginning(&whole[..whole.len() / 2], false, 1 << 20).unwrap();
        assert!(!is_all && start.len() > 1000 && text.starts_with(&start));
        let refused = |bytes: &[u8]| {
            let error = beginning(bytes, true, 1 << 20).unwrap_err();
            assert!(
                error.kind() == ErrorKind::InvalidData && error.to_string().starts_with("its gzip data"),
                "{error}"
            );
        };
        for length in [4, whole.len() / 2, whole.len() - 3] {
            refused(&whole[..length]);
        }
        let mut damaged = whole.clone();
        let end = damaged.len() - 6;
        damaged[end] ^= 0xff;
        refused(&damaged);
        let mut all = Vec::new();
        unpacking(&whole[..]).read_to_end(&mut all).unwrap();
        assert_eq!(all, text);
    }
}
