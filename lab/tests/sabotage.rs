//! A check that cannot fail is a defect: damage in mid-story makes `lab run` end with an error that says so.

mod support;

use entente_lab::spire::Kind;

/// Runs the story with `sabotage`; answers its exit code and everything it printed.
async fn sabotaged(kind: Kind, sabotage: &str) -> Option<(Option<i32>, String)> {
    let _turn = support::turn().await;
    if !support::can_tell(kind) {
        return None;
    }
    let arguments = ["run", "--spire", &kind.to_string(), "--sabotage", sabotage];
    let output = support::lab_command(&arguments).await.output().await.expect("the lab runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if let Some(kept) = printed.lines().find_map(|line| line.strip_prefix("configurations and logs are in "))
    {
        std::fs::remove_dir_all(kept).expect("the folder that was kept");
    }
    Some((output.status.code(), printed))
}

async fn a_killed_endpoint_fails_the_story(kind: Kind) {
    let Some((code, printed)) = sabotaged(kind, "kill-endpoint").await else { return };
    assert_eq!(code, Some(1), "{printed}");
    let failure = printed.lines().find(|line| line.contains('✗')).expect("a failed step");
    assert!(failure.contains("step 3") && failure.contains("bundle-endpoint cluster1.org"), "{failure}");
}

async fn a_corrupt_document_fails_the_story(kind: Kind) {
    let Some((code, printed)) = sabotaged(kind, "corrupt-document").await else { return };
    assert_eq!(code, Some(1), "{printed}");
    let failure = printed.lines().find(|line| line.contains('✗')).expect("a failed step");
    assert!(failure.contains("step 2") && failure.contains("served document of cluster1.org"), "{failure}");
}

#[tokio::test]
async fn a_killed_endpoint_is_noticed_on_the_stand_in() {
    a_killed_endpoint_fails_the_story(Kind::Embedded).await;
}

#[tokio::test]
async fn a_killed_endpoint_is_noticed_on_real_spire() {
    a_killed_endpoint_fails_the_story(Kind::Real).await;
}

#[tokio::test]
async fn a_corrupt_document_is_noticed_on_the_stand_in() {
    a_corrupt_document_fails_the_story(Kind::Embedded).await;
}

#[tokio::test]
async fn a_corrupt_document_is_noticed_on_real_spire() {
    a_corrupt_document_fails_the_story(Kind::Real).await;
}
