//! The checks of one node, found by their id and by the service they belong to.

use std::sync::Arc;

use imbl::OrdMap;

use super::rows::Check;

/// A node's checks. Both maps hold the same rows; only [`CheckRows::insert`] and [`CheckRows::remove`] change them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckRows {
    by_id: OrdMap<Arc<str>, Arc<Check>>,
    /// By (service id, check id); node-level checks have the empty service id.
    by_service: OrdMap<(Arc<str>, Arc<str>), Arc<Check>>,
}

impl CheckRows {
    /// All checks by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Check>> {
        self.by_id.values()
    }

    /// Number of checks.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The check of this id.
    pub fn get(&self, check_id: &str) -> Option<&Arc<Check>> {
        self.by_id.get(check_id)
    }

    /// The checks of a service instance by id; those of the node itself for the empty service id.
    pub fn of_service<'a>(&'a self, service_id: &'a str) -> impl Iterator<Item = &'a Arc<Check>> {
        self.by_service
            .range((Arc::from(service_id), Arc::from(""))..)
            .take_while(move |((service, _), _)| **service == *service_id)
            .map(|(_, check)| check)
    }

    pub(super) fn insert(&mut self, check: Check) {
        self.remove(&check.check_id);
        let (service, id) = (Arc::from(check.service_id.as_str()), Arc::<str>::from(check.check_id.as_str()));
        let check = Arc::new(check);
        self.by_service.insert((service, id.clone()), check.clone());
        self.by_id.insert(id, check);
    }

    pub(super) fn remove(&mut self, check_id: &str) -> Option<Arc<Check>> {
        let check = self.by_id.remove(check_id)?;
        self.by_service.remove(&(Arc::from(check.service_id.as_str()), Arc::from(check_id)));
        Some(check)
    }
}

impl FromIterator<Arc<Check>> for CheckRows {
    fn from_iter<I: IntoIterator<Item = Arc<Check>>>(checks: I) -> Self {
        let mut rows = Self::default();
        for check in checks {
            rows.insert(Arc::unwrap_or_clone(check));
        }
        rows
    }
}
