//! The commands on nets, on tiny checkpoints: what makes pictures, what compares, what is refused.

use std::path::Path;

use super::{finish, marquee};

/// Runs `words` in `home`.
async fn run(home: &Path, words: &str) -> (i32, String, String) {
    let mut command = marquee(home);
    command.args(words.split_whitespace());
    finish(command).await
}

#[tokio::test]
async fn a_tiny_flux_paints_in_all_three_modes_and_the_seed_decides() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert_eq!(run(home, "models tiny flux").await.0, 0);
    assert_eq!(run(home, "models check flux").await.1, "flux: complete\n");
    let small = "--model flux --width 64 --height 64 --steps 4";
    for (mode, output) in [
        (format!("text-to-image {small} --seed 1"), "a.png"),
        (format!("text-to-image {small} --seed 1"), "b.png"),
        (format!("text-to-image {small} --seed 2"), "c.png"),
        (format!("img2img {small} --image a.png"), "d.png"),
        (format!("inpaint {small} --image a.png --mask c.png"), "e.png"),
    ] {
        let (code, stdout, stderr) = run(home, &format!("generate {mode} --output {output}")).await;
        assert_eq!(code, 0, "{mode}: {stderr}");
        assert!(stdout.starts_with(output), "{stdout}");
    }
    let bytes = |name: &str| std::fs::read(home.join(name)).unwrap();
    assert_eq!(bytes("a.png"), bytes("b.png"));
    assert_ne!(bytes("a.png"), bytes("c.png"));
}

#[tokio::test]
async fn a_tiny_sdxl_paints_alone_and_steered() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for words in [
        "models tiny sdxl --family sdxl",
        "models tiny net --family sdxl-controlnet",
        "generate sdxl --model sdxl --width 64 --height 64 --steps 2 --output a.png",
        "generate controlnet --model sdxl --controlnet net --control a.png --width 64 --height 64 --steps 2 --output b.png",
    ] {
        let (code, _, stderr) = run(home, words).await;
        assert_eq!(code, 0, "{words}: {stderr}");
    }
    assert_ne!(std::fs::read(home.join("a.png")).unwrap(), std::fs::read(home.join("b.png")).unwrap());
}

#[tokio::test]
async fn a_tiny_birefnet_cuts_a_picture_out() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let picture = image::RgbImage::from_fn(60, 40, |x, y| image::Rgb([(x * 4) as u8, (y * 6) as u8, 90]));
    picture.save(home.join("photo.png")).unwrap();
    for words in [
        "models tiny net --family birefnet",
        "generate cut-out --model net --image photo.png --output cut.png",
    ] {
        let (code, _, stderr) = run(home, words).await;
        assert_eq!(code, 0, "{words}: {stderr}");
    }
    let cut = image::open(home.join("cut.png")).unwrap().into_rgba8();
    assert_eq!(cut.dimensions(), (60, 40));
    assert!(cut.pixels().any(|pixel| pixel.0[3] != cut.get_pixel(0, 0).0[3]), "a flat mask");
}

#[tokio::test]
async fn parity_passes_on_the_goldens_and_fails_on_a_changed_one() {
    let home = tempfile::tempdir().unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("handler_tests/goldens/stages");
    let mut command = marquee(home.path());
    command.arg("parity").arg(&goldens);
    let (code, stdout, stderr) = finish(command).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("stages equal the original") && !stdout.contains("MISS"), "{stdout}");

    std::fs::copy(goldens.join("manifest.json"), home.path().join("manifest.json")).unwrap();
    let mut tensors = std::fs::read(goldens.join("golden.safetensors")).unwrap();
    // The exponent of the last number.
    *tensors.last_mut().unwrap() ^= 0x40;
    std::fs::write(home.path().join("golden.safetensors"), tensors).unwrap();
    let (code, stdout, _) = run(home.path(), "parity .").await;
    assert_eq!(code, 1);
    assert!(stdout.contains("MISS"), "{stdout}");
}

#[tokio::test]
async fn a_checkpoint_with_a_tensor_missing_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    assert_eq!(run(home, "models tiny flux").await.0, 0);
    let weights = std::fs::read_dir(home.join("flux/vae")).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_some_and(|ending| ending == "safetensors").then_some(path)
    });
    let weights = weights.unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes.truncate(bytes.len() - 8);
    std::fs::write(&weights, bytes).unwrap();
    let (code, _, stderr) = run(home, "models check flux").await;
    assert_eq!(code, 1);
    assert!(stderr.contains("vae") && stderr.contains("safetensors"), "{stderr}");
}

#[tokio::test]
async fn words_that_no_device_answers_to_are_refused_with_the_right_ones() {
    let home = tempfile::tempdir().unwrap();
    for (name, value, expected) in [("DEVICE", "tpu", "cpu, cuda"), ("DTYPE", "f8", "f32, bf16 or f16")] {
        let mut command = marquee(home.path());
        command.args(["generate", "sdxl"]).env(name, value);
        let (code, _, stderr) = finish(command).await;
        assert_eq!(code, 1);
        assert!(stderr.contains(expected), "{stderr}");
    }
}
