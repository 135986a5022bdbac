//! Arbitrary values in every field: a plan, or errors that name their place. Never a panic.

use marquee::input::images::{ImageCaps, Opened};
use marquee::input::{fields, plan as make_plan};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{LIMITS, files};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..60).prop_map(Value::from),
        (0..130i64).prop_map(|n| Value::from(n * 16)),
        ".{0,20}".prop_map(Value::from),
        prop::sample::select(vec![
            "flux",
            "auto",
            "top",
            "png",
            "behind",
            "x.ttf",
            "../x",
            "data:,",
            "iVBORw0KGgo="
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,8}", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let known: Vec<_> =
        fields::ALL.iter().flat_map(|f| [Some(f.head().name), f.head().alias]).flatten().collect();
    prop_oneof![9 => prop::sample::select(known).prop_map(str::to_owned), 1 => ".{0,12}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_object_is_planned_or_refused_by_name(
        members in prop::collection::vec((any_name(), any_json()), 0..8)
    ) {
        let raw: Map<_, _> = members.into_iter().collect();
        match make_plan(&Value::Object(raw.clone()), &LIMITS, || 1) {
            Ok(plan) => prop_assert_eq!(plan.parameters.len(), fields::ALL.len()),
            Err(errors) => {
                prop_assert!(!errors.0.is_empty());
                for error in errors.0 {
                    let name = error.path.strip_prefix("$.").unwrap().split('[').next().unwrap();
                    let known = fields::ALL.iter().any(|f| f.head().name == name || f.head().alias == Some(name));
                    prop_assert!(known, "{}", error.path);
                    prop_assert!(error.message.starts_with("expected") || raw.contains_key(name), "{}", error.message);
                }
            }
        }
    }

    #[test]
    fn any_wrong_value_is_named_by_its_own_field(index in 0..fields::ALL.len(), value in any_json()) {
        let name = fields::ALL[index].head().name;
        if let Err(errors) = make_plan(&json!({ name: value }), &LIMITS, || 1) {
            // start_step alone makes others necessary.
            let own = format!("$.{name}");
            prop_assert!(name == "start_step" || errors.0.iter().all(|e| e.path.starts_with(&own)), "{errors}");
        }
    }

    #[test]
    fn damaged_files_never_panic_nor_pass_the_cap(
        which in 0..6usize, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()
    ) {
        use image::ImageFormat::{Jpeg, Png, WebP};
        let mut file = match which {
            0 => files::written(&files::two_halves(24, 16), Png),
            1 => files::written(&files::two_halves(24, 16), Jpeg),
            2 => files::written(&files::half_transparent(24, 16), WebP),
            3 => files::animated_webp(),
            4 => files::cmyk_jpeg(),
            _ => files::turned_jpeg(),
        };
        let position = at.index(file.len());
        file[position] = byte;
        if byte < 128 {
            file.truncate(cut.index(file.len()));
        }
        let caps = ImageCaps { bytes: 1 << 16, pixels: 1024 };
        if let Ok(image) = Opened::from_bytes(file, caps).and_then(|opened| opened.decode()) {
            prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= caps.pixels);
        }
    }
}
