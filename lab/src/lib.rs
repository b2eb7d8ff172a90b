//! Two whole trust domains on one machine: the story of a federation, told on real SPIRE or on an embedded stand-in.

pub mod checks;
pub mod compare;
pub mod domain;
pub mod embedded;
pub mod endpoint_status;
pub mod http;
pub mod impostor;
pub mod lab;
pub mod layout;
pub mod log_file;
pub mod ports;
pub mod process;
pub mod products;
pub mod sabotage;
pub mod server_api;
pub mod spire;
pub mod stock_cli;
pub mod stop_signals;
pub mod story;
pub mod timeline;
pub mod tls_probe;
pub mod up;
pub mod warden;
pub mod web_certificate;
pub mod workloads;
