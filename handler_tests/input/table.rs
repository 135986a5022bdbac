//! The table of the specification as data, held against the validator, the schema and the echo.

use marquee::input::{fields, schema};
use serde_json::{Map, Value, json};

use super::{accepted, plan, refused};

/// Name, alias, default with flux, and range of a number.
type Row = (&'static str, Option<&'static str>, Value, Option<(f64, f64)>);

fn rows() -> Vec<Row> {
    let any = || Value::from("(any text)");
    vec![
        ("start_step", None, json!(1), Some((1.0, 3.0))),
        ("stop_step", None, json!(3), Some((1.0, 3.0))),
        ("text_content", None, Value::Null, None),
        ("product_image", Some("input_image"), Value::Null, None),
        ("bg_prompt", None, any(), None),
        ("bg_negative_prompt", None, any(), None),
        ("bg_model", None, json!("flux"), None),
        ("bg_steps", None, json!(25), Some((1.0, 50.0))),
        ("bg_composition_prompt", None, any(), None),
        ("bg_composition_negative_prompt", None, any(), None),
        ("product_scale", None, json!(0.4), Some((0.05, 1.0))),
        ("product_position", None, json!("default"), None),
        ("strength", None, json!(0.5), Some((0.0, 1.0))),
        ("guidance_scale", None, json!(3.5), Some((1.0, 20.0))),
        ("true_cfg_scale", None, json!(1.0), Some((1.0, 10.0))),
        ("text_prompt", Some("text_model_prompt"), any(), None),
        ("text_negative_prompt", Some("negative_prompt"), any(), None),
        ("text_steps", None, json!(30), Some((1.0, 50.0))),
        ("controlnet_conditioning_scale", None, json!(1.0), Some((0.0, 2.0))),
        ("font_name", None, Value::Null, None),
        ("step1_image", None, Value::Null, None),
        ("step2_image", None, Value::Null, None),
        ("composition_mode", None, json!("overlay"), None),
        ("text_position", None, json!("top"), None),
        ("composition_prompt", None, Value::Null, None),
        ("composition_negative_prompt", None, Value::Null, None),
        ("composition_strength", None, json!(0.4), Some((0.0, 1.0))),
        ("composition_steps", None, json!(28), Some((10.0, 50.0))),
        ("composition_guidance_scale", None, json!(3.5), Some((1.0, 7.0))),
        ("width", None, json!(1024), Some((256.0, 2048.0))),
        ("height", None, json!(1024), Some((256.0, 2048.0))),
        ("seed", None, Value::Null, Some((0.0, u64::MAX as f64))),
        ("test_mode", None, json!(false), None),
        ("auto_unload", None, Value::Null, None),
        ("auto_unload_step1", None, Value::Null, None),
        ("auto_unload_step2", None, Value::Null, None),
        ("auto_unload_step3", None, Value::Null, None),
        ("output_format", None, json!("png"), None),
        ("return_intermediate", None, json!(true), None),
    ]
}

fn properties() -> Map<String, Value> {
    schema()["properties"].as_object().unwrap().clone()
}

