//! YAML into Kubernetes' types, with nothing left over.

use anyhow::{Context as _, bail};
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The documents of a YAML file, without the empty ones.
///
/// # Errors
/// When it is no YAML, or a key is given twice.
pub fn documents(yaml: &str) -> anyhow::Result<Vec<Value>> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("not YAML")?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

/// An object as its type. The types drop fields that they do not know and add those that are missing, so the object is
/// written again and compared: a field that is misspelt, in the wrong place or missing is an error.
///
/// # Errors
/// With each field that is different after the round trip.
pub fn typed<T: DeserializeOwned + Serialize>(object: Value) -> anyhow::Result<T> {
    let parsed: T = serde_json::from_value(object.clone())?;
    let mut differences = Vec::new();
    compare("", &object, &serde_json::to_value(&parsed)?, &mut differences);
    if !differences.is_empty() {
        bail!("{}", differences.join("\n"));
    }
    Ok(parsed)
}

fn compare(path: &str, given: &Value, taken: &Value, differences: &mut Vec<String>) {
    match (given, taken) {
        (Value::Object(given), Value::Object(taken)) => {
            for (key, value) in given {
                match taken.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, differences),
                    None => differences.push(format!("{path}.{key}: there is no such field, or it has no value")),
                }
            }
            let missing = taken.keys().filter(|key| !given.contains_key(*key));
            differences.extend(missing.map(|key| format!("{path}.{key}: is required")));
        }
        (Value::Array(given), Value::Array(taken)) if given.len() == taken.len() => {
            for (index, (value, other)) in given.iter().zip(taken).enumerate() {
                compare(&format!("{path}[{index}]"), value, other, differences);
            }
        }
        _ if given == taken => {}
        _ => differences.push(format!("{path}: {given} was taken as {taken}")),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    fn service(spec: Value) -> anyhow::Result<Service> {
        typed(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a" }, "spec": spec }))
    }

    #[test]
    fn an_object_with_nothing_left_over_is_taken() {
        let ports = json!([{ "name": "http", "port": 80, "targetPort": "http" }]);
        assert!(service(json!({ "selector": { "app": "a" }, "ports": ports })).is_ok());
    }

    #[test]
    fn a_misspelt_field_a_missing_one_and_a_wrong_kind_are_refused() {
        let refused = |spec| service(spec).unwrap_err().to_string();
        assert!(refused(json!({ "selectors": { "app": "a" } })).contains(".spec.selectors"));
        assert!(refused(json!({ "ports": [{ "name": "http" }] })).contains(".spec.ports[0].port: is required"));
        assert!(refused(json!({ "selector": null })).contains(".spec.selector"));
        assert!(refused(json!({ "ports": "http" })).contains("expected"));
        let other = json!({ "apiVersion": "v1", "kind": "Servise", "metadata": { "name": "a" } });
        assert!(typed::<Service>(other).is_err());
    }
}
