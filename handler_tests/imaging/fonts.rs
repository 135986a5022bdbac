//! Names from outside reach fonts below the font folders and nothing else.

use std::fs;

use marquee::imaging::fonts::{BUILT_IN_FONT, FontError, FontLibrary, Origin};
use tempfile::TempDir;

/// A font folder inside a larger one that also holds a font which must not be reached.
struct Folders {
    outer: TempDir,
}

impl Folders {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        fs::create_dir_all(outer.path().join("fonts/brand")).unwrap();
        fs::write(outer.path().join("secret.ttf"), dejavu::serif::bold()).unwrap();
        fs::write(outer.path().join("fonts/brand/Mono.ttf"), dejavu::sans_mono::bold()).unwrap();
        fs::write(outer.path().join("fonts/readme.txt"), "no font").unwrap();
        Self { outer }
    }

    fn library(&self) -> FontLibrary {
        FontLibrary::without_system(vec![self.outer.path().join("fonts")])
    }
}

#[test]
fn a_font_is_found_by_relative_path_and_by_file_name() {
    let folders = Folders::new();
    let library = folders.library();
    for name in ["brand/Mono.ttf", "Mono.ttf", "mono.TTF", "Mono"] {
        assert_eq!(library.resolve(Some(name)).unwrap().family, "DejaVu Sans Mono", "{name}");
    }
    assert_eq!(library.resolve(None).unwrap().origin, Origin::Folder, "the first font of FONT_DIRS");
}

#[test]
fn names_that_leave_the_folders_are_refused() {
    let folders = Folders::new();
    let library = folders.library();
    let absolute = folders.outer.path().join("secret.ttf");
    let inside = folders.outer.path().join("fonts/brand/Mono.ttf");
    for name in [
        "../secret.ttf",
        "brand/../../secret.ttf",
        "brand/../brand/Mono.ttf",
        "..",
        "./brand/Mono.ttf",
        "",
        "brand\\..\\..\\secret.ttf",
        "brand/Mono.ttf\0.png",
        absolute.to_str().unwrap(),
        inside.to_str().unwrap(),
    ] {
        assert_eq!(library.resolve(Some(name)).unwrap_err(), FontError::Outside(name.to_owned()), "{name:?}");
    }
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused_and_not_listed() {
    let folders = Folders::new();
    let fonts = folders.outer.path().join("fonts");
    std::os::unix::fs::symlink("../secret.ttf", fonts.join("link.ttf")).unwrap();
    std::os::unix::fs::symlink("..", fonts.join("up")).unwrap();
    std::os::unix::fs::symlink("brand/Mono.ttf", fonts.join("fine.ttf")).unwrap();
    let library = folders.library();
    assert_eq!(library.resolve(Some("link.ttf")).unwrap_err(), FontError::Outside("link.ttf".into()));
    assert_eq!(
        library.resolve(Some("up/secret.ttf")).unwrap_err(),
        FontError::Outside("up/secret.ttf".into())
    );
    assert!(matches!(library.resolve(Some("secret.ttf")).unwrap_err(), FontError::NotFound { .. }));
    assert_eq!(
        library.resolve(Some("fine.ttf")).unwrap().family,
        "DejaVu Sans Mono",
        "a link within the folder"
    );
    assert!(library.faces().iter().all(|face| face.family != "DejaVu Serif"));
}

#[test]
fn an_unknown_font_is_named_with_what_there_is() {
    let error = Folders::new().library().resolve(Some("Missing.ttf")).unwrap_err().to_string();
    for part in ["Missing.ttf", "Mono.ttf", "FONT_DIRS"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_bare_machine_has_one_font() {
    let library = FontLibrary::without_system(vec!["/nonexistent".into()]);
    assert_eq!(library.faces().len(), 1);
    assert_eq!(library.resolve(None).unwrap().origin, Origin::BuiltIn);
    assert!(library.resolve(Some(BUILT_IN_FONT)).is_ok());
}

#[test]
fn a_broken_font_file_is_left_out() {
    let folders = Folders::new();
    fs::write(folders.outer.path().join("fonts/broken.ttf"), b"\0\x01\0\0 not a font").unwrap();
    assert_eq!(folders.library().faces().len(), 2, "Mono and the built-in one");
}