#[test]
fn fields_are_those_of_the_table_in_its_order() {
    let wanted: Vec<_> = rows().iter().map(|row| (row.0, row.1)).collect();
    let found: Vec<_> = fields::ALL.iter().map(|f| (f.head().name, f.head().alias)).collect();
    assert_eq!(found, wanted);
    let echoed: Vec<_> = accepted(&json!({})).parameters.into_iter().map(|(name, _)| name).collect();
    assert_eq!(echoed, wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let aliases = wanted.iter().filter(|(_, alias)| alias.is_some()).count();
    assert_eq!(properties().len(), wanted.len() + aliases);
}

#[test]
fn schema_says_what_the_table_says() {
    let properties = properties();
    for (name, alias, default, range) in rows() {
        let property = &properties[name];
        assert!(property["description"].as_str().is_some_and(|d| d.len() > 10), "{name}");
        match &default {
            Value::String(any) if any == "(any text)" => assert!(property["default"].is_string(), "{name}"),
            other => assert_eq!(property.get("default").unwrap_or(&Value::Null), other, "{name}"),
        }
        if let Some((min, max)) = range {
            assert_eq!(property["minimum"].as_f64(), Some(min), "{name}");
            assert_eq!(property["maximum"].as_f64(), Some(max), "{name}");
        }
        if let Some(alias) = alias {
            assert_eq!(property["x-aliases"], json!([alias]));
            assert_eq!(properties[alias]["type"], property["type"]);
        }
    }
    assert_eq!(properties["width"]["multipleOf"], json!(16));
    assert_eq!(properties["height"]["multipleOf"], json!(16));
    assert_eq!(properties["bg_model"]["enum"], json!(["flux", "sdxl", null]));
    assert_eq!(properties["composition_mode"]["enum"], json!(["overlay", "blend", "behind", null]));
    assert_eq!(properties["text_position"]["enum"], json!(["top", "center", "bottom", "auto", null]));
    assert_eq!(properties["output_format"]["enum"], json!(["png", "jpeg", "webp", null]));
    assert_eq!(properties["auto_unload"]["enum"], json!([true, false, "auto", null]));
}

#[test]
fn defaults_are_used_and_echoed() {
    let made = accepted(&json!({ "text_content": "Sale" }));
    for (name, _, default, _) in rows() {
        let echoed = &made.parameters[name];
        match (name, &default) {
            ("seed", _) => assert_eq!(echoed, &json!(super::RANDOM_SEED)),
            ("text_content", _) => assert_eq!(echoed, "Sale"),
            (name, _) if name.starts_with("auto_unload") => assert_eq!(echoed, true),
            (_, Value::String(any)) if any == "(any text)" => assert!(!echoed.as_str().unwrap().is_empty()),
            _ => assert_eq!(echoed, &default, "{name}"),
        }
    }
    assert_eq!(made.seed, super::RANDOM_SEED);
    let sdxl = accepted(&json!({ "bg_model": "sdxl" })).parameters;
    assert_eq!((&sdxl["bg_steps"], &sdxl["guidance_scale"]), (&json!(30), &json!(7.5)));
}

/// What the schema's own keywords say about a number.
fn schema_accepts(property: &Value, value: &Value) -> bool {
    let number = value.as_f64().unwrap();
    let integral = property["type"][0] != "integer" || number.fract() == 0.0;
    let multiple = property["multipleOf"].as_f64().is_none_or(|step| number % step == 0.0);
    integral
        && multiple
        && property["minimum"].as_f64().is_none_or(|min| number >= min)
        && property["maximum"].as_f64().is_none_or(|max| number <= max)
}

#[test]
fn validator_and_schema_agree_at_every_limit() {
    let properties = properties();
    let mut checked = 0;
    for (name, _, _, range) in rows() {
        let Some((min, max)) = range.filter(|_| name != "seed") else { continue };
        let integer = properties[name]["type"][0] == "integer";
        let outside = if integer { 1.0 } else { 0.001 };
        for (value, good) in [
            (min, true),
            (max, true),
            (min - outside, false),
            (max + outside, false),
            (min + 0.5, !integer && min + 0.5 <= max),
            (max * 1e9, false),
            (-1e300, false),
            (min + 1.0, name != "width" && name != "height" && min + 1.0 <= max),
        ] {
            let mut raw = json!({ name: value });
            // Rules between fields must not hide the limit.
            match name {
                "start_step" if value >= 2.0 => {
                    raw["step1_image"] = super::files::png(16, 16).into();
                    raw["step2_image"] = super::files::png(16, 16).into();
                    raw["text_content"] = "Sale".into();
                }
                _ => {}
            }
            let outcome = plan(&raw);
            assert_eq!(outcome.is_ok(), good, "{name} = {value}: {outcome:?}");
            assert_eq!(schema_accepts(&properties[name], &json!(value)), good, "schema: {name} = {value}");
            if let Err(errors) = outcome {
                assert_eq!(errors.0[0].path, format!("$.{name}"));
            }
            checked += 1;
        }
    }
    assert_eq!(checked, 14 * 8, "numeric fields");
}

#[test]
fn every_place_of_the_schema_is_accepted() {
    let places = properties()["product_position"]["anyOf"][0]["enum"].as_array().unwrap().clone();
    assert!(places.len() > 20);
    let picture = super::files::png(16, 16);
    for place in places {
        accepted(&json!({ "product_image": picture, "product_position": place }));
    }
    let echoed = accepted(&json!({ "product_image": picture, "product_position": "top_left" }));
    assert_eq!(echoed.parameters["product_position"], "top-left");
}

#[test]
fn texts_are_capped_in_characters() {
    let text_fields: Vec<_> = properties()
        .into_iter()
        .filter(|(_, p)| p["maxLength"].is_u64())
        .map(|(name, p)| (name, p["maxLength"].clone()))
        .collect();
    assert_eq!(text_fields.len(), 12);
    for (name, cap) in text_fields {
        assert_eq!(cap, 10_000, "{name}");
        accepted(&json!({ &name: "가".repeat(10_000) }));
        let (path, _, message) = refused(&json!({ &name: "가".repeat(10_001) }));
        assert_eq!(path, format!("$.{name}"));
        assert!(message.contains("10001"), "{message}");
    }
    let million = refused(&json!({ "bg_prompt": "x".repeat(1 << 20) }));
    assert!(million.2.len() < 100, "{}", million.2);
}
