//! No phrase is ever cut off, and none is drawn with empty boxes.

use marquee::imaging::fonts::{FontError, FontLibrary};
use marquee::imaging::masks::bounds;
use marquee::imaging::typeset::{Typeset, TypesetError, typeset};

fn bare() -> FontLibrary {
    FontLibrary::without_system(Vec::new())
}

fn set(text: &str, width: u32, height: u32) -> Typeset {
    typeset(&bare(), text, None, width, height).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn ink_on(set: &Typeset) -> u64 {
    set.canvas.iter().map(|&v| u64::from(v)).sum()
}

#[test]
fn no_ink_is_lost_whatever_the_phrase() {
    let long = "The quick brown fox jumps over the lazy dog. ".repeat(12);
    let huge_word =
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft".repeat(2);
    let lines = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\neleven\ntwelve";
    let marks = "Ç̧̧Å̊̊ ẤỆỘ ǺŚŻ jgpqy ÅÅÅ f̸̸f";
    let phrases = [
        "A",
        "Summer Sale",
        &long,
        &huge_word,
        lines,
        marks,
        "סייל קיץ גדול 50%",
        "تخفيضات الصيف",
        "%\n\n\n%",
        "…",
    ];
    for phrase in phrases {
        for (width, height) in [(1024, 1024), (256, 256), (2048, 256), (256, 2048)] {
            let set = set(phrase, width, height);
            assert_eq!(ink_on(&set), set.ink, "{phrase:?} on {width} x {height}");
            assert!(set.ink > 0);
            let ink = bounds(&set.canvas, 1).unwrap();
            let border = u64::from(width.min(height)) / 100;
            let free = [ink.x0, ink.y0, width - ink.x1, height - ink.y1].map(u64::from);
            assert!(
                free.into_iter().all(|space| space >= border),
                "{phrase:?} on {width} x {height}: {free:?} free"
            );
        }
    }
}

#[test]
fn the_ink_of_a_wrapped_phrase_is_that_of_its_words() {
    // Every letter is drawn: as much ink as the words set alone at the same size.
    let whole = set("AAAA BBBB CCCC DDDD EEEE FFFF", 1024, 1024);
    let scale = f64::from(set("AAAA", 1024, 1024).size / whole.size).powi(2);
    let parts: u64 =
        ["AAAA", "BBBB", "CCCC", "DDDD", "EEEE", "FFFF"].iter().map(|word| set(word, 1024, 1024).ink).sum();
    let ratio = whole.ink as f64 * scale / parts as f64;
    assert!((0.98..1.02).contains(&ratio), "{ratio}");
}

#[test]
fn type_is_160_px_from_100_px_down_and_centred() {
    let set = set("Sale", 1024, 1024);
    assert!((set.size - 160.0).abs() < f32::EPSILON, "{}", set.size);
    let ink = bounds(&set.canvas, 1).unwrap();
    assert_eq!(ink.y0, 100);
    assert!(ink.x0.abs_diff(1024 - ink.x1) <= 2, "{ink:?}");
}

#[test]
fn type_scales_with_the_canvas() {
    assert!((set("Sale", 512, 512).size - 80.0).abs() < f32::EPSILON);
    assert!((set("Sale", 2048, 1024).size - 160.0).abs() < f32::EPSILON, "by the smaller side");
}

#[test]
fn a_phrase_wraps_before_it_shrinks_and_lines_are_balanced() {
    let set = set("Summer Sale", 1024, 1024);
    assert_eq!((set.lines, set.size), (2, 160.0));
    let even = self::set("aaaa bbbb cccc dddd eeee ffff gggg", 1024, 1024);
    let rows = even.canvas.as_raw().chunks_exact(1024);
    let widths: Vec<usize> = rows
        .filter_map(|row| Some(row.iter().rposition(|&v| v > 0)? - row.iter().position(|&v| v > 0)?))
        .collect();
    assert!(widths.iter().max().unwrap() > &0);
    assert!(even.lines >= 3);
}

#[test]
fn decomposed_letters_are_composed() {
    assert_eq!(set("e\u{301}te\u{301}", 512, 512).canvas, set("été", 512, 512).canvas);
}

#[test]
fn control_characters_draw_nothing() {
    assert_eq!(set("a\u{7}b\u{0}", 512, 512).canvas, set("ab", 512, 512).canvas);
    assert_eq!(set("a\r\nb", 512, 512).canvas, set("a\nb", 512, 512).canvas);
    for blank in ["\u{200b}", " \n\t", "\u{7}"] {
        assert_eq!(
            typeset(&bare(), blank, None, 512, 512).unwrap_err(),
            TypesetError::Invisible,
            "{blank:?}"
        );
    }
}

#[test]
fn a_character_that_no_font_has_is_named() {
    let error = typeset(&bare(), "Big 세일 Sale 여름", None, 1024, 1024).unwrap_err();
    let TypesetError::Font(FontError::NoGlyph { characters, .. }) = &error else { panic!("{error}") };
    for part in ["\"세\" (U+C138)", "여", "름"] {
        assert!(characters.contains(part), "{part} in {characters}");
    }
    assert!(!characters.contains("\"B\""), "{characters}");
    let message = error.to_string();
    assert!(message.contains("FONT_DIRS") && message.contains("fonts-nanum"), "{message}");
}

#[test]
fn a_font_without_a_glyph_is_helped_out_and_the_customer_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Serif.ttf"), dejavu::serif::bold()).unwrap();
    let library = FontLibrary::without_system(vec![folder.path().to_owned()]);
    let text = "Sale تخفيضات";
    let set = typeset(&library, text, Some("Serif.ttf"), 1024, 1024).unwrap();
    assert_eq!(set.families, ["DejaVu Serif", "DejaVu Sans"]);
    assert!(
        set.warnings[0].contains("Serif.ttf") && set.warnings[0].contains("DejaVu Sans"),
        "{:?}",
        set.warnings
    );
    let unnamed = typeset(&library, text, None, 1024, 1024).unwrap();
    assert_eq!(
        (unnamed.families.len(), unnamed.warnings.len()),
        (1, 0),
        "one font for all if none was asked for"
    );
}

#[test]
fn a_phrase_too_long_for_any_size_is_refused_with_the_numbers() {
    let error = typeset(&bare(), &"x\n".repeat(5000), None, 256, 256).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TypesetError::TooLong { .. }), "{message}");
    assert!(message.contains("5000 lines") && message.contains("256 x 256"), "{message}");
}

#[test]
fn korean_shapes_where_a_font_has_hangul() {
    // A bare machine has none; the named error above is then the outcome.
    let library = FontLibrary::new(Vec::new());
    match typeset(&library, "여름 Sale 세일 50%", None, 1024, 1024) {
        Ok(set) => {
            assert_eq!(ink_on(&set), set.ink);
            let jamo = typeset(&library, "\u{110b}\u{1167}\u{1105}\u{1173}\u{11b7}", None, 512, 512).unwrap();
            assert_eq!(jamo.canvas, typeset(&library, "여름", None, 512, 512).unwrap().canvas);
        }
        Err(error) => assert!(matches!(error, TypesetError::Font(FontError::NoGlyph { .. })), "{error}"),
    }
}
