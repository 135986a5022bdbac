//! How budgets are written.

use marquee::memory::Limit;

#[test]
fn sizes_shares_and_off_are_read() {
    let cases = [
        ("22GiB", Limit::Bytes(22 << 30)),
        ("22 GiB", Limit::Bytes(22 << 30)),
        ("22gib", Limit::Bytes(22 << 30)),
        ("22GB", Limit::Bytes(22_000_000_000)),
        ("1.5GiB", Limit::Bytes(3 << 29)),
        ("1073741824", Limit::Bytes(1 << 30)),
        ("80%", Limit::Share(0.8)),
        (" 12.5 % ", Limit::Share(0.125)),
        ("off", Limit::Off),
        ("OFF", Limit::Off),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<Limit>(), Ok(expected), "{text}");
    }
}

#[test]
fn nonsense_is_refused_with_what_was_expected() {
    for text in ["", "much", "0", "0GiB", "-1GiB", "0%", "101%", "%", "NaN%", "22 apples"] {
        let error = text.parse::<Limit>().expect_err(text);
        assert!(error.contains("22GiB") && error.contains("80%"), "{text}: {error}");
    }
}

#[test]
fn a_share_is_of_the_total() {
    assert_eq!(Limit::Share(0.5).of(100), Some(50));
    assert_eq!(Limit::Bytes(7).of(100), Some(7));
    assert_eq!(Limit::Off.of(100), None);
}
