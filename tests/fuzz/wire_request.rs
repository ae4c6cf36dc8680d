//! What a hostile replica sends. What is accepted is encoded to the very same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use replica::wire::Request;

fuzz_target!(|data: &[u8]| {
    let _ = Request::decode(&mut &*data);
    let message = fuzz::with_trailer(data.to_vec());
    if let Ok(request) = Request::decode(&mut &*message) {
        assert_eq!(request.encode(), message);
    }
});
