use entente_bundle::BundleSource;
use entente_bundle::testing::TestAuthority;

use super::*;
use crate::federation::relationship::{EndpointProfile, Mode};
use crate::link::{LocalPeer, LocalProcess};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn hub() -> Arc<Hub> {
    Hub::new(domain("a.test"), Arc::new(Metrics::new()))
}

fn info() -> LinkInfo {
    let peer = LinkPeer::Local(LocalPeer { uid: 0, process: LocalProcess::Pid(1), allowed: true });
    LinkInfo { plugin_version: "0".into(), peer, since: SystemTime::UNIX_EPOCH, lends: None }
}

fn bundle(sequence_number: Option<u64>) -> Option<Arc<Bundle>> {
    Some(Arc::new(Bundle::new(domain("a.test"), vec![], vec![], sequence_number, None)))
}

fn relationships(names: &[&str]) -> Relationships {
    let one = |name: &&str| {
        let relationship = FederationRelationship {
            trust_domain: domain(name),
            bundle_endpoint_url: format!("https://{name}/"),
            profile: EndpointProfile::HttpsWeb { ca_certificates: None },
            mode: Mode::Managed,
            follow_redirects: false,
        };
        (domain(name), Arc::new(relationship))
    };
    names.iter().map(one).collect()
}

fn names(hub: &Hub) -> Vec<String> {
    hub.relationships().borrow().keys().map(ToString::to_string).collect()
}

#[test]
fn the_own_bundle_survives_the_link() {
    let hub = hub();
    let link = hub.open(info());
    hub.take_own_bundle(link, bundle(Some(3)));
    hub.close(link);
    assert_eq!(*hub.own_bundle().borrow(), bundle(Some(3)));
    assert_eq!(*hub.link_count().borrow(), 0);
}

#[test]
fn of_two_links_the_higher_sequence_number_is_published() {
    let hub = hub();
    let (one, two) = (hub.open(info()), hub.open(info()));
    hub.take_own_bundle(one, bundle(Some(5)));
    hub.take_own_bundle(two, bundle(Some(4)));
    assert_eq!(*hub.own_bundle().borrow(), bundle(Some(5)));
    hub.take_own_bundle(two, bundle(Some(6)));
    assert_eq!(*hub.own_bundle().borrow(), bundle(Some(6)));
}

#[test]
fn a_new_link_may_start_the_sequence_again() {
    let hub = hub();
    let old = hub.open(info());
    hub.take_own_bundle(old, bundle(Some(9)));
    hub.close(old);
    let new = hub.open(info());
    hub.take_own_bundle(new, None);
    assert_eq!(
        *hub.own_bundle().borrow(),
        bundle(Some(9)),
        "a plugin that knows nothing yet takes nothing away"
    );
    hub.take_own_bundle(new, bundle(Some(1)));
    assert_eq!(*hub.own_bundle().borrow(), bundle(Some(1)));
}

#[test]
fn what_is_held_goes_with_its_relationship() {
    let hub = hub();
    let link = hub.open(info());
    hub.take_relationships(link, relationships(&["b.test", "c.test"]));
    for name in ["b.test", "c.test"] {
        let bundle = Bundle::new(domain(name), vec![], vec![], Some(1), None);
        let held = Held { bundle: Some(Arc::new(bundle)), ..Held::default() };
        assert!(hub.take_held(link, &domain(name), held));
    }
    hub.take_relationships(link, relationships(&["b.test"]));
    assert!(hub.held.current(&domain("b.test")).bundle.is_some());
    assert!(hub.held.current(&domain("c.test")).bundle.is_none());
}

#[test]
fn relationships_are_the_union_and_survive_the_link() {
    let hub = hub();
    let (one, two) = (hub.open(info()), hub.open(info()));
    hub.take_relationships(one, relationships(&["b.test", "c.test"]));
    hub.take_relationships(two, relationships(&["c.test", "d.test"]));
    assert_eq!(names(&hub), ["b.test", "c.test", "d.test"]);
    hub.close(one);
    assert_eq!(names(&hub), ["c.test", "d.test"]);
    hub.close(two);
    assert_eq!(names(&hub), ["c.test", "d.test"]);
    let three = hub.open(info());
    assert_eq!(names(&hub), ["c.test", "d.test"]);
    hub.take_relationships(three, relationships(&[]));
    assert!(names(&hub).is_empty(), "an empty list is an end, not a loss");
}

