//! A projection on disk: the maps of items and of users, with what they were made from.
//!
//! ```text
//! projection.json          sizes, settings, encoder, until when it has learned, and the digest of the other
//! maps.safetensors         item.folds, item.whole, item.known; user.folds, user.whole where users have a map
//! project.json             where `curec learn project` has written it: what was measured, and whether the gate holds
//! ```
//!
//! No row of a user is kept in it: of users there are sums over all that were learned from, at least as many as
//! `[projection] least_learned` says, of items digests of their ids. That is no proof that nothing can be told of one of
//! them, as noise on the sums would be. Knows maps; knows nothing of how they are learned or judged.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::project::map::{Affine, CrossFitted};
use crate::whole_folder::replace_folder;

const FORMAT: u32 = 1;
const ABOUT: &str = "projection.json";
const MAPS: &str = "maps.safetensors";
/// How it was learned and judged, where `curec learn project` has put it beside.
pub const RECORD: &str = "project.json";

/// What a projection was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Digest of the sentence encoder whose vectors it maps.
    pub encoder: String,
    /// Items that it has learned from.
    pub items: usize,
    /// Users that it has learned from; 0 where users have no map.
    pub users: usize,
    /// Moment before which the events were that it has learned from, RFC 3339.
    pub learned_before: String,
    /// The version in use whose space it was turned towards, where there was one.
    pub turned_towards: Option<String>,
}

/// `projection.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    /// Of everything else.
    digest: String,
    input: usize,
    output: usize,
    folds: usize,
    of_users: bool,
    maps: String,
    origin: Origin,
}

impl About {
    fn digest(&self) -> Result<String> {
        let About { format, input, output, folds, of_users, maps, origin, .. } = self;
        let all = serde_json::to_vec(&(format, input, output, folds, of_users, maps, origin));
        Ok(digest_of(&all.context(Kind::Internal, || "a projection's description".into())?))
    }
}

/// Maps of items and users into one space.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    item: CrossFitted,
    user: Option<CrossFitted>,
    origin: Origin,
    digest: String,
}

fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

fn broken(what: &str, path: &Path) -> Error {
    Error::new(Kind::Model, what)
        .with("file", path.display())
        .hint("remove the projection's folder and learn it anew with `curec learn project`")
}

/// A tensor's type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

fn tensors_of(name: &str, map: &CrossFitted, into: &mut BTreeMap<String, Tensor>) {
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (rows, columns) = (map.input() + 1, map.output());
    let folds = map.folds().iter().flat_map(|fold| bytes(fold.values())).collect();
    into.insert(format!("{name}.folds"), (Dtype::F32, vec![map.folds().len(), rows, columns], folds));
    into.insert(format!("{name}.whole"), (Dtype::F32, vec![rows, columns], bytes(map.whole().values())));
    if let Some(known) = map.known() {
        let bytes = known.iter().flat_map(|n| n.to_le_bytes()).collect();
        into.insert(format!("{name}.known"), (Dtype::U64, vec![known.len()], bytes));
    }
}

/// Whether the record beside a projection says that its gate does not hold; `false` where there is no record.
///
/// # Errors
/// `Kind::Model` where the record cannot be read.
pub fn has_failed(dir: &Path) -> Result<bool> {
    let at = dir.join(RECORD);
    let bytes = match std::fs::read(&at) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(broken("the projection's record cannot be read", &at).source(e)),
    };
    let record: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| broken("the projection's record cannot be read", &at).source(e))?;
    Ok(record.get("passed") == Some(&serde_json::Value::Bool(false)))
}

impl Projection {
    /// Of maps into one space.
    ///
    /// # Errors
    /// `Kind::Internal` where the maps have different sizes.
    pub fn new(item: CrossFitted, user: Option<CrossFitted>, origin: Origin) -> Result<Projection> {
        let sizes = |map: &CrossFitted| (map.input(), map.output(), map.folds().len());
        if user.as_ref().is_some_and(|user| sizes(user) != sizes(&item)) {
            return Err(Error::new(Kind::Internal, "the maps of items and users do not fit together"));
        }
        let mut made = Projection { item, user, origin, digest: String::new() };
        made.digest = made.about(&made.maps()?)?.digest;
        Ok(made)
    }

    /// The map of items.
    pub fn item(&self) -> &CrossFitted {
        &self.item
    }

