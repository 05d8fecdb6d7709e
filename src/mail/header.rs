//! stub
/// Hops
#[derive(Default)]
pub struct HopCounter;
impl HopCounter {
    /// feed
    pub fn feed(&mut self, _: &[u8]) {}
    /// count
    pub fn count(&self) -> usize {
        0
    }
}
