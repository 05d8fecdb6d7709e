//! How many reports there were of late, so that a flood of mail with forged senders makes no flood of reports.
//!
//! Promises: no address here, and no other domain as a whole, gets more than `limits.reports` in an hour: whoever forges
//! senders has any number of addresses at a domain. Its memory is bounded by [`limits::REPORTS_KNOWN`]; beyond it, those
//! that were told longest ago are forgotten. What is not allowed is not lost: its message is kept in `failed/`.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::limits;
use crate::mail::address::Address;
use crate::route::Site;

/// The counts, for all delivery threads.
#[derive(Debug)]
pub struct Storm {
    /// By who was told: since when, and how often.
    told: Mutex<LruCache<String, (Duration, usize)>>,
}

impl Default for Storm {
    fn default() -> Storm {
        let most = NonZeroUsize::new(limits::REPORTS_KNOWN).unwrap_or(NonZeroUsize::MIN);
        Storm { told: Mutex::new(LruCache::new(most)) }
    }
}

impl Storm {
    /// Counts one more report to `to`, at `now` since the boot. Says whether there may be one.
    pub fn allows(&self, to: &Address, now: Duration, site: &Site) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = told.get_or_insert_mut(whom(to, site), || (now, 0));
        if now.saturating_sub(*since) >= limits::REPORTS_TIME {
            (*since, *count) = (now, 0);
        }
        let is_allowed = *count < site.config.limits.reports;
        *count += usize::from(is_allowed);
        is_allowed
    }

    /// Takes back the count of a report that was allowed and not made.
    pub fn take_back(&self, to: &Address, site: &Site) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = told.peek_mut(&whom(to, site)) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Who is told, as it is counted.
fn whom(to: &Address, site: &Site) -> String {
    if site.is_local(to) { to.folded().to_string() } else { to.host().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aliases::Aliases;
    use crate::config::Config;
    use std::path::Path;

    fn site() -> Site {
        Site {
            config: Config::parse("hostname = \"example.org\"\n[limits]\nreports = 2", Path::new("")).unwrap(),
            users: Default::default(),
            aliases: Aliases::parse(Path::new("/aliases"), "").unwrap(),
        }
    }

    /// Whether a report is allowed to each of these in turn, after so many seconds.
    fn allowed(storm: &Storm, told: &[(&str, u64)]) -> Vec<bool> {
        let site = site();
        let allows = |(to, at): &(&str, u64)| storm.allows(&to.parse().unwrap(), Duration::from_secs(*at), &site);
        told.iter().map(allows).collect()
    }

    #[test]
    fn a_storm_is_over_after_an_hour() {
        let to = "ann@example.org";
        let told = [(to, 0), (to, 1), (to, 2), (to, 3599), (to, 3600)];
        assert_eq!(allowed(&Storm::default(), &told), [true, true, false, false, true]);
    }

    #[test]
    fn what_was_not_made_does_not_count() {
        let (storm, site, to) = (Storm::default(), site(), "ann@example.org");
        storm.take_back(&to.parse().unwrap(), &site);
        assert_eq!(allowed(&storm, &[(to, 0), (to, 0), (to, 0)]), [true, true, false]);
        storm.take_back(&to.parse().unwrap(), &site);
        assert_eq!(allowed(&storm, &[(to, 0), (to, 0)]), [true, false], "nor does what was not allowed");
    }

    #[test]
    fn another_domain_counts_as_a_whole_and_each_address_here_for_itself() {
        let told = [
            ("v+1@far.example", 0),
            ("v+2@far.example", 0),
            ("w@FAR.example", 0),
            ("w@near.example", 0),
            ("ann@example.org", 0),
            ("Ann@example.org", 0),
            ("ANN@example.org", 0),
            ("bob@example.org", 0),
        ];
        assert_eq!(allowed(&Storm::default(), &told), [true, true, false, true, true, true, false, true]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (storm, site) = (Storm::default(), site());
        for at in 0..limits::REPORTS_KNOWN + 10 {
            storm.allows(&format!("x@d{at}.example").parse().unwrap(), Duration::ZERO, &site);
        }
        assert_eq!(storm.told.lock().unwrap().len(), limits::REPORTS_KNOWN);
    }
}
