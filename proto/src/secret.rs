//! `Debug` for messages that carry a private key or a token, so that neither ever reaches a log.

use std::fmt;

use crate::{spire, workload};

/// Stands where a secret is.
const HIDDEN: &str = "(hidden)";

impl fmt::Debug for spire::hostservice::server::identityprovider::v1::X509Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cert_chain, private_key: _ } = self;
        f.debug_struct("X509Identity").field("cert_chain", cert_chain).field("private_key", &HIDDEN).finish()
    }
}

impl fmt::Debug for spire::api::server::agent::v1::CreateJoinTokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ttl, token: _, agent_id } = self;
        f.debug_struct("CreateJoinTokenRequest")
            .field("ttl", ttl)
            .field("token", &HIDDEN)
            .field("agent_id", agent_id)
            .finish()
    }
}

impl fmt::Debug for spire::api::types::JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value: _, expires_at } = self;
        f.debug_struct("JoinToken").field("value", &HIDDEN).field("expires_at", expires_at).finish()
    }
}

impl fmt::Debug for spire::api::types::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, id, expires_at, issued_at, hint } = self;
        svid_token(f, "Jwtsvid", id.as_ref(), *expires_at, *issued_at, hint)
    }
}

impl fmt::Debug for spire::api::types::Witsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, id, expires_at, issued_at, hint } = self;
        svid_token(f, "Witsvid", id.as_ref(), *expires_at, *issued_at, hint)
    }
}

/// The two kinds of token in the Server API have the same fields.
fn svid_token(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    id: Option<&spire::api::types::Spiffeid>,
    expires_at: i64,
    issued_at: i64,
    hint: &str,
) -> fmt::Result {
    f.debug_struct(name)
        .field("token", &HIDDEN)
        .field("id", &id)
        .field("expires_at", &expires_at)
        .field("issued_at", &issued_at)
        .field("hint", &hint)
        .finish()
}

impl fmt::Debug for workload::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spiffe_id, x509_svid, x509_svid_key: _, bundle, hint } = self;
        f.debug_struct("X509svid")
            .field("spiffe_id", spiffe_id)
            .field("x509_svid", x509_svid)
            .field("x509_svid_key", &HIDDEN)
            .field("bundle", bundle)
            .field("hint", hint)
            .finish()
    }
}

impl fmt::Debug for workload::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { spiffe_id, svid: _, hint } = self;
        f.debug_struct("Jwtsvid")
            .field("spiffe_id", spiffe_id)
            .field("svid", &HIDDEN)
            .field("hint", hint)
            .finish()
    }
}

impl fmt::Debug for workload::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { audience, svid: _ } = self;
        f.debug_struct("ValidateJwtsvidRequest").field("audience", audience).field("svid", &HIDDEN).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use crate::spire::api::server::agent::v1::CreateJoinTokenRequest;
    use crate::spire::api::types;
    use crate::spire::hostservice::server::identityprovider::v1::{FetchX509IdentityResponse, X509Identity};
    use crate::workload;

    const SECRET: &str = "246813579";

    /// Neither as text nor as a list of bytes, and the rest is there.
    fn assert_hidden(message: impl Debug, shown: &str) {
        let text = format!("{message:?}");
        assert!(text.contains("(hidden)") && text.contains(shown), "{text}");
        assert!(!text.contains(SECRET) && !text.contains("50, 52, 54"), "{text}");
    }

    #[test]
    fn a_private_key_is_not_printed_even_inside_another_message() {
        let private_key = SECRET.as_bytes().to_vec();
        let identity = X509Identity { cert_chain: vec![vec![7]], private_key: private_key.clone() };
        let response = FetchX509IdentityResponse { identity: Some(identity), bundle: None };
        assert_hidden(response, "cert_chain: [[7]]");
        let svid =
            workload::X509svid { x509_svid_key: private_key, hint: "web".into(), ..Default::default() };
        assert_hidden(
            workload::X509svidResponse { svids: vec![svid], ..Default::default() },
            "hint: \"web\"",
        );
    }

    #[test]
    fn a_token_is_not_printed() {
        let token = || SECRET.to_owned();
        assert_hidden(CreateJoinTokenRequest { ttl: 60, token: token(), agent_id: None }, "ttl: 60");
        assert_hidden(types::JoinToken { value: token(), expires_at: 9 }, "expires_at: 9");
        assert_hidden(types::Jwtsvid { token: token(), issued_at: 8, ..Default::default() }, "issued_at: 8");
        assert_hidden(types::Witsvid { token: token(), issued_at: 8, ..Default::default() }, "issued_at: 8");
        let svid = workload::Jwtsvid { svid: token(), hint: "web".into(), ..Default::default() };
        assert_hidden(workload::JwtsvidResponse { svids: vec![svid] }, "hint: \"web\"");
        let request = workload::ValidateJwtsvidRequest { audience: "me".into(), svid: token() };
        assert_hidden(request, "audience: \"me\"");
    }
}
