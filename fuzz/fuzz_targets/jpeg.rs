//! Whatever a camera sends: no panic, and what is taken for a picture is one when it has been mended.
#![no_main]

use framehub::jpeg;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let luma = jpeg::mean_luma(data);
    assert!(luma.is_none_or(|luma| (0.0..=255.0).contains(&luma)));
    let Ok(picture) = jpeg::inspect(data) else { return };
    let mut mended = Vec::new();
    picture.append_to(&mut mended);
    assert_eq!(mended.len(), picture.len());
    let again = jpeg::inspect(&mended).expect("a mended picture is whole");
    assert_eq!((again.width(), again.height()), (picture.width(), picture.height()));
    assert_eq!((again.len(), again.padding(), again.dht_missing()), (mended.len(), 0, false));
    assert_eq!(jpeg::mean_luma(&mended), luma);
});
