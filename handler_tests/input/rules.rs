//! Types, rules between fields, warnings, and the way errors are told.

use marquee::input::ErrorCode;
use marquee::input::plan::{AutoUnload, ProductPosition};
use marquee::job::{Failure, FailureKind};
use marquee::progress::Step;
use serde_json::{Value, json};

use super::files::png;
use super::{accepted, plan, refused};

fn warnings(raw: &Value) -> Vec<String> {
    accepted(raw).warnings
}

fn only_warning(raw: &Value) -> String {
    let found = warnings(raw);
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn integral_floats_are_integers_and_nothing_else_is() {
    let made = accepted(&json!({ "bg_steps": 12.0, "seed": 5.0, "width": 512.0 }));
    assert_eq!((made.background.unwrap().steps, made.seed, made.width), (12, 5, 512));
    assert_eq!(made.parameters["bg_steps"].to_string(), "12");
    for wrong in [json!(true), json!("12"), json!(12.5), json!([12]), json!({})] {
        let (path, code, message) = refused(&json!({ "bg_steps": wrong }));
        assert_eq!((path.as_str(), code), ("$.bg_steps", ErrorCode::WrongType), "{wrong}: {message}");
    }
    assert!(refused(&json!({ "bg_steps": "12" })).2.contains("without quotes"));
    assert!(refused(&json!({ "test_mode": "true" })).2.contains("without quotes"));
    assert_eq!(refused(&json!({ "test_mode": 1 })).1, ErrorCode::WrongType);
    assert_eq!(refused(&json!({ "auto_unload_step1": "auto" })).1, ErrorCode::WrongType);
}

#[test]
fn null_is_absent() {
    let nulls: serde_json::Map<_, _> = marquee::input::fields::ALL
        .iter()
        .flat_map(|f| [Some(f.head().name), f.head().alias])
        .flatten()
        .map(|name| (name.to_owned(), Value::Null))
        .collect();
    let made = accepted(&Value::Object(nulls));
    assert_eq!(made.parameters, accepted(&json!({})).parameters);
    assert!(made.warnings.is_empty(), "{:?}", made.warnings);
}

#[test]
fn seeds_reach_the_whole_of_u64() {
    for seed in [0, 1 << 53, (1 << 53) + 1, u64::MAX] {
        let raw: Value = serde_json::from_str(&format!("{{\"seed\":{seed}}}")).unwrap();
        let made = accepted(&raw);
        assert_eq!((made.seed, &made.parameters["seed"]), (seed, &json!(seed)));
    }
    assert!(refused(&json!({ "seed": -1 })).2.contains("random"));
    for wrong in ["18446744073709551616", "1e19", "0.5"] {
        let raw: Value = serde_json::from_str(&format!("{{\"seed\":{wrong}}}")).unwrap();
        assert_eq!(refused(&raw).0, "$.seed");
    }
}

#[test]
fn a_name_and_its_alias_must_agree() {
    let both = |a: &str, b: &str| json!({ "text_content": "x", "text_prompt": a, "text_model_prompt": b });
    assert!(only_warning(&both("gold", "gold")).contains("text_model_prompt"));
    let (path, code, _) = refused(&both("gold", "silver"));
    assert_eq!((path.as_str(), code), ("$.text_model_prompt", ErrorCode::Conflict));
    let by_alias = accepted(&json!({ "text_content": "x", "negative_prompt": "smoke" }));
    assert_eq!(by_alias.text.unwrap().negative_prompt, "smoke");
    assert_eq!(by_alias.parameters["text_negative_prompt"], "smoke");
    assert_eq!(refused(&json!({ "negative_prompt": 3 })).0, "$.negative_prompt");
}

#[test]
fn all_errors_are_told_at_once() {
    let errors = plan(&json!({
        "bg_steps": 0, "strength": 2, "width": 1000, "bg_model": "fluks", "product_image": "?", "step2_image": 3,
        "font_name": "../x.ttf", "text_steps": "many", "product_position": [1, "a"]
    }))
    .unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "$.product_image",
            "$.bg_model",
            "$.bg_steps",
            "$.product_position[1]",
            "$.strength",
            "$.text_steps",
            "$.font_name",
            "$.step2_image",
            "$.width"
        ]
    );
    let failure = Failure::from(errors);
    assert_eq!(failure.kind, FailureKind::InvalidInput);
    assert!(failure.message.starts_with("the input has 9 errors: $.product_image: "), "{}", failure.message);
    assert!(failure.message.ends_with("and 6 more"), "{}", failure.message);
    assert_eq!(failure.details.as_array().unwrap().len(), 9);
    assert_eq!(failure.details[8]["code"], "not_a_multiple");
    assert!(failure.details[8]["message"].as_str().unwrap().contains("992 and 1008"));
    assert!(failure.details[1]["message"].as_str().unwrap().contains("did you mean \"flux\""));
}

