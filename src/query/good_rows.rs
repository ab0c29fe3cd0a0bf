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
    let signature = Signature::new(TypeSignature::Any(columns.len()), Volatility::Immutable);
    let contract = (contract.name.clone(), contract.digest().to_owned());
    let function = GoodRow { contract, columns, signature };
    (!found.is_empty()).then(|| ScalarUDF::new_from_impl(function).call(found))
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
        "keeps_contract"
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
