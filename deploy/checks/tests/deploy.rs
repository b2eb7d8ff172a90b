//! What is in deploy/ holds.

mod support;

use entente_deploy_checks::{Deploy, folder, rendered};

#[test]
fn nothing_is_wrong_with_any_manifest() {
    let deploy = Deploy::read(&folder()).expect("deploy/ is readable");
    assert_eq!(deploy.mistakes(), Vec::<String>::new());
}

#[test]
fn what_is_rendered_is_fresh() {
    let Some(kubectl) = support::kubectl("the rendered files are not compared") else { return };
    assert_eq!(rendered::stale(&folder(), &kubectl).expect("everything renders"), Vec::<String>::new());
}