#[test]
fn input_must_be_an_object() {
    for raw in [json!(null), json!([]), json!("x"), json!(1)] {
        assert_eq!(refused(&raw).0, "$");
    }
}

#[test]
fn steps_need_what_came_before() {
    let missing = |raw: Value| -> Vec<(String, ErrorCode)> {
        plan(&raw).unwrap_err().0.into_iter().map(|e| (e.path, e.code)).collect()
    };
    let need = |name: &str| (format!("$.{name}"), ErrorCode::Missing);
    assert_eq!(missing(json!({ "start_step": 2, "text_content": "x" })), [need("step1_image")]);
    assert_eq!(missing(json!({ "start_step": 2, "step1_image": png(16, 16) })), [need("text_content")]);
    assert_eq!(
        missing(json!({ "start_step": 2, "step1_image": png(16, 16), "text_content": " \u{200b}" })),
        [need("text_content")]
    );
    assert_eq!(missing(json!({ "start_step": 3 })), [need("step1_image"), need("step2_image")]);
    assert_eq!(missing(json!({ "start_step": 3, "step1_image": png(16, 16) })), [need("step2_image")]);
    let backwards =
        json!({ "start_step": 2, "stop_step": 1, "text_content": "x", "step1_image": png(16, 16) });
    assert_eq!(missing(backwards), [("$.stop_step".to_owned(), ErrorCode::Conflict)]);
}

#[test]
fn only_the_steps_that_run_are_planned() {
    let runs = |raw: Value| {
        let made = accepted(&raw);
        (made.background.is_some(), made.text.is_some(), made.composition.is_some())
    };
    assert_eq!(runs(json!({ "text_content": "x" })), (true, true, true));
    assert_eq!(runs(json!({ "text_content": "x", "stop_step": 2 })), (true, true, false));
    assert_eq!(runs(json!({ "text_content": "x", "stop_step": 1 })), (true, false, false));
    let (one, two) = (png(16, 16), png(16, 16));
    assert_eq!(
        runs(json!({ "text_content": "x", "start_step": 2, "stop_step": 2, "step1_image": one })),
        (false, true, false)
    );
    assert_eq!(
        runs(json!({ "start_step": 3, "step1_image": one, "step2_image": two })),
        (false, false, true),
        "the phrase is in step2_image"
    );
}

#[test]
fn a_blank_phrase_stops_after_step_one() {
    for raw in [json!({}), json!({ "text_content": "" }), json!({ "text_content": " \n\u{3000}\u{200b}" })] {
        let made = accepted(&raw);
        assert_eq!(made.stop, Step::Background);
        assert!(made.text.is_none() && made.composition.is_none());
        assert_eq!(made.parameters["stop_step"], 1);
    }
    assert!(warnings(&json!({})).is_empty());
    assert!(only_warning(&json!({ "text_content": " " })).contains("blank"));
    assert!(only_warning(&json!({ "stop_step": 3 })).contains("missing"));
}

#[test]
fn font_names_stay_below_the_font_folders() {
    for good in ["a.ttf", "noto/NotoSansKR-Bold.otf", "한글 글꼴.ttf", "a..b.ttf", ".hidden/x.ttf"] {
        assert_eq!(
            accepted(&json!({ "text_content": "x", "font_name": good })).text.unwrap().font_name.unwrap(),
            good
        );
    }
    for bad in [
        "../x.ttf",
        "a/../../x.ttf",
        "..",
        "a/..",
        "/etc/passwd",
        "~/x.ttf",
        "a\\..\\x.ttf",
        "C:x.ttf",
        "a\0.ttf",
        "",
        " ",
        "a//b.ttf",
        "./x.ttf",
        "file:///x",
        "a\n.ttf",
    ] {
        let (path, code, _) = refused(&json!({ "font_name": bad }));
        assert_eq!((path.as_str(), code), ("$.font_name", ErrorCode::UnsafePath), "{bad:?}");
    }
}

