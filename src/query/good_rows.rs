//! The filter under queries over an input that may hold bad rows: true for rows that keep the contract.
//!
//! Asks [`judge_column`], as the checks of inputs do, so that queries see exactly the rows that were not counted as bad.
//! Knows contracts; knows nothing of files.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::error::{Error, Kind};
use crate::table::contract::{Column, Contract};
use crate::table::rules::judge_column;

/// Whether a row keeps the contract: `found` are columns with what the files have for them, uncast. `None` where no value
/// can break it.
pub(super) fn is_good(contract: &Contract, found: Vec<(&Column, Expr)>) -> Option<Expr> {
    let (columns, found): (Vec<Column>, Vec<Expr>) = found.into_iter().map(|(c, e)| (c.clone(), e)).unzip();
    let contract = (contract.name.clone(), contract.digest().to_owned());
    (!found.is_empty()).then(|| function(contract, columns).call(found))
}

fn function(contract: (String, String), columns: Vec<Column>) -> ScalarUDF {
    let signature = Signature::new(TypeSignature::Any(columns.len()), Volatility::Immutable);
    ScalarUDF::new_from_impl(GoodRow { contract, columns, signature })
}

const NAME: &str = "keeps_contract";

/// What such a function knows, for one that travels to another process; `None` for any other function.
#[cfg(feature = "cluster")]
pub(super) fn packed(function: &ScalarUDF) -> Option<serde_json::Value> {
    let good = function.inner().downcast_ref::<GoodRow>()?;
    let columns: Vec<serde_json::Value> = good.columns.iter().map(packed_column).collect();
    Some(serde_json::json!({ "contract": good.contract.0, "digest": good.contract.1, "columns": columns }))
}

/// The function again; `None` for what is none.
#[cfg(feature = "cluster")]
pub(super) fn unpacked(name: &str, packed: &serde_json::Value) -> Option<ScalarUDF> {
    let text = |key: &str| Some(packed.get(key)?.as_str()?.to_owned());
    let columns = packed.get("columns").filter(|_| name == NAME)?.as_array()?.iter();
    Some(function((text("contract")?, text("digest")?), columns.map(unpacked_column).collect::<Option<_>>()?))
}

/// What rows are judged by. Numbers stand as their bits: not the last of them may be lost.
#[cfg(feature = "cluster")]
pub(super) fn packed_column(column: &Column) -> serde_json::Value {
    serde_json::json!({
        "name": column.name,
        "type": column.column_type.to_string(),
        "nullable": column.nullable,
        "accept": column.accept,
        "values": column.values,
        "min": column.min.map(f64::to_bits),
        "max": column.max.map(f64::to_bits),
        "finite": column.finite,
        "min_length": column.min_length,
        "epoch": column.epoch.map(|unit| format!("{unit:?}")),
    })
}

#[cfg(feature = "cluster")]
pub(super) fn unpacked_column(packed: &serde_json::Value) -> Option<Column> {
    use arrow::datatypes::TimeUnit;

    use crate::table::column_type::ColumnType;

    let texts = |value: &serde_json::Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let units = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];
    let unit = |name: &str| units.into_iter().find(|unit| format!("{unit:?}") == name);
    Some(Column {
        name: packed.get("name")?.as_str()?.to_owned(),
        column_type: ColumnType::parse(packed.get("type")?.as_str()?)?,
        nullable: packed.get("nullable")?.as_bool()?,
        description: String::new(),
        aliases: Vec::new(),
        accept: texts(packed.get("accept")?)?,
        values: packed.get("values").and_then(texts),
        min: packed.get("min")?.as_u64().map(f64::from_bits),
        max: packed.get("max")?.as_u64().map(f64::from_bits),
        finite: packed.get("finite")?.as_bool()?,
        min_length: packed.get("min_length")?.as_u64().map(|n| n as usize),
        carried: None,
        epoch: packed.get("epoch")?.as_str().and_then(unit),
    })
}

#[derive(Debug)]
struct GoodRow {
    /// Its name and digest.
    contract: (String, String),
    columns: Vec<Column>,
    signature: Signature,
}

impl GoodRow {
    fn identity(&self) -> (&(String, String), Vec<&str>) {
        (&self.contract, self.columns.iter().map(|c| c.name.as_str()).collect())
    }
}

impl PartialEq for GoodRow {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for GoodRow {}

impl Hash for GoodRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl ScalarUDFImpl for GoodRow {
    fn name(&self) -> &str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let mut good = vec![true; args.number_rows];
        for (column, found) in self.columns.iter().zip(args.args) {
            let found = found.into_array(args.number_rows)?;
            let misfit = |_| {
                let error = Error::new(Kind::Input, format!("values do not fit {}", column.column_type))
                    .with("table", &self.contract.0)
                    .with("column", &column.name);
                DataFusionError::External(Box::new(error))
            };
            for (row, _) in judge_column(column, &found).map_err(misfit)?.1 {
                good[row] = false;
            }
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(good))))
    }
}
