//! What the kernel and the runtime know of this process.

use baton_otel::KeyValue;
use baton_otel::metrics::{Reading, instrument as i};
use baton_otel::names::attribute;

pub(super) fn read(reading: &mut Reading) {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    if let Ok(usage) = usage {
        for (mode, time) in [("user", usage.user_time()), ("system", usage.system_time())] {
            let mode = vec![KeyValue::new(attribute::CPU_MODE, mode)];
            reading.push(&i::PROCESS_CPU_TIME, mode, seconds(time));
        }
    }
    // Without /proc there is nothing to say.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    if let Some(kib) = field("VmRSS:") {
        reading.push(&i::PROCESS_MEMORY_USAGE, vec![], kib << 10);
    }
    if let Some(threads) = field("Threads:") {
        reading.push(&i::PROCESS_THREAD_COUNT, vec![], threads);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        let open = descriptors.count().saturating_sub(1);
        reading.push(&i::PROCESS_UNIX_FILE_DESCRIPTOR_COUNT, vec![], open);
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds below 2^53 are exact")]
fn seconds(time: nix::sys::time::TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

pub(super) fn read_runtime(reading: &mut Reading, runtime: &tokio::runtime::Handle) {
    let metrics = runtime.metrics();
    reading.push(&i::BATON_RUNTIME_WORKERS, vec![], metrics.num_workers());
    reading.push(&i::BATON_RUNTIME_TASKS, vec![], metrics.num_alive_tasks());
    reading.push(&i::BATON_RUNTIME_QUEUE_LENGTH, vec![], metrics.global_queue_depth());
    let busy = (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker));
    reading.push(
        &i::BATON_RUNTIME_BUSY_TIME,
        vec![],
        busy.sum::<std::time::Duration>().as_secs_f64(),
    );
}
