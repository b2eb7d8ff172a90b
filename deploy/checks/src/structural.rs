//! Custom resources against the schema in their CRD, which is JSON Schema with few words. Fields that it does not know are refused,
//! as strict validation in the API server does; a word of the schema that is not known here is a mistake too, not a hole.

use serde_json::Value;

use crate::object::{at, list, text, texts};

/// What a schema may say without asking anything of a value, or what the schemas of types say anyway.
const SILENT: [&str; 7] = [
    "description",
    "default",
    // Only trustDomain's, and that is parsed by `federation`.
    "pattern",
    // int32 and date-time, neither of which we write.
    "format",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
];

/// The schema of a version in a CRD.
pub(crate) fn schema<'a>(crd: &'a Value, version: &str) -> Option<&'a Value> {
    let version = list(crd, "/spec/versions").iter().find(|one| text(one, "/name") == version)?;
    version.pointer("/schema/openAPIV3Schema")
}

/// Names what in `value` the schema does not allow.
pub(crate) fn check(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    for word in schema.as_object().into_iter().flat_map(|schema| schema.keys()) {
        match word.as_str() {
            "type" => check_type(text(schema, "/type"), value, path, mistakes),
            "required" => {
                for name in texts(schema, "/required").into_iter().filter(|name| value.get(name).is_none()) {
                    mistakes.push(format!("{path}.{name} is missing"));
                }
            }
            "enum" if !list(schema, "/enum").contains(value) => {
                mistakes.push(format!("{path} is {value}, which is none of {}", at(schema, "/enum")));
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(at(schema, "/items"), item, &format!("{path}[{index}]"), mistakes);
                }
            }
            "properties" | "additionalProperties" | "enum" => {}
            known if SILENT.contains(&known) => {}
            unknown => mistakes.push(format!("{path}: the schema says {unknown}, which is not checked here")),
        }
    }
    check_fields(schema, value, path, mistakes);
}

fn check_fields(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    let Some(fields) = value.as_object() else { return };
    let further = schema.get("additionalProperties");
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match at(schema, "/properties").get(name).or(further) {
            Some(known) => check(known, value, &path, mistakes),
            // Of the root and of metadata the CRD says nothing: the API server knows them.
            None if path.starts_with(".metadata.") => {}
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