#[test]
fn what_one_of_two_links_finds_wrong_is_told_with_its_name_and_goes_with_it() {
    let hub = hub();
    let of = |pid| {
        let peer = LinkPeer::Local(LocalPeer { uid: 0, process: LocalProcess::Pid(pid), allowed: true });
        hub.open(LinkInfo { peer, ..info() })
    };
    let (ill, well) = (of(1), of(2));
    let bundle = Some(Arc::new(Bundle::new(domain("b.test"), vec![], vec![], Some(1), None)));
    let says = |link, keeping: Option<&str>, authentication: Option<&str>| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let troubles = Troubles { keeping: text(keeping), authentication: text(authentication) };
        let held = Held { bundle: bundle.clone(), troubles, ..Held::default() };
        hub.take_held(link, &domain("b.test"), held);
    };
    let told = || {
        let Troubles { keeping, authentication } = hub.held.current(&domain("b.test")).troubles;
        (keeping, authentication)
    };
    let text = |text: &str| Some(text.to_owned());
    hub.take_relationships(well, relationships(&["b.test"]));
    says(ill, Some("unkept"), Some("no file"));
    says(well, None, None);
    let named = |text: &str| Some(format!("{text} (told by process 1 of user id 0)"));
    assert_eq!(told(), (named("unkept"), named("no file")), "another server's silence hides nothing");
    says(well, Some("unkept"), None);
    assert_eq!(told(), (text("unkept"), named("no file")));

    hub.close(ill);
    assert_eq!(told(), (text("unkept"), None), "who is away says nothing");
    hub.close(well);
    assert_eq!(told(), (None, None));
    assert_eq!(hub.held.current(&domain("b.test")).bundle, bundle, "what is held stays");
}

/// A hub with links of plugins whose servers share a datastore and one relationship.
struct Shared(Arc<Hub>);

impl Shared {
    fn new() -> Self {
        Self(hub())
    }

    fn link(&self) -> LinkId {
        let link = self.0.open(info());
        self.0.take_relationships(link, relationships(&["b.test"]));
        link
    }

    fn linked(&self, trouble: Option<&str>) -> LinkId {
        let link = self.link();
        self.api(link, trouble);
        link
    }

    fn api(&self, link: LinkId, trouble: Option<&str>) {
        let trouble = trouble.map(str::to_owned);
        self.0.take_server_api(link, ServerApi { trouble, ..ServerApi::default() });
    }

    fn says(&self, link: LinkId, bundle: &Arc<Bundle>) {
        self.says_all(link, Held { bundle: Some(Arc::clone(bundle)), ..Held::default() });
    }

    fn says_all(&self, link: LinkId, held: Held) {
        self.0.take_held(link, &domain("b.test"), held);
    }

    fn held(&self) -> Option<Arc<Bundle>> {
        self.0.held.current(&domain("b.test")).bundle
    }

    /// What the next handshake verifies with.
    fn authenticating(&self) -> Option<Arc<Bundle>> {
        self.0.held.bundle_for(&domain("b.test"))
    }
}

fn of_b(sequence_number: u64) -> Arc<Bundle> {
    Arc::new(TestAuthority::new("b.test").bundle_with(Some(sequence_number), None))
}

fn empty_of_b() -> Arc<Bundle> {
    Arc::new(Bundle::new(domain("b.test"), vec![], vec![], Some(9), None))
}

const ILL: Option<&str> = Some("connection refused");

#[test]
fn a_plugin_that_sees_nothing_of_spire_takes_back_nothing_that_another_one_told() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let (ill, well) = (all.linked(None), all.linked(None));
    all.says(ill, &old);
    all.api(ill, ILL);
    all.says(well, &new);
    all.says(ill, &old);
    assert_eq!(all.held(), Some(new.clone()));
    let again = all.linked(ILL);
    all.says(again, &old);
    all.0.close(ill);
    assert_eq!(all.held(), Some(new.clone()), "nor when it makes its link anew");
    assert_eq!(all.authenticating(), Some(new));
}

