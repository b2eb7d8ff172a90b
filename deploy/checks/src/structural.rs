//! Custom resources against the schema in their CRD, which is JSON Schema with few words. Fields that it does not know are refused,
//! as strict validation in the API server does; a word of the schema that is not known here is a mistake too, not a hole.

use serde_json::Value;

use crate::object::{at, list, text, texts};

/// What a schema may say without asking anything of a value, or what the schemas of types say anyway.
const SILENT: [&str; 11] = [
    "description",
    "default",
    "nullable",
    // trustDomain's is parsed by `federation`; Istio's are of names and durations that we do not write.
    "pattern",
    // int32, double and date-time.
    "format",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    // CEL, which only an API server runs. Istio's own validation asks the same, and more: lab/tests/istio_charts.rs has it.
    "x-kubernetes-validations",
];

/// The schema of a version in a CRD.
pub(crate) fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let version = list(crd, "/spec/versions").iter().find(|one| text(one, "/name") == version)?;
    version.pointer("/schema/openAPIV3Schema")
}

/// Names what in `value` the schema does not allow.
pub(crate) fn check(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    if value.is_null() && at(schema, "/nullable") == true {
        return;
    }
    check_words(schema, value, path, mistakes);
    if at(schema, "/x-kubernetes-preserve-unknown-fields") != true {
        check_fields(schema, value, path, mistakes);
    }
}

fn check_words(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    for (word, wanted) in schema.as_object().into_iter().flatten() {
        match word.as_str() {
            "type" => check_type(wanted.as_str().unwrap_or_default(), value, path, mistakes),
            "required" => {
                for name in texts(schema, "/required").into_iter().filter(|name| value.get(name).is_none()) {
                    mistakes.push(format!("{path}.{name} is missing"));
                }
            }
            "enum" if !list(schema, "/enum").contains(value) => {
                mistakes.push(format!("{path} is {value}, which is none of {wanted}"));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(wanted, item, &format!("{path}[{index}]"), mistakes);
                }
            }
            "oneOf" | "anyOf" | "allOf" | "not" if !combines(word, wanted, value) => {
                mistakes.push(format!("{path}: {word} of the schema is not met: {wanted}"));
            }
            "properties" | "additionalProperties" | "enum" | "oneOf" | "anyOf" | "allOf" | "not" => {}
            known if SILENT.contains(&known) => {}
            bound => match size(bound, value) {
                Some((size, is_lower)) => {
                    let limit = wanted.as_f64().unwrap_or(f64::NAN);
                    if !(if is_lower { size >= limit } else { size <= limit }) {
                        mistakes.push(format!("{path} is {value}: {bound} is {wanted}"));
                    }
                }
                None => mistakes.push(format!("{path}: the schema says {bound}, which is not checked here")),
            },
        }
    }
}

/// Whether schemas that are put together hold. They only narrow: which fields there are stands in the schema around them.
fn combines(word: &str, schemas: &Value, value: &Value) -> bool {
    let holds = |schema: &Value| {
        let mut found = Vec::new();
        check_words(schema, value, "", &mut found);
        let properties = at(schema, "/properties").as_object().into_iter().flatten();
        for (name, schema) in properties {
            if let Some(inner) = value.get(name) {
                check_words(schema, inner, "", &mut found);
            }
        }
        found.is_empty()
    };
    let count = schemas.as_array().map_or(0, |schemas| schemas.iter().filter(|schema| holds(schema)).count());
    match word {
        "oneOf" => count == 1,
        "anyOf" => count > 0,
        "allOf" => Some(count) == schemas.as_array().map(Vec::len),
        _ => !holds(schemas),
    }
}

/// What a bound is about, and whether it is a lower one. A value of another type is not bound by it.
fn size(bound: &str, value: &Value) -> Option<(f64, bool)> {
    let free = if bound.starts_with("min") { f64::INFINITY } else { f64::NEG_INFINITY };
    let length = |length: Option<usize>| length.and_then(|length| u32::try_from(length).ok()).map(f64::from);
    let size = match bound {
        "minimum" | "maximum" => value.as_f64(),
        "minLength" | "maxLength" => length(value.as_str().map(|text| text.chars().count())),
        "minItems" | "maxItems" => length(value.as_array().map(Vec::len)),
        "minProperties" | "maxProperties" => length(value.as_object().map(serde_json::Map::len)),
        _ => return None,
    };
    Some((size.unwrap_or(free), bound.starts_with("min")))
}

fn check_fields(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    let Some(fields) = value.as_object() else { return };
    let further = schema.get("additionalProperties");
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match at(schema, "/properties").get(name).or(further) {
            Some(known) => check(known, value, &path, mistakes),
            // Of these a CRD says nothing: the API server knows them.
            None if path.starts_with(".metadata.") => {}
            None if matches!(path.as_str(), ".apiVersion" | ".kind" | ".metadata") => {}
            None => mistakes.push(format!("unknown field {path}")),
        }
    }
}

fn check_type(wanted: &str, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    };
    if !fits {
        mistakes.push(format!("{path} is {value}, expected {wanted}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mistakes(schema: &Value, value: &Value) -> Vec<String> {
        let mut mistakes = Vec::new();
        check(schema, value, "", &mut mistakes);
        mistakes
    }

    #[test]
    fn one_of_several_means_exactly_one() {
        let one_of = json!([{"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
                            {"required": ["a"]}, {"required": ["b"]}]);
        let schema = json!({"type": "object", "properties": {"a": {}, "b": {}}, "oneOf": one_of});
        for value in [json!({}), json!({"a": 1}), json!({"b": 1})] {
            assert_eq!(mistakes(&schema, &value), Vec::<String>::new());
        }
        assert!(mistakes(&schema, &json!({"a": 1, "b": 1})).iter().any(|one| one.contains("oneOf")));
    }

    #[test]
    fn bounds_are_of_numbers_texts_lists_and_maps() {
        for (schema, good, bad) in [
            (json!({"minimum": 0, "maximum": 65535}), json!(15443), json!(-1)),
            (json!({"maximum": 65535}), json!(65535), json!(65536)),
            (json!({"minLength": 1}), json!("x"), json!("")),
            (json!({"maxItems": 1}), json!([1]), json!([1, 2])),
            (json!({"minProperties": 1, "additionalProperties": {}}), json!({"a": 1}), json!({})),
        ] {
            assert_eq!(mistakes(&schema, &good), Vec::<String>::new(), "{schema}");
            assert_eq!(mistakes(&schema, &bad).len(), 1, "{schema}");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_no_hole() {
        assert!(mistakes(&json!({"multipleOf": 2}), &json!(2))[0].contains("is not checked here"));
    }
}
