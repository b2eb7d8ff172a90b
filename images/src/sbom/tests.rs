use cyclonedx_bom::prelude::{Bom, Validate};

use super::*;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn names<'a>(document: &'a Value, list: &str) -> BTreeSet<&'a str> {
    document[list].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect()
}

#[test]
fn the_edges_of_a_tree_that_is_not_shown_again_are_kept() {
    let text =
        "0 a v1.0.0 (/src/a)\n1 b v1.0.0\n2 c v0.1.0\n1 c v0.1.0\n\n0 d v1.0.0 (/src/d)\n1 b v1.0.0 (*)\n";
    let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
    let expected = BTreeMap::from([
        (id("a", "1.0.0"), BTreeSet::from([id("b", "1.0.0"), id("c", "0.1.0")])),
        (id("b", "1.0.0"), BTreeSet::from([id("c", "0.1.0")])),
        (id("c", "0.1.0"), BTreeSet::new()),
        (id("d", "1.0.0"), BTreeSet::from([id("b", "1.0.0")])),
    ]);
    assert_eq!(parse_tree(text).unwrap(), expected);
}

#[test]
fn a_line_that_is_not_understood_is_no_dependency_that_is_left_out() {
    for text in ["a v1.0.0", "0 a", "0 a 1.0.0", "1 a v1.0.0", "0 a v1.0.0\n2 b v1.0.0", "warning: x"] {
        assert!(matches!(parse_tree(text), Err(SbomError::Tree { .. })), "{text}");
    }
}

#[test]
fn each_document_is_valid_and_says_what_is_linked_in_and_no_more() {
    let products: Vec<&Product> = crate::PRODUCTS.iter().collect();
    let materials = Materials::of(workspace(), &products).unwrap();
    let (program, authorities) = (Digest::of(b"program"), Digest::of(b"authorities"));
    for product in products {
        let subject = Subject {
            product,
            program: &program,
            web_authorities: Some(&authorities),
            created: 1_700_000_000,
        };
        let document = materials.document(&subject).unwrap();
        assert_eq!(document, materials.document(&subject).unwrap());
        let text = serde_json::to_string(&document).unwrap();
        let read = Bom::parse_from_json_v1_5(text.as_bytes()).expect("a document that others read");
        let validation = read.validate();
        assert!(validation.passed(), "{}: {validation:?}", product.name);
        let parts = names(&document, "components");
        for linked in
            ["aws-lc-sys", "tokio", "rustls", "rust-std", "musl", "ca-certificates", "entente-bundle"]
        {
            assert!(parts.contains(linked), "{}: no {linked}", product.name);
        }
        // Of tests, of build scripts, of macros, of other members, of the root itself.
        for foreign in
            ["rcgen", "proptest", "cc", "syn", "serde_derive", "protox", "indicatif", product.package]
        {
            assert!(!parts.contains(foreign), "{}: {foreign}", product.name);
        }
    }
}

#[test]
fn every_reference_of_a_document_leads_somewhere() {
    let product = Product::named("bundle-endpoint").unwrap();
    let materials = Materials::of(workspace(), &[product]).unwrap();
    let program = Digest::of(b"program");
    let subject = Subject { product, program: &program, web_authorities: None, created: 0 };
    let document = materials.document(&subject).unwrap();
    let mut known: BTreeSet<&str> = document["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| part["bom-ref"].as_str().unwrap())
        .collect();
    known.insert(document["metadata"]["component"]["bom-ref"].as_str().unwrap());
    assert!(!known.contains("ca-certificates"));
    for edge in document["dependencies"].as_array().unwrap() {
        let ends = edge["dependsOn"].as_array().unwrap().iter().chain([&edge["ref"]]);
        for end in ends {
            assert!(known.contains(end.as_str().unwrap()), "{end}");
        }
    }
}

#[test]
fn the_serial_number_is_a_uuid_of_the_program() {
    let number = serial_number(&Digest::of(b"program"));
    let number = number.strip_prefix("urn:uuid:").unwrap();
    let lengths: Vec<usize> = number.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12]);
    assert_ne!(number, serial_number(&Digest::of(b"other")));
}
