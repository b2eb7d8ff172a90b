use proptest::prelude::*;

use super::*;
use crate::relationships::{EndpointProfile, Unsigned};
use crate::unix_socket::AllowedOwner;

const GOOD: &str = r#"
endpoint = "unix:///run/entente/link.sock"
server_socket = "unix:///run/spire/api.sock"
serve_as_server = true
refresh_hint = "2m30s"
endpoint_uid = 1000
undeclared_bundles = "remove"

federates_with "cluster2.org" {
  bundle_endpoint_url = "https://10.10.0.141:8443"

  bundle_endpoint_profile "https_spiffe" {
    endpoint_spiffe_id = "spiffe://cluster2.org/spire/server"
  }

  bootstrap_bundle = "/run/entente/cluster2.org.json"
  unsigned         = "allow"
}

federates_with "spiffe://cluster3.org" {
  bundle_endpoint_url = "https://bundles.cluster3.org/path?x=y"
  bundle_endpoint_profile "https_web" {}
  mode = "assisted"
  follow_redirects = true
}
"#;

/// The same, as SPIRE prints it for a JSON configuration.
const QUOTED: &str = r#"
"endpoint" = "unix:///run/entente/link.sock"
"server_socket" = "/run/spire/api.sock"
"serve_as_server" = true
"refresh_hint" = "2m30s"
"endpoint_uid" = 1000
"undeclared_bundles" = "remove"
"federates_with" = {
  "cluster2.org" = {
    "bundle_endpoint_url" = "https://10.10.0.141:8443"
    "bundle_endpoint_profile" = { "https_spiffe" = { "endpoint_spiffe_id" = "spiffe://cluster2.org/spire/server" } }
    "bootstrap_bundle" = "/run/entente/cluster2.org.json"
    "unsigned" = "allow"
  }
  "cluster3.org" = {
    "bundle_endpoint_url" = "https://bundles.cluster3.org/path?x=y"
    "bundle_endpoint_profile" = [{ "https_web" = {} }]
    "mode" = "assisted"
    "follow_redirects" = true
  }
}
"#;

fn mistakes(text: &str) -> Vec<String> {
    match Config::read(text, "cluster1.org") {
        Ok(config) => panic!("{text} was taken as {config:?}"),
        Err(ConfigError(mistakes)) => mistakes.iter().map(Mistake::to_string).collect(),
    }
}

