//! stub
use crate::mail::address::Address;
use std::collections::BTreeMap;
/// Users
#[derive(Clone, Debug, Default)]
pub struct Users {
    entries: BTreeMap<Address, String>,
}
impl Users {
    /// load
    pub fn load(path: &std::path::Path) -> Result<Users, crate::io::table::LocatedError> {
        Ok(crate::io::table::read(path, 1 << 24)?
            .unwrap_or_default()
            .lines()
            .filter_map(|l| l.split(':').next()?.parse().ok())
            .collect())
    }
    /// Whether
    pub fn contains(&self, address: &Address) -> bool {
        self.entries.contains_key(address)
    }
}
impl FromIterator<Address> for Users {
    fn from_iter<I: IntoIterator<Item = Address>>(addresses: I) -> Users {
        Users { entries: addresses.into_iter().map(|address| (address.folded(), String::new())).collect() }
    }
}
