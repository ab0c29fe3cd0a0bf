//! Content features: the vectors of accepted reasons, pooled for each user and each item.
//!
//! Mean pooling loses nothing against cleverer pooling (R2ec, pooling ablation) and is what KAR and RecXplore use. Knows
//! vectors and record batches; knows nothing of models or files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::error::{Context, Error, Kind, Result};

/// Schema of the pooled vectors: kind, entity_id, embedding (`width` floats).
pub fn pooled_schema(width: usize) -> SchemaRef {
    let item = Arc::new(Field::new("item", DataType::Float32, false));
    Arc::new(Schema::new(vec![
        Field::new("kind", DataType::Utf8, false),
        Field::new("entity_id", DataType::Utf8, false),
        Field::new("embedding", DataType::FixedSizeList(item, width as i32), false),
    ]))
}

/// Pools the vectors of each (kind, entity): their mean, scaled to length 1. Rows come out sorted.
///
/// `rows` are (kind, entity, vector); every vector has `width` values. The sum runs in the order of the rows, so equal
/// input gives equal bits.
pub fn pool(rows: &[(&str, &str, &[f32])], width: usize) -> Result<RecordBatch> {
    let mut sums: BTreeMap<(&str, &str), (Vec<f64>, u32)> = BTreeMap::new();
    for (kind, entity, vector) in rows {
        if vector.len() != width {
            return Err(Error::new(Kind::Internal, "a vector has the wrong width").with("width", vector.len()));
        }
        let (sum, n) = sums.entry((kind, entity)).or_insert_with(|| (vec![0.0; width], 0));
        sum.iter_mut().zip(*vector).for_each(|(s, v)| *s += f64::from(*v));
        *n += 1;
    }
    let mut values = Vec::with_capacity(sums.len() * width);
    for (sum, n) in sums.values() {
        let norm = sum.iter().map(|s| s * s).sum::<f64>().sqrt() / f64::from(*n);
        // Vectors that cancel out have no direction; zero says so without a NaN.
        let scale = if norm > 1e-12 { 1.0 / (norm * f64::from(*n)) } else { 0.0 };
        values.extend(sum.iter().map(|s| (s * scale) as f32));
    }
    let schema = pooled_schema(width);
    let DataType::FixedSizeList(item, _) = schema.field(2).data_type() else {
        return Err(Error::new(Kind::Internal, "a vector is a fixed-size list"));
    };
    let vectors =
        FixedSizeListArray::try_new(item.clone(), width as i32, Arc::new(Float32Array::from(values)) as ArrayRef, None)
            .context(Kind::Internal, || "pooled vectors do not fit their width".into())?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(sums.keys().map(|(kind, _)| *kind))),
        Arc::new(StringArray::from_iter_values(sums.keys().map(|(_, entity)| *entity))),
        Arc::new(vectors),
    ];
    RecordBatch::try_new(schema, columns).context(Kind::Internal, || "pooled vectors do not fit their schema".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    fn vector(batch: &RecordBatch, row: usize) -> Vec<f32> {
        batch.column(2).as_fixed_size_list().value(row).as_primitive::<Float32Type>().values().to_vec()
    }

    #[test]
    fn pools_by_kind_and_entity_to_unit_length() {
        let rows: Vec<(&str, &str, &[f32])> = vec![
            ("item", "b", &[1.0, 0.0]),
            ("item", "a", &[3.0, 4.0]),
            ("item", "b", &[0.0, 1.0]),
            ("history", "a", &[0.0, 2.0]),
        ];
        let batch = pool(&rows, 2).unwrap();
        assert_eq!(batch.num_rows(), 3);
        assert_eq!(batch.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "a", "b"]);
        assert_eq!(vector(&batch, 0), [0.0, 1.0]);
        assert_eq!(vector(&batch, 1), [0.6, 0.8]);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert_eq!(vector(&batch, 2), [half, half]);
    }

    #[test]
    fn opposite_vectors_give_zero_not_nan() {
        let rows: Vec<(&str, &str, &[f32])> = vec![("item", "a", &[1.0]), ("item", "a", &[-1.0])];
        assert_eq!(vector(&pool(&rows, 1).unwrap(), 0), [0.0]);
        assert!(pool(&rows, 2).is_err());
        assert_eq!(pool(&[], 2).unwrap().num_rows(), 0);
    }
}
