//! Generates messages, clients and servers from the `.proto` files beside this one. Needs no `protoc`.

use std::path::PathBuf;

/// Every contract, relative to this folder, which is also where their imports start.
const FILES: &[&str] = &[
    "helloworld/v1/helloworld.proto",
    "link/v1/link.proto",
    "plugin/agent_store.proto",
    "plugin/bundle_publisher.proto",
    "plugin/config.proto",
    "plugin/goplugin.proto",
    "plugin/identity_provider.proto",
    "plugin/init.proto",
    "plugin/metrics.proto",
    "plugin/notifier.proto",
    "plugin/types.proto",
    "spire/agent.proto",
    "spire/bundle.proto",
    "spire/debug.proto",
    "spire/entry.proto",
    "spire/local_authority.proto",
    "spire/svid.proto",
    "spire/trust_domain.proto",
    "spire/types.proto",
    "workload/workload.proto",
];

/// Messages that carry a private key or a token: `src/secret.rs` writes their `Debug`.
const SECRET: &[&str] = &[
    ".JWTSVID",
    ".X509SVID",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.JoinToken",
    ".spire.api.types.WITSVID",
    ".spire.hostservice.server.identityprovider.v1.X509Identity",
    ".ValidateJWTSVIDRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    for folder in ["helloworld", "link", "plugin", "spire", "workload"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    tonic_prost_build::configure()
        // Clients are made from a channel. The convenience that dials is left out, since the link has a method `Connect`
        // whose generated name would be the same.
        .build_transport(false)
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}
