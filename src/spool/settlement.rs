//! What an attempt came to: written down by the claim, or kept on the schedule as long as it can't be.

use std::time::Duration;

use super::state::State;
use crate::mail::queue_id::QueueId;

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What became of each target.
    pub state: State,
    /// After how long what is pending is tried again.
    pub retry: Duration,
    /// The targets that had their turn, where a next hop had no room for the others: they are tried once it has.
    pub broken_off: Option<Vec<usize>>,
    /// Reports that were committed and not scheduled: they are delivered once this is on the disk.
    pub reports: Vec<QueueId>,
    /// Whether a report could not be queued: the entry waits for it, whatever became of its targets.
    pub report_missing: bool,
}