#[test]
fn a_plugin_that_says_only_later_that_it_sees_nothing_of_spire_takes_back_nothing_either() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let well = all.linked(None);
    all.says(well, &new);
    // The order of earlier versions.
    let ill = all.link();
    all.says(ill, &old);
    assert_eq!(all.held(), Some(new.clone()));
    all.api(ill, ILL);
    assert_eq!(all.held(), Some(new.clone()));
    let newer = of_b(3);
    let other = all.link();
    all.says(other, &newer);
    all.api(other, None);
    assert_eq!(all.held(), Some(newer), "one that does see it is believed from then on");
}

#[test]
fn where_no_plugin_sees_spire_the_one_that_saw_it_last_is_believed() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let alone = all.linked(ILL);
    all.says(alone, &old);
    assert_eq!(all.held(), Some(old.clone()), "a memory is better than nothing");
    let seeing = all.linked(None);
    all.says(seeing, &new);
    all.api(seeing, ILL);
    assert_eq!(all.held(), Some(new.clone()), "trouble takes nothing back");
    all.says(alone, &old);
    assert_eq!(all.held(), Some(new.clone()));
    all.0.close(seeing);
    assert_eq!(all.held(), Some(new), "nor does the end of a link");
    let last = of_b(3);
    all.says(alone, &last);
    assert_eq!(all.held(), Some(last));
}

#[test]
fn a_plugin_that_sees_spire_again_is_believed_again() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let (one, other) = (all.linked(ILL), all.linked(ILL));
    all.says(one, &new);
    all.says(other, &old);
    assert_eq!(all.held(), Some(old.clone()), "who can tell");
    all.api(one, None);
    assert_eq!(all.held(), Some(new));
    all.api(other, None);
    all.says(other, &old);
    assert_eq!(all.held(), Some(old));
}

#[test]
fn a_plugin_that_has_the_relationship_no_more_speaks_of_it_no_more() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let (ended, ill) = (all.linked(None), all.linked(ILL));
    let troubles = Troubles { keeping: Some("unkept".into()), ..Troubles::default() };
    all.says_all(ended, Held { bundle: Some(old.clone()), troubles, ..Held::default() });
    all.says(ill, &new);
    assert_eq!(all.held(), Some(old));
    all.0.take_relationships(ended, Relationships::new());
    assert_eq!(all.0.held.current(&domain("b.test")).troubles, Troubles::default());
    all.says(ill, &new);
    assert_eq!(all.held(), Some(new));
}

#[test]
fn a_path_back_that_one_plugin_knows_outlasts_the_silence_of_another() {
    let (all, last) = (Shared::new(), of_b(1));
    let (knows, restarted) = (all.linked(None), all.linked(None));
    let empty = || Held { bundle: Some(empty_of_b()), ..Held::default() };
    let path = |bundle: &Arc<Bundle>| Held { authentication_bundle: Some(Arc::clone(bundle)), ..empty() };
    all.says_all(knows, path(&last));
    all.says_all(restarted, empty());
    assert_eq!(all.authenticating(), Some(last.clone()));
    let file = Held { authentication_file: Some("/b.json".into()), ..path(&of_b(0)) };
    all.says_all(restarted, file.clone());
    assert_eq!(all.authenticating(), Some(last.clone()), "a memory is newer than the file to begin with");
    all.0.close(knows);
    assert_eq!(all.authenticating(), Some(last));
    all.says_all(restarted, file.clone());
    assert_eq!(all.authenticating(), file.authentication_bundle);
    all.says_all(restarted, empty());
    assert_eq!(all.authenticating(), Some(empty_of_b()), "whoever said it takes it back");
}

#[test]
fn a_path_back_is_none_once_the_bundle_authenticates_or_where_its_teller_does_not_see_that() {
    let (all, old, new) = (Shared::new(), of_b(1), of_b(2));
    let (slow, quick) = (all.linked(None), all.linked(None));
    let empty = || Held { bundle: Some(empty_of_b()), ..Held::default() };
    let path = Held { authentication_bundle: Some(old.clone()), ..empty() };
    all.says_all(slow, path.clone());
    all.says(quick, &new);
    assert_eq!(all.authenticating(), Some(new));
    all.says_all(quick, empty());
    assert_eq!(all.authenticating(), Some(old.clone()));
    all.api(slow, ILL);
    all.says_all(quick, empty());
    assert_eq!(all.authenticating(), Some(empty_of_b()), "its memory may be from before a revocation");
    all.api(quick, ILL);
    all.says_all(slow, path);
    assert_eq!(all.authenticating(), Some(old));
}
