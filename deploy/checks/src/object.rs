//! Objects as the API server sees them: documents of a YAML file, and the few ways in which the checks look into them.

use anyhow::Context as _;
use serde::Deserialize as _;
use serde_json::Value;

/// One document of one file.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) file: String,
    pub(crate) value: Value,
}

/// Nothing, to borrow.
static NULL: Value = Value::Null;

/// What stands at a JSON pointer, or nothing.
pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&NULL)
}

/// The text at a JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

/// The elements of the list at a JSON pointer; none where there is no list.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

/// The texts of the list at a JSON pointer.
pub(crate) fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    list(value, pointer).iter().filter_map(Value::as_str).collect()
}

/// Reads every document of a file. An empty one is none.
pub(crate) fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Object>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("no YAML")?;
        if !value.is_null() {
            objects.push(Object { file: file.into(), value });
        }
    }
    Ok(objects)
}

impl Object {
    pub(crate) fn kind(&self) -> &str {
        text(&self.value, "/kind")
    }

    pub(crate) fn name(&self) -> &str {
        text(&self.value, "/metadata/name")
    }

    pub(crate) fn namespace(&self) -> &str {
        text(&self.value, "/metadata/namespace")
    }

    /// How a message names it.
    pub(crate) fn title(&self) -> String {
        format!("{}: {} {}", self.file, self.kind(), self.name())
    }

    /// The pod template, of kinds that have one.
    pub(crate) fn pod(&self) -> Option<&Value> {
        matches!(self.kind(), "Deployment" | "DaemonSet" | "StatefulSet")
            .then(|| at(&self.value, "/spec/template"))
    }
}

/// Init containers too.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"))
}

/// The tag of an image; empty where it has none.
pub(crate) fn tag(image: &str) -> &str {
    // A colon may also belong to the registry's port.
    image.rsplit('/').next().and_then(|last| last.split_once(':')).map_or("", |(_, tag)| tag)
}

/// Whether a LabelSelector takes something with these `labels`, as the API server reads it: without a condition it takes
/// everything. An operator that nobody knows excludes nothing.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let equal = at(selector, "/matchLabels").as_object().into_iter().flatten();
    let mut expressions = list(selector, "/matchExpressions").iter();
    equal.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|expression| satisfies(expression, labels))
}

fn satisfies(expression: &Value, labels: &Value) -> bool {
    let label = labels.get(text(expression, "/key"));
    let is_listed = label.is_some_and(|label| list(expression, "/values").contains(label));
    match text(expression, "/operator") {
        "In" => is_listed,
        "NotIn" => !is_listed,
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        _ => true,
    }
}

/// Whether `selector` (of labels) hits something with these `labels`. An empty selector hits nothing here: none of ours is.
pub(crate) fn hits(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|wanted| {
        !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn takes(selector: &Value) -> bool {
        selects(selector, &json!({"app": "a", "tier": "front"}))
    }

    #[test]
    fn a_selector_takes_what_satisfies_every_condition() {
        for selector in [
            json!({}),
            json!(null),
            json!({"matchLabels": {"app": "a"}}),
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["b", "a"]}]}),
            json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["x"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            json!({"matchExpressions": [{"key": "zone", "operator": "DoesNotExist"}]}),
        ] {
            assert!(takes(&selector), "{selector}");
        }
        for selector in [
            json!({"matchLabels": {"app": "a", "tier": "back"}}),
            json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "zone", "operator": "Exists"}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["b"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["a"]}]}),
            json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}),
        ] {
            assert!(!takes(&selector), "{selector}");
        }
    }
}