/// Replaces one piece of the good text and returns the only mistake.
fn one_mistake(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let mut found = mistakes(&GOOD.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn every_mistake_comes_out_at_once_with_its_key() {
    let text = r#"
        endpiont = "unix:///x"
        refresh_hint = "5 minutes"
        serve_as_server = "true"
        federates_with "cluster1.org" { bundle_endpoint_url = "http://x" }
        federates_with "cluster2.org" {
            bundle_endpoint_url = "https://user@x"
            bundle_endpoint_profile "https_spiffe" { endpoint_spiffe = "x" }
            mode = "managd"
        }"#;
    let found = mistakes(text);
    for expected in [
        "endpiont: unknown key; did you mean endpoint?",
        "endpoint: missing; expected where bundle-endpoint awaits the link",
        "refresh_hint: expected a duration in whole seconds",
        "serve_as_server: expected true or false without quotes, found a string",
        "federates_with \"cluster1.org\": this is the server's own trust domain",
        "federates_with \"cluster1.org\": bundle_endpoint_url: expected an URL that starts with https://, found \"http://x\"",
        "federates_with \"cluster1.org\": bundle_endpoint_profile: missing",
        "federates_with \"cluster2.org\": bundle_endpoint_url: expected an URL without user information",
        "federates_with \"cluster2.org\": bundle_endpoint_profile \"https_spiffe\": endpoint_spiffe: unknown key; did you mean endpoint_spiffe_id?",
        "federates_with \"cluster2.org\": bundle_endpoint_profile \"https_spiffe\": endpoint_spiffe_id: missing",
        "federates_with \"cluster2.org\": mode: expected \"managed\" or \"assisted\", found \"managd\"",
    ] {
        assert!(
            found.iter().any(|mistake| mistake.starts_with(expected)),
            "{expected} is not among {found:#?}"
        );
    }
    assert_eq!(found.len(), 11, "{found:#?}");
}

#[test]
fn each_single_mistake_is_named() {
    for (from, to, expected) in [
        ("unix:///run/entente", "unix://run", "endpoint: expected an absolute path"),
        (
            "unix:///run/entente",
            "tcp://127.0.0.1:1",
            "endpoint: expected where bundle-endpoint awaits the link",
        ),
        ("unix:///run/spire/api.sock", "api.sock", "server_socket: expected an absolute path"),
        ("2m30s", "0s", "refresh_hint: expected a duration"),
        ("2m30s", "1500ms", "refresh_hint: expected a duration"),
        ("2m30s", "9000h", "refresh_hint: expected a duration"),
        ("1000", "-1", "endpoint_uid: expected a user ID"),
        ("1000", "\"root\"", "endpoint_uid: expected a whole number without quotes, found a string"),
        ("\"remove\"", "\"delete\"", "undeclared_bundles: expected \"keep\" or \"remove\""),
        ("\"cluster2.org\"", "\"Cluster 2\"", "federates_with \"Cluster 2\": expected a trust domain name"),
        ("\"cluster2.org\"", "", "federates_with: expected a block with a label"),
        (
            "https://10.10.0.141:8443",
            "https://",
            "federates_with \"cluster2.org\": bundle_endpoint_url: expected",
        ),
        (
            "https://10.10.0.141:8443",
            "https://x:0",
            "federates_with \"cluster2.org\": bundle_endpoint_url: expected a port",
        ),
        (
            "https://10.10.0.141:8443",
            "https://0.0.0.0:8443",
            "federates_with \"cluster2.org\": bundle_endpoint_url: an address to listen on",
        ),
        (
            "https://10.10.0.141:8443",
            "https://x/#a",
            "federates_with \"cluster2.org\": bundle_endpoint_url: expected an URL without a fragment",
        ),
        (
            "\"https_spiffe\"",
            "\"https_spife\"",
            "federates_with \"cluster2.org\": bundle_endpoint_profile: expected \"https_spiffe\" or",
        ),
        (
            "spiffe://cluster2.org/spire/server",
            "spiffe://cluster2.org",
            "federates_with \"cluster2.org\": bundle_endpoint_profile \"https_spiffe\": endpoint_spiffe_id: expected a SPIFFE ID with a path",
        ),
        (
            "\"allow\"",
            "\"yes\"",
            "federates_with \"cluster2.org\": unsigned: expected \"allow\" or \"refuse\"",
        ),
        (
            "\"spiffe://cluster3.org\"",
            "\"cluster2.org\"",
            "federates_with \"cluster2.org\": given more than once",
        ),
        (
            "serve_as_server = true",
            "serve_as_server = true serve_as_server = false",
            "serve_as_server: given more than once",
        ),
        ("serve_as_server = true", "serve_as_server \"x\" {}", "serve_as_server: takes no label"),
        (
            "bundle_endpoint_profile \"https_web\" {}",
            "bundle_endpoint_profile \"https_web\" { ca_file = \"/nonexistent\" }",
            "federates_with \"spiffe://cluster3.org\": bundle_endpoint_profile \"https_web\": ca_file: cannot read /nonexistent",
        ),
        (
            "mode = \"assisted\"",
            "bootstrap_bundle = \"/x\"",
            "federates_with \"spiffe://cluster3.org\": bootstrap_bundle: only an https_spiffe endpoint",
        ),
    ] {
        let found = if to.contains("serve_as_server \"x\"") {
            mistakes(&GOOD.replacen(from, to, 1)).remove(0)
        } else {
            one_mistake(from, to)
        };
        assert!(found.starts_with(expected), "{found} should start with {expected}");
    }
}

#[test]
fn one_mistake_does_not_hide_another_of_its_block() {
    let text = r#"
        endpoint = "unix:///run/entente/link.sock"
        federates_with "cluster2.org" {
            bundle_endpoint_url = "http://x"
            bundle_endpoint_profile "https_web" { ca_file = "/nonexistent" }
            bootstrap_bundle = 7
        }
        federates_with "spiffe://cluster2.org" {
            bundle_endpoint_url = "https://x"
            bundle_endpoint_profile "https_web" {}
        }"#;
    let found = mistakes(text);
    for expected in [
        "federates_with \"cluster2.org\": bundle_endpoint_url: expected an URL that starts with https://",
        "federates_with \"cluster2.org\": bundle_endpoint_profile \"https_web\": ca_file: cannot read /nonexistent",
        "federates_with \"cluster2.org\": bootstrap_bundle: expected a string in double quotes",
        "federates_with \"cluster2.org\": bootstrap_bundle: only an https_spiffe endpoint",
        "federates_with \"spiffe://cluster2.org\": given more than once",
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(expected)), "{expected}: {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn a_host_that_can_never_be_dialled_is_refused() {
    let long = "a".repeat(64);
    let bad = [
        "-bad-",
        "bad-",
        "a.-b.test",
        "127.1",
        "1.2.3.4.5",
        "256.1.1.1",
        "a.test.7",
        "0x7f.1",
        "a..test",
        "[::1",
        "[127.0.0.1]",
        "[a.test]",
        &long,
    ];
    for host in bad {
        assert!(check_url(&format!("https://{host}:8443/")).is_err(), "{host}");
    }
    let good = ["127.0.0.1", "[::1]", "a", "xn--9ca.test", "7.a.test", "a-b.test.", "my_host", &long[1..]];
    for host in good {
        assert_eq!(check_url(&format!("https://{host}:8443/")), Ok(()), "{host}");
    }
    for port in ["99999", "+1", "-1", "0", "", "65536"] {
        let url = format!("https://a:{port}/");
        assert!(check_url(&url).is_err(), "{url}");
    }
    for url in ["https://[::1]:8443/", "https://a:65535/", "https://a/"] {
        assert_eq!(check_url(url), Ok(()), "{url}");
    }
    let named = one_mistake("https://10.10.0.141:8443", "https://127.1/");
    assert!(
        named.contains("bundle_endpoint_url: expected a host that is a DNS name or an IP address"),
        "{named}"
    );
}

#[test]
fn a_refused_url_shows_no_password() {
    for url in ["https://me:secret@x", "http://me:secret@x/", "me:secret@x", "https://me:secret@x y"] {
        let named = one_mistake("https://10.10.0.141:8443", url);
        assert!(named.contains("***@x") && !named.contains("secret"), "{named}");
    }
}

#[test]
fn an_empty_block_says_what_is_missing() {
    assert!(mistakes("")[0].starts_with("endpoint: missing"));
    assert!(mistakes("\"text\"")[0].starts_with("plugin_data: line 1"));
    assert!(Config::read(GOOD, "").unwrap_err().to_string().contains("trust_domain: SPIRE Server sent \"\""));
}

#[test]
fn both_shapes_that_spire_sends_mean_the_same() {
    let native = Config::read(GOOD, "cluster1.org").unwrap();
    assert_eq!(native, Config::read(QUOTED, "cluster1.org").unwrap());
    assert_eq!(native.refresh_hint, Duration::from_secs(150));
    let path = PathBuf::from("/run/entente/link.sock");
    assert_eq!(native.endpoint, Endpoint::Socket { path, owner: AllowedOwner::Uid(1000) });
    assert_eq!(native.undeclared_bundles, UndeclaredBundles::Remove);
    let [second, third] = native.federates_with.values().collect::<Vec<_>>()[..] else { panic!("two") };
    assert_eq!(
        (second.mode, second.unsigned, second.follow_redirects),
        (Mode::Managed, Unsigned::Allow, false)
    );
    assert!(
        matches!(&second.profile, EndpointProfile::HttpsSpiffe { endpoint_spiffe_id } if endpoint_spiffe_id.path() == "/spire/server")
    );
    assert_eq!((third.mode, third.follow_redirects), (Mode::Assisted, true));
    assert_eq!(third.profile, EndpointProfile::HttpsWeb { ca_certificates: String::new() });
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = Config::read("endpoint = \"unix:/run/link.sock\"", "cluster1.org").unwrap();
    assert_eq!(config.server_socket, PathBuf::from(DEFAULT_SERVER_SOCKET));
    assert_eq!(config.refresh_hint, DEFAULT_REFRESH_HINT);
    assert!(!config.serve_as_server);
    assert!(matches!(config.endpoint, Endpoint::Socket { owner: AllowedOwner::OwnOrRoot, .. }));
    assert_eq!(config.undeclared_bundles, UndeclaredBundles::Keep);
    assert!(config.federates_with.is_empty());
}

#[test]
fn the_sample_of_the_documentation_is_taken() {
    let sample = r#"
        endpoint = "unix:///run/entente/link.sock"
        server_socket = "unix:///tmp/spire-server/private/api.sock"
        serve_as_server = true
        refresh_hint = "5m"
        federates_with "cluster2.org" {
            bundle_endpoint_url = "https://10.10.0.141:8443"
            bundle_endpoint_profile "https_spiffe" { endpoint_spiffe_id = "spiffe://cluster2.org/spire/server" }
            bootstrap_bundle = "/run/entente/cluster2.org.json"
        }"#;
    assert_eq!(Config::read(sample, "cluster1.org").unwrap().federates_with.len(), 1);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", trust_domain in "\\PC*") {
        let _ = Config::read(&text, &trust_domain);
    }

    #[test]
    fn no_damage_to_a_good_text_makes_it_panic(at in 0..GOOD.len(), length in 0..40_usize, put in "[\\PC\n]{0,6}") {
        let end = (at + length).min(GOOD.len());
        let damaged = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        let _ = Config::read(&damaged, "cluster1.org");
    }
}

#[test]
fn the_readme_shows_a_configuration_that_works_and_every_key() {
    const README: &str = include_str!("../../README.md");
    let block = README.split("```hcl\n").nth(1).unwrap().split("```").next().unwrap();
    let inside = |object: &hcl::Object, key: &str| {
        let item = object.items.iter().find(|item| item.key == key).unwrap();
        let hcl::Value::Object(object) = &item.value else { panic!("{item:?}") };
        object.clone()
    };
    let plugin_data = inside(&inside(&hcl::parse(block).unwrap(), "BundlePublisher"), "plugin_data");
    let (own, mut mistakes) = (TrustDomain::new("cluster1.org").unwrap(), Mistakes::default());
    let config = read_root(&own, &plugin_data, &mut mistakes).unwrap();
    assert_eq!(mistakes.0, []);
    assert_eq!(config.federates_with.len(), 2);
    for key in KEYS.iter().chain(federates_with::KEYS) {
        assert!(README.contains(&format!("| `{key}")), "{key}");
    }
}
