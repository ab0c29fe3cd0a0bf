//! The stores that the scheduler and the executors read: opened when a plan names one.
//!
//! Knows locations and with what they are opened on this machine. No credential travels: each process has its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use url::{Position, Url};

use crate::table::store::{Location, StoreOptions};

/// Stores by scheme and host.
#[derive(Debug)]
pub(super) struct Stores {
    options: StoreOptions,
    opened: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    pub(super) fn new(options: StoreOptions) -> Stores {
        Stores { options, opened: Mutex::default() }
    }
}

/// What names a store alone: `file://`, `s3://bucket`.
fn name_of(url: &Url) -> &str {
    &url[..Position::BeforePath]
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(name_of(url).to_owned(), store)
    }

    fn get_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name_of(url);
        if let Some(store) = opened.get(name) {
            return Ok(Arc::clone(store));
        }
        let found = Location::parse_with(&format!("{name}/"), &self.options);
        let store = found.map_err(|e| DataFusionError::External(Box::new(e)))?.store();
        opened.insert(name.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_store_is_opened_once_whatever_is_read_of_it() {
        let stores = Stores::new(StoreOptions::default());
        let store = |url: &str| stores.get_store(&Url::parse(url).unwrap()).unwrap();
        assert!(Arc::ptr_eq(&store("memory://stores/a.parquet"), &store("memory://stores/b/c.parquet")));
        assert!(Arc::ptr_eq(&store("file:///"), &store("file:///tmp/a.parquet")));
        assert!(stores.get_store(&Url::parse("https://host/a.parquet").unwrap()).is_err());
    }
}
