//! When SPIRE is asked who keeps a bundle, and what its answers mean.

use super::*;

fn name() -> TrustDomain {
    TrustDomain::new("b.test").unwrap()
}

fn failed(code: Code) -> Result<(), ApiError> {
    failed_with(code, "x")
}

fn failed_with(code: Code, text: &str) -> Result<(), ApiError> {
    Err(ApiError::Call { call: "RefreshBundle", code, text: text.into() })
}

fn timeout() -> Result<(), ApiError> {
    Err(ApiError::Timeout { call: "RefreshBundle", deadline: Duration::from_secs(30) })
}

/// Asks what is due about the one name; true where there was something.
fn ask(keeping: &Keeping, answer: &Result<(), ApiError>, now: Instant) -> bool {
    let due = keeping.due(&[name()], now);
    for question in &due {
        keeping.answered(&question.trust_domain, answer, now);
        keeping.end(question, now);
    }
    !due.is_empty()
}

/// Seconds at which SPIRE is asked, while `answer` is what it says.
fn asked(answer: fn() -> Result<(), ApiError>, seconds: u64) -> Vec<u64> {
    let (keeping, start) = (Keeping::default(), Instant::now());
    let is_asked = |second: &u64| ask(&keeping, &answer(), start + Duration::from_secs(*second));
    (0..seconds).filter(is_asked).collect()
}

#[test]
fn until_spire_has_said_that_it_keeps_the_bundle_nobody_does() {
    let (keeping, now) = (Keeping::default(), Instant::now());
    assert_eq!(keeping.due(&[name()], now).len(), 1);
    assert!(keeping.trouble(&name()).unwrap().contains("has not said yet"));
    assert!(keeping.due(&[name()], now + LONGEST_RETRY).is_empty(), "one question at a time");
    let fetch_failed = "failed to refresh bundle: failed to fetch federated bundle from endpoint";
    for (answer, trouble) in [
        (failed(Code::PermissionDenied), Some("has not said yet")),
        (timeout(), Some("did not answer within 30s")),
        (failed_with(Code::Internal, "h2 protocol error"), Some("has not said yet")),
        (failed_with(Code::Unknown, fetch_failed), Some("has not said yet")),
        (failed(Code::NotFound), Some("no relationship in SPIRE names b.test: nothing keeps")),
        (timeout(), Some("no relationship in SPIRE names b.test: nothing keeps")),
        (failed(Code::PermissionDenied), Some("nothing keeps")),
        (failed_with(Code::Internal, fetch_failed), None),
        (failed(Code::Unavailable), None),
        (timeout(), None),
        (failed(Code::NotFound), Some("nothing keeps")),
        (Ok(()), None),
    ] {
        keeping.answered(&name(), &answer, now);
        let told = keeping.trouble(&name());
        assert_eq!(told.is_some(), trouble.is_some(), "{answer:?}: {told:?}");
        assert!(told.unwrap_or_default().contains(trouble.unwrap_or_default()), "{answer:?}");
    }
    let due = keeping.due(&[name()], now + STANDING);
    assert!(due.is_empty(), "what others ask is no answer to our question");
}

#[test]
fn until_spire_keeps_it_it_is_asked_ever_later_and_then_seldom() {
    let ever_later = [0, 5, 15, 35, 75, 155, 315, 615, 915];
    assert_eq!(asked(|| failed(Code::NotFound), 1000), ever_later);
    assert_eq!(asked(timeout, 1000), ever_later);
    assert_eq!(asked(|| Ok(()), 2000), [0, 900, 1800]);
}

#[test]
fn what_spire_keeps_no_more_is_asked_about_as_often_as_at_first() {
    let (keeping, now) = (Keeping::default(), Instant::now());
    assert!(ask(&keeping, &Ok(()), now));
    keeping.answered(&name(), &failed(Code::NotFound), now);
    assert!(ask(&keeping, &Ok(()), now + FIRST_RETRY));
}

#[test]
fn what_an_offer_learned_begins_the_waits_anew() {
    let (keeping, start) = (Keeping::default(), Instant::now());
    for second in 0..300 {
        ask(&keeping, &failed(Code::NotFound), start + Duration::from_secs(second));
    }
    let now = start + Duration::from_secs(300);
    keeping.answered(&name(), &Ok(()), now);
    keeping.answered(&name(), &failed(Code::NotFound), now);
    assert!(ask(&keeping, &failed(Code::NotFound), now + FIRST_RETRY));
    assert!(ask(&keeping, &failed(Code::NotFound), now + FIRST_RETRY * 2));
}

#[test]
fn what_was_listed_meanwhile_is_asked_about_anew() {
    let (keeping, start) = (Keeping::default(), Instant::now());
    assert!(ask(&keeping, &Ok(()), start));
    assert!(keeping.due(&[], start).is_empty(), "listed now");
    assert_eq!(keeping.trouble(&name()), None);
    assert!(ask(&keeping, &Ok(()), start), "and not any more");
}

#[test]
fn nothing_is_asked_while_spire_may_not_poll_what_it_lists() {
    let (keeping, start) = (Keeping::default(), Instant::now());
    let listed = SpireRelationships::from([(TrustDomain::new("c.test").unwrap(), None)]);
    keeping.take_listed(&SpireRelationships::new(), start);
    keeping.take_listed(&listed, start);
    assert!(!ask(&keeping, &Ok(()), start));
    assert!(keeping.trouble(&name()).unwrap().contains("has not said yet"));
    assert!(ask(&keeping, &Ok(()), start + Duration::from_secs(11)));
}

#[test]
fn an_answer_about_what_is_listed_or_not_declared_changes_nothing() {
    let (keeping, now) = (Keeping::default(), Instant::now());
    keeping.answered(&name(), &failed(Code::NotFound), now);
    assert_eq!(keeping.trouble(&name()), None);
}

#[tokio::test]
async fn a_question_that_panicked_is_asked_again_after_a_while() {
    let (keeping, now) = (Keeping::default(), Instant::now());
    let question = keeping.due(&[name()], now).pop().unwrap();
    keeping.clone().ask(question, async { panic!("for this test") }).await;
    assert!(!ask(&keeping, &Ok(()), now), "not at once");
    assert!(ask(&keeping, &Ok(()), now + STANDING));
}

#[tokio::test]
async fn a_question_that_waited_while_its_name_was_listed_is_not_asked_beside_the_next_one() {
    let (keeping, now) = (Keeping::default(), Instant::now());
    let older = keeping.due(&[name()], now).pop().unwrap();
    keeping.due(&[], now);
    let newer = keeping.due(&[name()], now).pop().unwrap();
    let mut is_asked = false;
    let refresh = async {
        is_asked = true;
        Ok(())
    };
    keeping.clone().ask(older, refresh).await;
    assert!(!is_asked, "the newer one is");
    assert!(keeping.due(&[name()], now + STANDING).is_empty(), "the newer one is not answered yet");
    keeping.clone().ask(newer, async { Ok(()) }).await;
    assert_eq!(keeping.trouble(&name()), None);
}