    /// The map of users, where it has one.
    pub fn user(&self) -> Option<&CrossFitted> {
        self.user.as_ref()
    }

    /// What it was made from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What it is known by: equal for equal maps of equal origin.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The maps as a safetensors file.
    fn maps(&self) -> Result<Vec<u8>> {
        let failed = || "a projection's maps".to_owned();
        let mut tensors = BTreeMap::new();
        tensors_of("item", &self.item, &mut tensors);
        if let Some(user) = &self.user {
            tensors_of("user", user, &mut tensors);
        }
        let views = tensors.iter().map(|(name, (kind, shape, bytes))| {
            let view = TensorView::new(*kind, shape.clone(), bytes).context(Kind::Internal, failed)?;
            Ok((name.as_str(), view))
        });
        let views: Vec<(&str, TensorView<'_>)> = views.collect::<Result<_>>()?;
        safetensors::serialize(views, None).context(Kind::Internal, failed)
    }

    fn about(&self, maps: &[u8]) -> Result<About> {
        let mut about = About {
            format: FORMAT,
            digest: String::new(),
            input: self.item.input(),
            output: self.item.output(),
            folds: self.item.folds().len(),
            of_users: self.user.is_some(),
            maps: digest_of(maps),
            origin: self.origin.clone(),
        };
        about.digest = about.digest()?;
        Ok(about)
    }

    /// Writes it into a folder, with `more`: further files by name. A projection that is there is replaced. The folder
    /// stands whole or not at all.
    ///
    /// # Errors
    /// `Kind::Usage` where the folder holds something that is no projection; `Kind::Temporary` for the disk's.
    pub fn write(&self, dir: &Path, more: &[(&str, String)]) -> Result<()> {
        let failed = || format!("cannot write the projection `{}`", dir.display());
        let maps = self.maps()?;
        let about = serde_json::to_string_pretty(&self.about(&maps)?).context(Kind::Internal, failed)?;
        replace_folder(dir, "projection", ABOUT, |at| {
            disk::write_whole(&at.join(MAPS), &maps).context(Kind::Temporary, failed)?;
            for (name, text) in more {
                disk::write_whole(&at.join(name), text).context(Kind::Temporary, failed)?;
            }
            disk::write_whole(&at.join(ABOUT), about + "\n").context(Kind::Temporary, failed)
        })
    }

    /// Reads what [`Projection::write`] wrote.
    ///
    /// # Errors
    /// `Kind::Model` where there is none, a file is missing, or one is not what was written.
    pub fn read(dir: &Path) -> Result<Projection> {
        let (path, maps) = (dir.join(ABOUT), dir.join(MAPS));
        let text = std::fs::read(&path).map_err(|e| {
            Error::new(Kind::Model, "there is no projection here")
                .with("file", path.display())
                .hint("`curec learn project` makes one, into the folder projection of the weekly file's `out`")
                .source(e)
        })?;
        let about: About = serde_json::from_slice(&text)
            .map_err(|e| broken("the projection's description cannot be read", &path).source(e))?;
        if about.format != FORMAT {
            let error = broken("the projection was written by another version", &path);
            return Err(error.with("format", about.format));
        }
        if about.digest()? != about.digest {
            return Err(broken("the projection's description was changed after it was written", &path));
        }
        let bytes = std::fs::read(&maps).map_err(|e| broken("the projection's maps are missing", &maps).source(e))?;
        if digest_of(&bytes) != about.maps {
            return Err(broken("the projection's maps are not what was written", &maps));
        }
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| broken("the projection's maps cannot be read", &maps).source(e))?;
        let of = |name: &str| map_of(&file, name, &about).map_err(|e| e.with("file", maps.display()));
        let (item, user) = (of("item")?, if about.of_users { Some(of("user")?) } else { None });
        Ok(Projection { item, user, digest: about.digest.clone(), origin: about.origin })
    }
}

