//! trial
use std::future::poll_fn;
pub(crate) fn has(n: u32) -> bool {
    static MASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    let mask = *MASK.get_or_init(|| std::env::var("BATON_TRIAL").ok().and_then(|v| v.parse().ok()).unwrap_or(0));
    mask & n != 0
}
pub(crate) async fn step(n: u32) {
    if !has(n) { return; }
    let mut done = false;
    poll_fn(|cx| {
        if done { return std::task::Poll::Ready(()); }
        done = true;
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    }).await
}
