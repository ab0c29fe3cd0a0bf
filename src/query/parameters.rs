//! Values for the named parameters of SQL.
//!
//! Knows DataFusion's values. Knows nothing of which parameters there are.

use std::sync::Arc;

use arrow::array::{FixedSizeListArray, Float32Array};
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;

use crate::error::{Error, Kind, Result};
use crate::query::datafusion_error::fail;

/// A value for a named parameter, `$name` in SQL.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// BIGINT.
    Int(i64),
    /// DOUBLE.
    Float(f64),
    /// VARCHAR.
    Text(String),
    /// BOOLEAN.
    Bool(bool),
    /// A timestamp in microseconds since 1970 UTC.
    Timestamp(i64),
    /// A vector of that many zeros, in place of a missing embedding.
    ZeroVector(usize),
}

impl Param {
    /// The value as DataFusion takes it.
    ///
    /// # Errors
    /// `Kind::Internal` for a vector wider than lists can be.
    pub(super) fn value(&self) -> Result<ScalarValue> {
        Ok(match self {
            Param::Int(v) => ScalarValue::Int64(Some(*v)),
            Param::Float(v) => ScalarValue::Float64(Some(*v)),
            Param::Text(v) => ScalarValue::Utf8(Some(v.clone())),
            Param::Bool(v) => ScalarValue::Boolean(Some(*v)),
            Param::Timestamp(v) => ScalarValue::TimestampMicrosecond(Some(*v), Some("UTC".into())),
            Param::ZeroVector(width) => {
                let field = Arc::new(Field::new("item", DataType::Float32, false));
                let width = i32::try_from(*width)
                    .map_err(|_| Error::new(Kind::Internal, format!("a vector cannot be {width} wide")))?;
                let zeros = Arc::new(Float32Array::from(vec![0.0; width.unsigned_abs() as usize]));
                let list = FixedSizeListArray::try_new(field, width, zeros, None)
                    .map_err(|e| fail(e.into(), "a zero vector"))?;
                ScalarValue::FixedSizeList(Arc::new(list))
            }
        })
    }
}
