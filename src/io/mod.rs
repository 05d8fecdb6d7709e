//! Support: octets, lines, time and durable files. Nothing here knows what mail is.

pub mod account;
pub mod activation;
pub mod clock;
pub mod dot;
pub mod durable;
pub mod keeper;
pub mod line;
pub mod listener;
pub mod sandbox;
pub mod secrets;
pub mod stream;
pub mod sync;
pub mod table;
pub mod tls;
pub mod x509;
