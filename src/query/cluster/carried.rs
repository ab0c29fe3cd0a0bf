//! How functions travel with a plan: those that hold more than their name tells take it with them, all others are known by
//! their names wherever the plan arrives. Aggregates hold nothing: what they are called with stands in the plan.
//!
//! Knows the functions of queries; of others only that somebody packs them. Everything else of a plan is Ballista's business.

use std::fmt::Debug;
use std::sync::Arc;

use ballista_core::serde::{BallistaCodec, BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::query::cluster::apart::{self, Work};
use crate::query::{event_meaning, good_rows, labelled};

/// A function of rows, for those who carry it and need not call it.
pub type ScalarFunction = ScalarUDF;

/// Packs functions that queries know nothing of.
pub trait Carrier: Debug + Send + Sync {
    /// The functions that every process knows by their names.
    fn known(&self) -> Vec<ScalarUDF>;

    /// What a function holds; `None` where its name is enough.
    ///
    /// # Errors
    /// Where what it holds cannot travel.
    fn pack(&self, function: &ScalarUDF) -> Result<Option<Vec<u8>>>;

    /// The function of that name again; `None` where the carrier packs none of that name.
    ///
    /// # Errors
    /// Where what it holds cannot be had here.
    fn unpack(&self, name: &str, packed: &[u8]) -> Result<Option<ScalarUDF>>;

    /// The work on parts of rows that a text names; `None` where this process does none.
    ///
    /// # Errors
    /// Where the text names none.
    fn work(&self, _: &str) -> Result<Option<Arc<dyn Work>>> {
        Ok(None)
    }
}

/// A carrier of nothing: for plans that call the functions of queries alone.
#[derive(Debug, Default)]
pub struct Nothing;

impl Carrier for Nothing {
    fn known(&self) -> Vec<ScalarUDF> {
        Vec::new()
    }

    fn pack(&self, _: &ScalarUDF) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn unpack(&self, _: &str, _: &[u8]) -> Result<Option<ScalarUDF>> {
        Ok(None)
    }
}

/// Writes and reads plans.
#[derive(Debug)]
pub(super) struct Codec {
    plans: BallistaPhysicalExtensionCodec,
    carrier: Arc<dyn Carrier>,
}

impl Codec {
    pub(super) fn new(carrier: Arc<dyn Carrier>) -> Codec {
        Codec { plans: BallistaPhysicalExtensionCodec::default(), carrier }
    }
}

/// The same for the scheduler and the executors.
pub(super) fn codec(carrier: &Arc<dyn Carrier>) -> BallistaCodec {
    BallistaCodec::new(Arc::new(BallistaLogicalExtensionCodec::default()), Arc::new(Codec::new(Arc::clone(carrier))))
}

/// What one of the functions of queries holds.
fn packed(function: &ScalarUDF) -> Option<Value> {
    event_meaning::packed(function).or_else(|| good_rows::packed(function)).or_else(|| labelled::packed(function))
}

/// The function of queries again.
fn unpacked(name: &str, packed: &[u8]) -> Option<ScalarUDF> {
    let packed: Value = serde_json::from_slice(packed).ok()?;
    event_meaning::unpacked(name, &packed)
        .or_else(|| good_rows::unpacked(name, &packed))
        .or_else(|| labelled::unpacked(name, &packed))
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.plans.try_decode(buf, inputs, ctx, converter)
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> DfResult<()> {
        self.plans.try_encode(node, buf, converter)
    }

    fn try_encode_udf(&self, function: &ScalarUDF, buf: &mut Vec<u8>) -> DfResult<()> {
        let own = packed(function).map(|packed| packed.to_string().into_bytes());
        let found = match own.or_else(|| apart::packed(function)) {
            Some(packed) => Some(packed),
            None => self.carrier.pack(function).map_err(|e| DataFusionError::External(Box::new(e)))?,
        };
        buf.extend(found.unwrap_or_default());
        Ok(())
    }

    fn try_decode_udf(&self, name: &str, buf: &[u8]) -> DfResult<Arc<ScalarUDF>> {
        let failed = |e: Error| DataFusionError::External(Box::new(e));
        if name == apart::NAME {
            return apart::unpacked(buf, |work| self.carrier.work(work)).map(Arc::new).map_err(failed);
        }
        let carried = self.carrier.unpack(name, buf).map_err(failed)?;
        carried.or_else(|| unpacked(name, buf)).map(Arc::new).ok_or_else(|| unknown(name))
    }

    /// Asked for those alone that this process does not know by their names.
    fn try_decode_udaf(&self, name: &str, _: &[u8]) -> DfResult<Arc<AggregateUDF>> {
        Err(unknown(name))
    }
}

fn unknown(name: &str) -> DataFusionError {
    DataFusionError::Plan(format!("this process does not know the function {name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ballista_core::registry::BallistaFunctionRegistry;
    use datafusion::execution::FunctionRegistry;
    use datafusion::logical_expr::Expr;
    use datafusion::prelude::ident;

    use super::*;
    use crate::config::{Meaning, Meanings};
    use crate::query::cluster::settings;
    use crate::query::state::state_of;
    use crate::table::contract::Contract;

    /// The function of a call, after a way to another process.
    fn there(call: Expr) -> (ScalarUDF, ScalarUDF) {
        let Expr::ScalarFunction(call) = call else { unreachable!("a call of a function") };
        let codec = Codec::new(Arc::new(Nothing));
        let mut bytes = Vec::new();
        codec.try_encode_udf(&call.func, &mut bytes).unwrap();
        let arrived = codec.try_decode_udf(call.func.name(), &bytes).unwrap();
        (ScalarUDF::clone(&call.func), ScalarUDF::clone(&arrived))
    }

    #[test]
    fn functions_arrive_with_what_they_know() {
        let named = [("view".to_owned(), Meaning::Nothing), ("bot".to_owned(), Meaning::Dropped)];
        let meanings = Meanings::new(named, Meaning::Dislike);
        let (sent, arrived) = there(event_meaning::event_liked(meanings.clone()).call(vec![ident("event")]));
        assert_eq!(sent, arrived);
        assert_ne!(arrived, event_meaning::event_liked(Meanings::default()));
        let (sent, arrived) = there(event_meaning::is_read(&meanings, None).unwrap());
        assert_eq!(sent, arrived);
        let found = vec![("Label".to_owned(), ident("brand")), ("Other".to_owned(), ident("colour"))];
        let (sent, arrived) = there(labelled::labelled(ident("attributes"), found));
        assert_eq!(sent, arrived);
        let contract = Contract::builtin("interaction").unwrap();
        let found = contract.columns.iter().map(|column| (column, ident(&column.name))).collect();
        let (sent, arrived) = there(good_rows::is_good(&contract, found).unwrap());
        assert_eq!(sent, arrived);
    }

    #[test]
    fn rules_of_columns_arrive_to_the_last_bit() {
        let mut column = Contract::builtin("interaction").unwrap().columns.remove(0);
        (column.min, column.max, column.min_length) = (Some(0.1 + 0.2), Some(-0.0), Some(3));
        (column.description, column.aliases, column.carried) = (String::new(), Vec::new(), None);
        let arrived = good_rows::unpacked_column(&good_rows::packed_column(&column)).unwrap();
        assert_eq!(arrived, column);
        assert_eq!(arrived.max.map(f64::to_bits), Some((-0.0_f64).to_bits()));
    }

    #[test]
    fn aggregates_travel_by_their_names_and_executors_know_them() {
        let state = state_of(settings::base(), Arc::default(), Meanings::default(), Vec::new()).unwrap();
        let there = BallistaFunctionRegistry::from(&state);
        let codec = Codec::new(Arc::new(Nothing));
        for name in ["min_by", "latest", "most_frequent"] {
            let mut bytes = Vec::new();
            codec.try_encode_udaf(&there.udaf(name).unwrap(), &mut bytes).unwrap();
            assert!(bytes.is_empty(), "{name} would not be looked up by its name");
        }
    }

    #[test]
    fn a_function_that_nobody_knows_is_refused_by_name() {
        let codec = Codec::new(Arc::new(Nothing));
        let why = codec.try_decode_udf("fit_evidence", b"{}").unwrap_err();
        assert!(why.to_string().contains("fit_evidence"), "{why}");
        let why = codec.try_decode_udaf("last_by", &[]).unwrap_err();
        assert!(why.to_string().contains("last_by"), "{why}");
    }
}
