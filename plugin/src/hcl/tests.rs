use proptest::prelude::*;

use super::*;

fn string(text: &str) -> Value {
    Value::String(text.into())
}

fn item(key: &str, labels: &[&str], value: Value) -> Item {
    Item { key: key.into(), labels: labels.iter().map(|&label| label.into()).collect(), value }
}

fn object(items: Vec<Item>) -> Value {
    Value::Object(Object { items })
}

#[test]
fn the_native_form_is_read() {
    let text = r#"# lead comment
endpoint = "unix:///run/entente/link.sock" // and another

serve_as_server = true /* and
a third */ refresh_hint = "5m"

federates_with "cluster2.org" {
  bundle_endpoint_profile "https_web" {}
}"#;
    let profile = item("bundle_endpoint_profile", &["https_web"], object(vec![]));
    assert_eq!(
        parse(text).unwrap().items,
        vec![
            item("endpoint", &[], string("unix:///run/entente/link.sock")),
            item("serve_as_server", &[], Value::Bool(true)),
            item("refresh_hint", &[], string("5m")),
            item("federates_with", &["cluster2.org"], object(vec![profile])),
        ]
    );
}

#[test]
fn the_quoted_key_form_and_json_give_the_same_tree() {
    let quoted = "\"a\" = \"x\"\n\n\"tls\" = {\n  \"b\" = [1, 2.5, \"c\",]\n}";
    let json = r#"{ "a": "x", "tls": { "b": [1, 2.5, "c"] } }"#;
    assert_eq!(parse(quoted).unwrap(), parse(json).unwrap());
}

#[test]
fn interpolations_and_percent_braces_are_plain_text() {
    let read = parse(r#"a = "${env("HOME")}/x" b = "%{y}""#).unwrap();
    assert_eq!(
        read.items,
        vec![item("a", &[], string("${env(\"HOME\")}/x")), item("b", &[], string("%{y}"))]
    );
}

#[test]
fn escapes_numbers_and_heredocs_are_read() {
    let read = parse("a = \"q\\\"\\u00e9\\n\\ud83d\\ude00\" b = -3 c = 0x1F d = 1.5e2 e = <<-EOF\n    x\n      y\n    EOF\n")
        .unwrap();
    let values: Vec<Value> = read.items.into_iter().map(|item| item.value).collect();
    assert_eq!(
        values,
        vec![
            string("q\"é\n😀"),
            Value::Integer(-3),
            Value::Integer(31),
            Value::Float(150.0),
            string("x\n  y\n"),
        ]
    );
}

#[test]
fn mistakes_name_line_and_column() {
    for (text, line, column) in [
        ("a = \n}", 2, 1),
        ("a = \"x", 1, 7),
        ("a = yes", 1, 5),
        ("a", 1, 2),
        ("a = [1 2]", 1, 8),
        ("a = 1 }", 1, 7),
        ("= 3", 1, 1),
        ("a = 12monkeys", 1, 14),
    ] {
        match parse(text) {
            Err(HclError::Unexpected { line: l, column: c, .. }) => {
                assert_eq!((l, c), (line, column), "{text:?}")
            }
            other => panic!("{text:?} gave {other:?}"),
        }
    }
}

#[test]
fn what_is_never_closed_is_named_where_it_was_opened() {
    for (text, line, column, bracket) in [
        ("x {\n a = 1", 1, 3, '{'),
        ("{\n \"a\": 1\n", 1, 1, '{'),
        ("x {\n y {\n a = 1\n}\n", 1, 3, '{'),
        ("x {\n y {\n a = 1\n", 2, 4, '{'),
        ("x {}\na = [\n1,\n", 2, 5, '['),
    ] {
        let found = parse(text).expect_err(text);
        assert_eq!(found, HclError::NotClosed { line, column, bracket }, "{text:?}");
    }
}

#[test]
fn the_literal_of_a_plugin_data_string_is_no_block() {
    assert!(matches!(parse("\"just a text\""), Err(HclError::Unexpected { .. })));
}

#[test]
fn depth_and_length_are_bounded() {
    let deep = "a {".repeat(100_000);
    assert!(matches!(parse(&deep), Err(HclError::TooDeep { .. })));
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(matches!(parse(&deep), Err(HclError::TooDeep { .. })));
    assert_eq!(parse(&" ".repeat(MAX_TEXT + 1)), Err(HclError::TooLong));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_soup_of_tokens_makes_it_panic(parts in proptest::collection::vec(
        prop_oneof!["\"", "\\$\\{", "\\}", "\\{", "\\[", "\\]", "=", ",", "<<E", "\nE\n", "a", "\\\\u", "0x", "-", "9e9", "/\\*", "#", " ", "\n"], 0..40)) {
        let _ = parse(&parts.concat());
    }

    #[test]
    fn any_string_survives_being_quoted(text in "[^$]*") {
        let quoted = serde_json::to_string(&text).unwrap();
        let read = parse(&format!("\"key\" = {quoted}")).unwrap();
        prop_assert_eq!(&read.items[0].value, &string(&text));
    }
}