#[test]
fn places_are_words_or_pixels() {
    let place = |value: Value| {
        let made = accepted(&json!({ "product_image": png(16, 16), "product_position": value }));
        made.background.unwrap().product.unwrap().position
    };
    assert_eq!(place(Value::Null), ProductPosition::Default);
    assert_eq!(place(json!("bottom_right")), ProductPosition::Anchor { horizontal: 1, vertical: 1 });
    assert_eq!(place(json!("top-left")), ProductPosition::Anchor { horizontal: -1, vertical: -1 });
    assert_eq!(place(json!("left")), ProductPosition::Anchor { horizontal: -1, vertical: 0 });
    assert_eq!(place(json!([-10, 20.0])), ProductPosition::At { x: -10, y: 20 });
    let path = |value: Value| refused(&json!({ "product_position": value })).0;
    assert_eq!(path(json!("topleft-ish")), "$.product_position");
    assert_eq!(path(json!([1])), "$.product_position");
    assert_eq!(path(json!([1, 1.5])), "$.product_position[1]");
    assert_eq!(path(json!([5000, 1])), "$.product_position[0]");
    assert_eq!(path(json!([1, 1024])), "$.product_position[1]");
}

#[test]
fn unload_policy_comes_from_step_then_request_then_worker() {
    use AutoUnload::{Auto, No, Yes};
    assert_eq!(accepted(&json!({})).auto_unload, [Yes, Yes, Yes]);
    assert_eq!(accepted(&json!({ "auto_unload": "auto" })).auto_unload, [Auto, Auto, Auto]);
    let mixed = accepted(&json!({ "auto_unload": false, "auto_unload_step2": true }));
    assert_eq!(mixed.auto_unload, [No, Yes, No]);
    assert_eq!(mixed.parameters["auto_unload_step2"], true);
    assert_eq!(mixed.parameters["auto_unload_step3"], false);
}

#[test]
fn unknown_fields_are_warned_about_with_a_hint() {
    assert!(only_warning(&json!({ "bg_step": 3 })).contains("did you mean \"bg_steps\""));
    assert!(only_warning(&json!({ "bg-prompt": "x" })).contains("did you mean \"bg_prompt\""));
    assert!(!only_warning(&json!({ "frobnicate": 3 })).contains("did you mean"));
    let many: serde_json::Map<_, _> = (0..1000).map(|i| (format!("zz{i}"), json!(1))).collect();
    let found = warnings(&Value::Object(many));
    assert_eq!(found.len(), 21);
    assert!(found[20].starts_with("980 more"), "{}", found[20]);
}

#[test]
fn values_without_effect_are_remarked_on() {
    assert!(only_warning(&json!({ "bg_negative_prompt": "x" })).contains("true_cfg_scale"));
    assert!(warnings(&json!({ "bg_negative_prompt": "x", "true_cfg_scale": 2 })).is_empty());
    assert!(warnings(&json!({ "bg_negative_prompt": "x", "bg_model": "sdxl" })).is_empty());
    assert!(only_warning(&json!({ "true_cfg_scale": 2, "bg_model": "sdxl" })).contains("flux"));
    let merged = json!({ "true_cfg_scale": 2, "bg_model": "sdxl", "text_content": "x", "composition_negative_prompt": "y" });
    assert!(warnings(&merged).is_empty(), "the merge is flux's");
    assert!(
        only_warning(&json!({ "text_content": "x", "composition_negative_prompt": "y" }))
            .contains("above 1: composition_negative_prompt")
    );
    assert!(
        only_warning(&json!({ "product_scale": 0.2, "strength": 1 })).contains("product_scale, strength")
    );
    assert!(
        only_warning(&json!({ "text_content": "x", "stop_step": 2, "composition_mode": "blend" }))
            .contains("step 3 does not run: composition_mode")
    );
    assert!(only_warning(&json!({ "text_content": "x", "stop_step": 1 })).contains("stop_step is 1"));
    assert!(only_warning(&json!({ "step1_image": png(16, 16) })).contains("start_step is 1"));
}
