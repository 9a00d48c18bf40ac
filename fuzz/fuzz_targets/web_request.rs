#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::targets::web_request(data));
