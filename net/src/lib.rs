//! The Kafka wire protocol of Tidelog, sans I/O: bytes in, bytes out.
//!
//! No runtime, no sockets, no threads: any thread may call anything here. What a peer sent is never
//! trusted: every length and count is checked against the bytes that are there and against a budget
//! the caller gives, so that no request can panic this crate or make it allocate beyond that budget.
//!
//! A frame on the wire is a 4-byte big-endian size and that many bytes ([`frame`]). A request frame
//! goes through [`request::decode_request`], an answer comes from [`response`]; [`client`] is the
//! other direction, and [`records`] reads and builds record batches.

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod error_code;
pub mod frame;
pub mod hot;
pub mod limits;
pub mod records;
pub mod request;
pub mod response;
pub mod walker;
pub mod wire;

pub use api::{ApiKey, SERVED, ServedApi};
pub use error_code::ErrorCode;
/// The message types of the codec crate, for cold requests and answers.
pub use kafka_protocol::messages;
/// A string that is a slice of a frame.
pub use kafka_protocol::protocol::StrBytes;
pub use request::{DecodeError, Request, RequestBody, RequestHeader, decode_request};
pub use response::{EncodeError, ResponseBody, ResponsePiece};
pub use uuid::Uuid;
