//! What checks outside this crate may ask of it: would the plugin take these settings, and what does an HCL text say? Nothing of
//! it runs beside SPIRE Server.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::hcl::{self, Value};

/// Reads settings as the plugin would in `trust_domain`.
///
/// # Errors
/// Every mistake, in one text.
pub fn settings(text: &str, trust_domain: &str) -> Result<(), String> {
    Config::read(text, trust_domain).map(drop).map_err(|error| error.to_string())
}

/// Every value of an HCL text by its path: `plugins.KeyManager.disk.plugin_data.keys_path`. A list is divided by commas.
///
/// # Errors
/// Where the text is no HCL, or says the same thing twice.
pub fn values(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    flatten("", &hcl::parse(text).map_err(|error| error.to_string())?, &mut values)?;
    Ok(values)
}

fn flatten(prefix: &str, object: &hcl::Object, values: &mut BTreeMap<String, String>) -> Result<(), String> {
    for item in &object.items {
        let mut path = format!("{prefix}{}", item.key);
        for label in &item.labels {
            path = format!("{path}.{label}");
        }
        if let Value::Object(inner) = &item.value {
            flatten(&format!("{path}."), inner, values)?;
        } else if values.insert(path.clone(), text(&item.value)).is_some() {
            return Err(format!("{path} is there twice"));
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::List(values) => values.iter().map(text).collect::<Vec<_>>().join(","),
        // An object in a list: nothing that SPIRE's own settings have.
        Value::Object(_) => "{...}".into(),
        Value::String(value) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_path() {
        let found = values(
            "agent { port = 1 }\nplugins { A \"b\" { plugin_data { c = { \"d\" = { e = [\"x\", \"y\"] } } } } }",
        );
        let wanted = [("agent.port", "1"), ("plugins.A.b.plugin_data.c.d.e", "x,y")];
        let wanted: BTreeMap<String, String> =
            wanted.into_iter().map(|(path, value)| (path.into(), value.into())).collect();
        assert_eq!(found, Ok(wanted));
    }

    #[test]
    fn a_value_that_is_there_twice_is_a_mistake() {
        assert_eq!(values("a { b = 1\n b = 2 }"), Err("a.b is there twice".into()));
    }

    #[test]
    fn settings_are_judged_as_the_plugin_judges_them() {
        assert!(settings("endpoint = \"unix:///run/entente/link.sock\"", "cluster1.org").is_ok());
        let mistakes = settings("endpiont = \"unix:///run/entente/link.sock\"", "cluster1.org");
        assert!(mistakes.is_err_and(|text| text.contains("endpiont")));
    }
}