fn map_of(file: &SafeTensors<'_>, name: &str, about: &About) -> Result<CrossFitted> {
    let failed = || "the projection's maps cannot be read".to_owned();
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|v| v.try_into().map_or(f32::NAN, f32::from_le_bytes)).collect()
    };
    let affine = |values: &[f32]| Affine::new(about.input, about.output, values.to_vec());
    let of = |what: &str| file.tensor(&format!("{name}.{what}")).context(Kind::Model, failed);
    let folds = floats(of("folds")?.data());
    let size = ((about.input + 1) * about.output).max(1);
    let folds = folds.chunks(size).map(affine).collect::<Result<Vec<_>>>()?;
    let whole = affine(&floats(of("whole")?.data()))?;
    let known = match file.tensor(&format!("{name}.known")) {
        Ok(known) => {
            let number = |v: &[u8]| v.try_into().map_or(0, u64::from_le_bytes);
            Some(known.data().chunks_exact(8).map(number).collect())
        }
        Err(_) => None,
    };
    if folds.len() != about.folds {
        return Err(Error::new(Kind::Model, failed()));
    }
    CrossFitted::of(folds, whole, known)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::project::map::Row;
    use crate::project::space::WIDTH;

    /// A projection of vectors of `input` values for the encoder of a digest.
    pub(crate) fn any(input: usize, encoder: &str, with_users: bool) -> Projection {
        let ids: Vec<String> = (0..20).map(|i| format!("i{i:02}")).collect();
        let texts: Vec<Vec<f32>> =
            (0..20).map(|i| (0..input).map(|j| ((i * 7 + j * 3) % 11) as f32 / 11.0).collect()).collect();
        let targets: Vec<Vec<f64>> =
            (0..20).map(|i| (0..WIDTH).map(|j| ((i * 5 + j) % 13) as f64 / 13.0 - 0.5).collect()).collect();
        let all = ids.iter().zip(&texts).zip(&targets);
        let rows: Vec<Row<'_>> = all.map(|((id, text), target)| Row { id, text, target, weight: 1.0 }).collect();
        let origin = Origin {
            encoder: encoder.to_owned(),
            items: 20,
            users: if with_users { 20 } else { 0 },
            learned_before: "2026-01-01T00:00:00+00:00".to_owned(),
            turned_towards: None,
        };
        let fit = |is_new_told| CrossFitted::fit(&rows, 3, 0.3, is_new_told).unwrap();
        Projection::new(fit(true), with_users.then(|| fit(false)), origin).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        for (name, with_users) in [("both", true), ("items", false)] {
            let (made, at) = (any(6, "e", with_users), root.path().join(name));
            any(6, "before", true).write(&at, &[]).unwrap();
            made.write(&at, &[("more.json", "{}\n".to_owned())]).unwrap();
            assert!(at.join("more.json").exists());
            assert_eq!(Projection::read(&at).unwrap(), made);
            assert_eq!(any(6, "e", with_users).digest(), made.digest());
            assert_ne!(any(6, "f", with_users).digest(), made.digest());
        }
        assert!(Projection::read(root.path()).unwrap_err().explain().contains("there is no projection here"));
        std::fs::create_dir(root.path().join("other")).unwrap();
        std::fs::write(root.path().join("other/file"), "").unwrap();
        assert_eq!(any(6, "e", true).write(&root.path().join("other"), &[]).unwrap_err().kind(), Kind::Usage);
        assert!(root.path().join("other/file").exists());
    }

    #[test]
    fn a_record_tells_whether_the_gate_holds() {
        let root = tempfile::tempdir().unwrap();
        assert!(!has_failed(root.path()).unwrap());
        for (record, wanted) in [("{\"passed\": true}", false), ("{\"passed\": false}", true), ("{}", false)] {
            std::fs::write(root.path().join(RECORD), record).unwrap();
            assert_eq!(has_failed(root.path()).unwrap(), wanted, "{record}");
        }
        std::fs::write(root.path().join(RECORD), "{").unwrap();
        assert!(has_failed(root.path()).unwrap_err().explain().contains("record cannot be read"));
    }

    #[test]
    fn damage_is_told() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().join("p");
        any(6, "e", true).write(&at, &[]).unwrap();
        let text = std::fs::read_to_string(at.join(ABOUT)).unwrap();
        std::fs::write(at.join(ABOUT), text.replace("\"items\": 20", "\"items\": 21")).unwrap();
        assert!(Projection::read(&at).unwrap_err().explain().contains("was changed"));
        std::fs::write(at.join(ABOUT), text).unwrap();
        let mut maps = std::fs::read(at.join(MAPS)).unwrap();
        *maps.last_mut().unwrap() ^= 1;
        std::fs::write(at.join(MAPS), maps).unwrap();
        assert!(Projection::read(&at).unwrap_err().explain().contains("not what was written"));
    }
}
