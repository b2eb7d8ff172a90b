//! The generated code, in modules that mirror the packages: messages find each other by relative paths.

#![allow(
    missing_docs,
    unused_qualifications,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated code; its documentation is the text of the .proto files"
)]

/// go-plugin: what the host calls before it talks about anything of SPIRE's.
pub mod plugin {
    tonic::include_proto!("plugin");
}

/// SPIRE's contracts, by package.
pub mod spire {
    pub mod api {
        pub mod server {
            pub mod agent {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }
            pub mod bundle {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }
            pub mod debug {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.debug.v1");
                }
            }
            pub mod entry {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
            pub mod localauthority {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }
            pub mod svid {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }
            pub mod trustdomain {
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.trustdomain.v1");
                }
            }
        }
        pub mod types {
            tonic::include_proto!("spire.api.types");
        }
    }
    pub mod hostservice {
        pub mod common {
            pub mod metrics {
                pub mod v1 {
                    tonic::include_proto!("spire.hostservice.common.metrics.v1");
                }
            }
        }
        pub mod server {
            pub mod agentstore {
                pub mod v1 {
                    tonic::include_proto!("spire.hostservice.server.agentstore.v1");
                }
            }
            pub mod identityprovider {
                pub mod v1 {
                    tonic::include_proto!("spire.hostservice.server.identityprovider.v1");
                }
            }
        }
    }
    pub mod plugin {
        pub mod server {
            pub mod bundlepublisher {
                pub mod v1 {
                    tonic::include_proto!("spire.plugin.server.bundlepublisher.v1");
                }
            }
            pub mod notifier {
                pub mod v1 {
                    tonic::include_proto!("spire.plugin.server.notifier.v1");
                }
            }
        }
        pub mod types {
            tonic::include_proto!("spire.plugin.types");
        }
    }
    pub mod service {
        pub mod common {
            pub mod config {
                pub mod v1 {
                    tonic::include_proto!("spire.service.common.config.v1");
                }
            }
        }
        pub mod private {
            pub mod init {
                pub mod v1 {
                    tonic::include_proto!("spire.service.private.init.v1");
                }
            }
        }
    }
}

/// The SPIFFE Workload API, which has no package.
pub mod workload {
    tonic::include_proto!("_");
}

/// Ours: plugin and bundle endpoint.
pub mod link {
    pub mod v1 {
        tonic::include_proto!("entente.link.v1");
    }
}

/// Ours: the workloads.
pub mod helloworld {
    pub mod v1 {
        tonic::include_proto!("entente.helloworld.v1");
    }
}
