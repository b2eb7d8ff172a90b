//! Each mistake in a configuration is named; what the design page and the sample show is read.

use super::*;

const LEAST: &str = r#"
trust_domain = "cluster1.org"
[link]
listen = "unix:///run/entente/link.sock"
[serve]
listen = "0.0.0.0:8443"
profile = "https_spiffe"
"#;

fn refused(text: &str) -> String {
    Config::parse(text).unwrap_err()
}

#[test]
fn the_file_of_the_design_page_is_read() {
    let config = Config::parse(
        r#"
trust_domain = "cluster1.org"
[link]
listen = "unix:///run/entente/link.sock"
[serve]
listen = "0.0.0.0:8443"
profile = "https_spiffe"
identity = "server"
[admin]
listen = "127.0.0.1:8080"
"#,
    )
    .unwrap();
    assert_eq!(config.trust_domain.as_str(), "cluster1.org");
    assert_eq!(config.serve.profile, ServingProfile::HttpsSpiffe(ServingIdentity::Server));
    assert_eq!(config.fetch.minimum_interval, Duration::from_secs(15));
}

#[test]
fn the_sample_file_is_read_also_with_everything_turned_on() {
    let sample = include_str!("../../bundle-endpoint.example.toml");
    Config::parse(sample).unwrap();
    let is_setting = |line: &str| line.starts_with("# [") || line.contains(" = ") && !line.ends_with('.');
    let turned_on: Vec<_> = sample
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if is_setting(line) && !rest.starts_with("For ") => rest,
            _ => line,
        })
        .collect();
    let config = Config::parse(&turned_on.join("\n")).unwrap();
    assert_eq!(config.public_listeners().count(), 2);
    assert!(config.workload_api.socket.is_some() && config.link.allowed_uids.is_some());
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let message = refused(&LEAST.replace("profile =", "profil ="));
    assert!(message.contains("line 7") && message.contains("profil"), "{message}");
    assert!(refused(&format!("{LEAST}federates_with = 1\n")).contains("federates_with"));
}

#[test]
fn a_host_name_to_listen_on_is_refused_with_its_line() {
    let message = refused(&LEAST.replace("0.0.0.0:8443", "localhost:8443"));
    assert!(message.contains("line 6") && message.contains("localhost:8443"), "{message}");
}

#[test]
fn a_trust_domain_that_is_none_is_refused() {
    assert!(refused(&LEAST.replace("cluster1.org", "Cluster1.org")).contains("line 2"));
}

#[test]
fn a_network_link_says_what_to_write_instead() {
    let message = refused(&LEAST.replace("unix:///run/entente/link.sock", "dns:///endpoint:8444"));
    assert!(
        message.contains("unix:///run/entente/link.sock") && message.contains("0.0.0.0:8444"),
        "{message}"
    );
}

#[test]
fn each_way_of_linking_takes_only_its_own_keys() {
    let id = |id: &str| format!("[link]\nspiffe_id = {id:?}\n");
    let own = id("spiffe://cluster1.org/bundle-endpoint");
    assert!(refused(&LEAST.replace("[link]\n", &own)).contains("mutual TLS only"));
    let mutual = LEAST.replace("unix:///run/entente/link.sock", "0.0.0.0:8444");
    assert!(Config::parse(&mutual).is_ok());
    assert!(Config::parse(&mutual.replace("[link]\n", &own)).is_ok());
    let uids = refused(&mutual.replace("[link]\n", "[link]\nallowed_uids = [0]\n"));
    assert!(uids.contains("spiffe://cluster1.org/spire/server"), "{uids}");
    for (wrong, expected) in [
        ("spiffe://cluster2.org/x", "is not of trust domain cluster1.org"),
        ("spiffe://cluster1.org", "expected a SPIFFE ID with a path"),
        ("spiffe://cluster1.org/spire/server", "is no workload's"),
        ("nothing", "starts with spiffe://"),
    ] {
        let message = refused(&mutual.replace("[link]\n", &id(wrong)));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_list_of_users_that_names_nobody_is_refused() {
    let message = refused(&LEAST.replace("[link]\n", "[link]\nallowed_uids = []\n"));
    assert!(message.contains("allowed_uids"), "{message}");
}

#[test]
fn profiles_take_only_their_own_keys() {
    let web = LEAST.replace("https_spiffe", "https_web");
    assert!(refused(&web).contains("certificate_file"));
    let files = "certificate_file = \"c\"\nprivate_key_file = \"k\"\n";
    assert!(Config::parse(&format!("{web}{files}")).is_ok());
    assert!(refused(&format!("{web}{files}identity = \"server\"\n")).contains("identity"));
    assert!(refused(&format!("{LEAST}{files}")).contains("certificate_file"));
}

#[test]
fn bounds_that_contradict_each_other_are_refused() {
    let text = format!("{LEAST}[fetch]\nminimum_interval = \"2h\"\n");
    assert!(refused(&text).contains("maximum_interval"));
    let years = format!("{LEAST}[fetch]\nmaximum_interval = \"100000000000y\"\n");
    assert!(refused(&years).contains("30 days"));
    assert!(refused(&format!("{LEAST}[fetch]\nmax_bytes = 0\n")).contains("max_bytes"));
    assert!(refused(&format!("{LEAST}[fetch]\nmax_bytes = -1\n")).contains("max_bytes"));
}

#[test]
fn more_listeners_are_read_in_order() {
    let text = format!(
        "{LEAST}[[also_serve]]\nlisten = \"[::1]:0\"\nprofile = \"https_spiffe\"\nidentity = \"workload\"\n"
    );
    let config = Config::parse(&text).unwrap();
    assert_eq!(config.public_listeners().count(), 2);
}
