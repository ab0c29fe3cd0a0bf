//! The state of a session: settings and functions, the same for a process of its own and for the client, the scheduler and
//! the executors of a cluster.
//!
//! Knows DataFusion's settings. Knows nothing of tables, memory or where queries are computed.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::execution::context::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{FunctionRegistry, SessionStateBuilder};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionConfig;

use crate::config::Meanings;
use crate::query::clean_text::clean_text;
use crate::query::event_meaning::event_liked;
use crate::query::latest::latest;
use crate::query::min_by::min_by;
use crate::query::most_frequent::most_frequent;
use crate::query::sentences::{content_words, sentences, whole_words};

/// The settings of a session that cuts its plans into so many partitions.
pub(super) fn config_of(partitions: usize, batch_size: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_target_partitions(partitions.max(1))
        .with_batch_size(batch_size.max(1));
    let settings = config.options_mut();
    // With a shared queue Ballista would read files twice, and timing would decide which task reads which file.
    settings.execution.enable_file_stream_work_stealing = false;
    settings.execution.time_zone = Some("UTC".into());
    // One text type everywhere: contracts know only Utf8, and functions need not accept two.
    settings.sql_parser.map_string_types_to_utf8view = false;
    // As the checks of inputs read them: nanoseconds would wrap around for distant years.
    settings.execution.parquet.coerce_int96 = Some("us".into());
    settings.execution.parquet.schema_force_view_types = false;
    config
}

/// The state with these settings: DataFusion's functions, curec's, and `more`.
///
/// # Errors
/// None that is known; DataFusion's.
pub(super) fn state_of(
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
    events: Meanings,
    more: Vec<ScalarUDF>,
) -> DfResult<SessionState> {
    let mut state =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    let own = [clean_text(), sentences(), content_words(), whole_words(), event_liked(events)];
    for function in own.into_iter().chain(more) {
        state.register_udf(Arc::new(function))?;
    }
    for function in [min_by(), latest(), most_frequent()] {
        state.register_udaf(Arc::new(function))?;
    }
    Ok(state)
}
