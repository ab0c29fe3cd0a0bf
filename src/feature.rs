//! Content features: whose they are, and the vectors of reasons and evidence, pooled for each user and each item.
//!
//! Mean pooling performs as well as more complex pooling (R2ec, pooling ablation) and is what KAR and RecXplore use.
//! Knows vectors and record batches; knows nothing of models or files.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Context, Error, Kind, Result};

/// Whose features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entity {
    /// `item_feature`.
    Item,
    /// `user_feature`.
    User,
}

impl Entity {
    /// Both, in the order of their columns.
    pub const ALL: [Entity; 2] = [Entity::Item, Entity::User];

    /// Its name, in Feast's sense too.
    pub fn name(self) -> &'static str {
        match self {
            Entity::Item => "item",
            Entity::User => "user",
        }
    }

    /// The feature table.
    pub fn table(self) -> &'static str {
        match self {
            Entity::Item => "item_feature",
            Entity::User => "user_feature",
        }
    }

    /// The join key.
    pub fn key(self) -> &'static str {
        match self {
            Entity::Item => "item_id",
            Entity::User => "user_id",
        }
    }
}

/// Pools the vectors of each entity: their mean, scaled to length 1. Where they are of several parts, such as reasons and evidence,
/// each part is pooled so by itself and the parts again, so that each counts the same, however many vectors it has.
///
/// Vectors must be ordered by entity, so that only one entity's sums are in memory. They are added in order: equal input gives
/// equal bits.
pub struct Pooler {
    width: usize,
    entities: Vec<String>,
    values: Vec<f32>,
    /// The parts of the last entity, in the order in which they came.
    parts: Vec<Part>,
}

/// The vectors of one part, summed.
struct Part {
    name: String,
    sum: Vec<f64>,
    n: usize,
}

/// The mean of `n` vectors with this sum, scaled to length 1.
fn unit(sum: &[f64], n: usize) -> Vec<f64> {
    let norm = sum.iter().map(|s| s * s).sum::<f64>().sqrt();
    // Vectors that cancel out have no direction: the result is zero, not NaN.
    let scale = if norm / n as f64 > 1e-12 { 1.0 / norm } else { 0.0 };
    sum.iter().map(|s| s * scale).collect()
}

impl Pooler {
    /// A pooler for vectors of `width` values.
    pub fn new(width: usize) -> Pooler {
        Pooler { width, entities: Vec::new(), values: Vec::new(), parts: Vec::new() }
    }

    /// Adds a vector of an entity that has no parts.
    ///
    /// # Errors
    /// As [`Pooler::push_part`].
    pub fn push(&mut self, entity: &str, vector: &[f32]) -> Result<()> {
        self.push_part(entity, "", vector)
    }

    /// Adds a vector of a part of an entity. The parts of an entity may come in any order, but the sum is that of this order.
    ///
    /// # Errors
    /// [`Kind::Internal`] for a vector of another width or an entity that comes out of order.
    pub fn push_part(&mut self, entity: &str, part: &str, vector: &[f32]) -> Result<()> {
        if vector.len() != self.width {
            return Err(Error::new(Kind::Internal, "a vector has the wrong width").with("width", vector.len()));
        }
        match self.entities.last() {
            Some(last) if last == entity => {}
            Some(last) if last.as_str() > entity => {
                return Err(Error::new(Kind::Internal, "vectors are not ordered by entity").with("entity", entity));
            }
            _ => {
                self.close();
                self.entities.push(entity.to_string());
            }
        }
        let at = match self.parts.iter().position(|known| known.name == part) {
            Some(at) => at,
            None => {
                self.parts.push(Part { name: part.to_owned(), sum: vec![0.0; self.width], n: 0 });
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        part.sum.iter_mut().zip(vector).for_each(|(s, v)| *s += f64::from(*v));
        part.n += 1;
        Ok(())
    }

    fn close(&mut self) {
        let parts: Vec<Vec<f64>> = self.parts.iter().map(|part| unit(&part.sum, part.n)).collect();
        self.parts.clear();
        let pooled = match parts.as_slice() {
            [] => return,
            // It is scaled already: once more would change its last bits.
            [alone] => alone.clone(),
            several => {
                let mut sum = vec![0.0; self.width];
                several.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(s, v)| *s += v));
                unit(&sum, several.len())
            }
        };
        self.values.extend(pooled.iter().map(|v| *v as f32));
    }

    /// The columns of pooled vectors of `width` values: entity_id, embedding.
    pub fn schema(width: usize) -> SchemaRef {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let width = i32::try_from(width).unwrap_or(i32::MAX);
        Arc::new(Schema::new(vec![
            Field::new("entity_id", DataType::Utf8, false),
            Field::new("embedding", DataType::FixedSizeList(item, width), false),
        ]))
    }

