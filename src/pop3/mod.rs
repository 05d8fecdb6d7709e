//! stub
pub mod connection;
