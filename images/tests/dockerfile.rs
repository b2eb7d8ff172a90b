//! Docker's way to the images gives the same ones: users, programs, files and labels are those of `Product`.

#![allow(clippy::unwrap_used, reason = "also what a test calls may fail it")]

use std::collections::BTreeMap;

use entente_images::{CA_FILE, PRODUCTS};

const DOCKERFILE: &str = include_str!("../Dockerfile");

/// The instructions of each stage, by its name. Lines that go on are one.
fn stages() -> BTreeMap<&'static str, Vec<String>> {
    let mut stages = BTreeMap::new();
    let mut current: Option<&str> = None;
    let mut rest = String::new();
    for line in DOCKERFILE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some((_, name)) = line.strip_prefix("FROM ").and_then(|line| line.split_once(" AS ")) {
            current = Some(name);
        }
        rest.push_str(line.trim());
        if rest.ends_with('\\') {
            rest.pop();
            continue;
        }
        let stage: &mut Vec<String> = stages.entry(current.unwrap()).or_default();
        stage.push(std::mem::take(&mut rest));
    }
    stages
}

fn all<'a>(stage: &'a [String], instruction: &str) -> Vec<&'a str> {
    stage.iter().filter_map(|line| line.strip_prefix(instruction)).map(str::trim).collect()
}

#[test]
fn each_image_has_the_user_the_program_and_the_files_of_its_product() {
    let stages = stages();
    let common = ["labelled", "programs", "sboms"];
    let names: Vec<&str> = stages.keys().copied().filter(|name| !common.contains(name)).collect();
    let mut wanted = PRODUCTS.map(|product| product.name);
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for product in &PRODUCTS {
        let stage = stages.get(product.name).unwrap();
        let (name, path) = (product.name, product.path());
        assert_eq!(all(stage, "FROM"), [format!("labelled AS {name}")]);
        assert_eq!(all(stage, "USER"), [format!("{0}:{0}", product.user)], "{name}");
        assert_eq!(all(stage, "ENTRYPOINT"), [format!("[\"{path}\"]")], "{name}");
        let mut copied = vec![format!("--from=programs --chmod=0755 /programs/{name} {path}")];
        if product.needs_web_authorities() {
            copied.insert(0, format!("--from=programs {CA_FILE} {CA_FILE}"));
        }
        assert_eq!(all(stage, "COPY"), copied, "{name}");
    }
}

#[test]
fn the_labels_are_the_products() {
    let stages = stages();
    for product in &PRODUCTS {
        let labels = [stages.get("labelled").unwrap(), stages.get(product.name).unwrap()];
        let labels = labels.map(|stage| all(stage, "LABEL").join(" ")).join(" ");
        let mut found: Vec<&str> = labels
            .split("org.opencontainers.image.")
            .filter_map(|label| label.split_once('='))
            .map(|(key, _)| key)
            .collect();
        found.sort_unstable();
        let wanted = ["created", "description", "licenses", "revision", "source", "title", "version"];
        assert_eq!(found, wanted, "{}", product.name);
        for (key, value) in [("title", product.name), ("description", product.title)] {
            assert!(
                labels.contains(&format!("image.{key}={value}"))
                    || labels.contains(&format!("image.{key}=\"{value}\"")),
                "{}: {key} is not {value:?} in {labels}",
                product.name
            );
        }
        assert!(labels.contains(concat!("image.licenses=", env!("CARGO_PKG_LICENSE"))), "{labels}");
    }
}