    /// One row per entity: entity_id, embedding.
    ///
    /// # Errors
    /// [`Kind::Internal`]: a bug, whatever the data.
    pub fn finish(mut self) -> Result<RecordBatch> {
        self.close();
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let width = self.width as i32;
        let values: ArrayRef = Arc::new(Float32Array::from(self.values));
        let vectors = FixedSizeListArray::try_new(item, width, values, None)
            .context(Kind::Internal, || "pooled vectors do not fit their width".into())?;
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(self.entities)), Arc::new(vectors)];
        RecordBatch::try_new(Self::schema(self.width), columns)
            .context(Kind::Internal, || "pooled vectors do not fit their schema".into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    fn pool(width: usize, rows: &[(&str, &[f32])]) -> Result<RecordBatch> {
        let mut pooler = Pooler::new(width);
        rows.iter().try_for_each(|(entity, vector)| pooler.push(entity, vector))?;
        pooler.finish()
    }

    fn vector(batch: &RecordBatch, row: usize) -> Vec<f32> {
        batch.column(1).as_fixed_size_list().value(row).as_primitive::<Float32Type>().values().to_vec()
    }

    #[test]
    fn pools_by_entity_to_unit_length() {
        let batch = pool(2, &[("a", &[3.0, 4.0]), ("b", &[1.0, 0.0]), ("b", &[0.0, 1.0])]).unwrap();
        assert_eq!(batch.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(vector(&batch, 0), [0.6, 0.8]);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(vector(&batch, 1), [half, half]);
    }

    #[test]
    fn parts_count_the_same_however_many_vectors_they_have() {
        fn pooled(rows: &[(&str, &[f32])]) -> Vec<f32> {
            let mut pooler = Pooler::new(2);
            rows.iter().try_for_each(|(part, of)| pooler.push_part("a", part, of)).unwrap();
            vector(&pooler.finish().unwrap(), 0)
        }
        // Three reasons, with long vectors at that, and one text of evidence.
        let three: [(&str, &[f32]); 4] =
            [("r", &[5.0, 0.0]), ("r", &[5.0, 0.0]), ("r", &[5.0, 0.0]), ("e", &[0.0, 1.0])];
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(pooled(&three), [half, half]);
        assert_eq!(pooled(&[three[0], three[3], three[1], three[2]]), [half, half], "a part need not come at once");
        // The mean of both parts as each is pooled alone; reasons that say different things weigh no less.
        let reasons: [(&str, &[f32]); 2] = [("r", &[1.0, 0.0]), ("r", &[0.0, 1.0])];
        let evidence: (&str, &[f32]) = ("e", &[0.6, -0.8]);
        let (one, other) = (pooled(&reasons), pooled(&[evidence]));
        let sum = [one[0] + other[0], one[1] + other[1]];
        let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
        let both = pooled(&[evidence, reasons[0], reasons[1]]);
        assert!(both.iter().zip(sum).all(|(x, y)| (x - y / norm).abs() < 1e-6), "{both:?} {sum:?}");
        // What has one part is what it was without one, to the last bit.
        let plain = vector(&pool(2, &[("a", &[0.1, 0.7]), ("a", &[0.3, 0.2])]).unwrap(), 0);
        assert_eq!(pooled(&[("r", &[0.1, 0.7]), ("r", &[0.3, 0.2])]), plain);
        // A part that cancels out leaves the other one.
        assert_eq!(pooled(&[("r", &[1.0, 0.0]), ("r", &[-1.0, 0.0]), ("e", &[0.0, 2.0])]), [0.0, 1.0]);
        assert_eq!(pooled(&[("r", &[1.0, 0.0]), ("e", &[-1.0, 0.0])]), [0.0, 0.0]);
        // The next entity begins anew.
        let mut pooler = Pooler::new(2);
        for (entity, part, of) in [("a", "r", [1.0, 0.0]), ("b", "r", [0.0, 1.0]), ("b", "e", [0.0, 3.0])] {
            pooler.push_part(entity, part, &of).unwrap();
        }
        let batch = pooler.finish().unwrap();
        assert_eq!((vector(&batch, 0), vector(&batch, 1)), (vec![1.0, 0.0], vec![0.0, 1.0]));
    }

    #[test]
    fn opposite_vectors_give_zero_not_nan() {
        assert_eq!(vector(&pool(1, &[("a", &[1.0]), ("a", &[-1.0])]).unwrap(), 0), [0.0]);
        assert_eq!(pool(2, &[]).unwrap().num_rows(), 0);
    }

    #[test]
    fn wrong_widths_and_orders_are_refused() {
        assert!(pool(2, &[("a", &[1.0])]).is_err());
        assert!(pool(1, &[("b", &[1.0]), ("a", &[1.0])]).is_err());
    }
}
