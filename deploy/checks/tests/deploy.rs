//! What is in deploy/ holds.

use entente_deploy_checks::{Deploy, folder, rendered};

#[test]
fn nothing_is_wrong_with_any_manifest() {
    let deploy = Deploy::read(&folder()).expect("deploy/ is readable");
    assert_eq!(deploy.mistakes(), Vec::<String>::new());
}

#[test]
fn what_is_rendered_is_fresh() {
    let Some(kubectl) = rendered::kubectl() else {
        assert!(std::env::var_os("CI").is_none(), "CI needs kubectl to compare the rendered files");
        println!(
            "left out: no kubectl on the path or in the lab's cache, so the rendered files are not compared"
        );
        return;
    };
    assert_eq!(rendered::stale(&folder(), &kubectl).expect("everything renders"), Vec::<String>::new());
}
