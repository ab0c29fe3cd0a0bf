//! Content features: whose they are, and the vectors of accepted reasons, pooled for each user and each item.
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

/// Pools the vectors of each entity: their mean, scaled to length 1.
///
/// Vectors must be ordered by entity, so that only one sum is in memory. They are added in order: equal input gives
/// equal bits.
pub struct Pooler {
    width: usize,
    entities: Vec<String>,
    values: Vec<f32>,
    sum: Vec<f64>,
    n: u32,
}

impl Pooler {
    /// A pooler for vectors of `width` values.
    pub fn new(width: usize) -> Pooler {
        Pooler { width, entities: Vec::new(), values: Vec::new(), sum: vec![0.0; width], n: 0 }
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// [`Kind::Internal`] for a vector of another width or an entity that comes out of order.
    pub fn push(&mut self, entity: &str, vector: &[f32]) -> Result<()> {
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
        self.sum.iter_mut().zip(vector).for_each(|(s, v)| *s += f64::from(*v));
        self.n += 1;
        Ok(())
    }

    fn close(&mut self) {
        if self.n == 0 {
            return;
        }
        let norm = self.sum.iter().map(|s| s * s).sum::<f64>().sqrt();
        // Vectors that cancel out have no direction: the result is zero, not NaN.
        let scale = if norm / f64::from(self.n) > 1e-12 { 1.0 / norm } else { 0.0 };
        self.values.extend(self.sum.iter().map(|s| (s * scale) as f32));
        self.sum.fill(0.0);
        self.n = 0;
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
