//! stub
use crate::io::stream::Place;
use crate::route::CurrentSite;
use std::sync::Arc;
/// s
pub struct Server;
impl Server {
    /// n
    pub fn new(_: Arc<CurrentSite>) -> Server {
        Server
    }
}
/// t
pub const TOO_MANY: &[u8] = b"";
/// s
pub fn serve(_: Place, _: &Server) {}
