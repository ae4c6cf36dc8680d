//! What a URI, or the JSON of `replica_configure`, may say; and the text form of positions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use replica::database::settings::{NAMES, Settings};
use replica::position::Position;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let checked = |settings: &Settings| {
        if let Some(url) = &settings.sync_url
            && let Err(error) = replica::remote::check(url, None)
            && let Some((_, rest)) = url.split_once("//")
            && let Some((credentials, _)) = rest.split_once('@')
            && let Some((_, password)) = credentials.split_once(':')
            // No word of the sentence itself.
            && password.bytes().filter(u8::is_ascii_digit).count() > 3
        {
            assert!(!error.to_string().contains(password), "{error}");
        }
    };
    if let Ok(settings) = Settings::from_json(text) {
        checked(&settings);
    }
    for name in NAMES.into_iter().filter(|name| !name.ends_with("_file")) {
        let mut settings = Settings::default();
        if settings.set(name, text).is_ok() {
            checked(&settings);
        }
    }
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(
            position.to_string().parse::<Position>().ok(),
            Some(position)
        );
    }
});
