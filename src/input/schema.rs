//! The JSON Schema of the input, written from the table of [`super::fields`].
//!
//! `marquee schema` and `/openapi.json` print it. The rules between fields are in the descriptions: JSON Schema can
//! express some of them, at the price of error messages that nobody understands.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value};

use super::fields;

/// `MARQUEE_MAX_PROMPT_CHARS` unless configured.
const DEFAULT_MAX_CHARS: usize = 10_000;

/// The `input` member of a job. Only its schema exists: requests are read field by field so that all errors are told.
pub struct Request;

impl JsonSchema for Request {
    fn schema_name() -> Cow<'static, str> {
        "Input".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut properties = Map::new();
        for field in fields::ALL {
            let head = field.head();
            let value = field.schema(DEFAULT_MAX_CHARS);
            let described = |doc: String| {
                let mut schema = value.clone();
                schema.insert("description".to_owned(), doc.into());
                schema
            };
            let mut named = described(head.doc.to_owned());
            if let Some(alias) = head.alias {
                named.insert("x-aliases".to_owned(), vec![alias].into());
                let mut by_alias = described(format!("Another name of {}.", head.name));
                // The default belongs to the field, not to each of its names.
                by_alias.remove("default");
                properties.insert(alias.to_owned(), by_alias.into());
            }
            properties.insert(head.name.to_owned(), named.into());
        }
        let mut schema = Schema::default();
        schema.insert("title".to_owned(), "Marquee input".into());
        schema.insert(
            "description".to_owned(),
            "Parameters of one advertisement. null counts as absent; unknown fields are ignored with a warning.".into(),
        );
        schema.insert("type".to_owned(), "object".into());
        schema.insert("properties".to_owned(), Value::Object(properties));
        schema.insert("additionalProperties".to_owned(), true.into());
        schema
    }
}

/// The schema (draft 2020-12), with the limits of the default configuration.
pub fn schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Request>().to_value()
}
