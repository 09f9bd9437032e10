//! Taking up a manifest, artifacts or a certificate that have changed, while everything runs.
//!
//! ```text
//! SIGHUP, or a watched file changed ─▶ read ─▶ inspect ─▶ open ─▶ the host swaps its functions
//!                                        └───────┴──────────┴─ a fault: nothing changes, and the log says why
//! the certificate or its key changed ─▶ a pair? ─▶ the host shows it to new connections
//! ```

use std::path::PathBuf;

use super::{Supervisor, artifacts, needs_pool, require_sandboxes};
use crate::handover::{self, Deployment};
use crate::manifest::{Host, Manifest, NativeSource};

impl Supervisor<'_> {
    /// Reads everything again; what is wrong changes nothing and is told in the log.
    pub(super) fn reload(&mut self) {
        self.renew_tls();
        if let Err(error) = self.try_reload() {
            for line in format!("{error:#}").lines() {
                tracing::error!("reload: {line}");
            }
            tracing::error!("reload: nothing was changed");
        }
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let manifest = (self.origin.read)()?;
        if self.origin.watch {
            self.watch.follow(files(&manifest));
        }
        let components = (self.origin.inspect)(&manifest)?;
        require_sandboxes(&self.missing, &manifest)?;
        for key in fixed(&self.manifest, &manifest) {
            tracing::warn!("reload: {key} cannot change without a restart; it stays as it was");
        }
        let known = self.roots;
        let mut deployments = artifacts::open(&manifest, &components, &mut self.roots)?;
        reuse(&mut self.deployments, &mut deployments);
        self.deployments = deployments;
        super::prune_images(&self.manifest);
        self.manifest.functions = manifest.functions;
        if let Some(pool) = &self.pool {
            self.tell_roots(&pool.child.control, known);
        }
        if let Some(host) = &self.host
            && let Err(error) = handover::send_functions(&host.child.control, &self.deployments)
        {
            // Killed, it is started again with the new functions; it did not take them as it was.
            tracing::error!(%error, "the host process does not take the new functions");
            host.child.kill();
        }
        if self.pool.is_none() && needs_pool(&self.deployments) {
            self.start_pool()?;
        }
        Ok(())
    }

    /// Takes up another certificate and key, if they are a pair.
    pub(super) fn renew_tls(&mut self) {
        if self.manifest.host.tls.is_none() {
            return;
        }
        match artifacts::tls(&self.manifest.host) {
            Ok(files) => self.tls = files,
            Err(error) => {
                let error = format!("{error:#}");
                return tracing::error!(error, "the certificate in use stays as it was");
            }
        }
        if let (Some(host), Some(files)) = (&self.host, &self.tls)
            && let Err(error) = handover::send_tls(&host.child.control, files)
        {
            tracing::error!(%error, "the host process does not take the new certificate");
            host.child.kill();
        }
    }

    /// Follows the files that are taken up when they change.
    pub(super) fn follow(&mut self) {
        if self.origin.watch {
            self.watch.follow(files(&self.manifest));
        }
        if let Some(tls) = &self.manifest.host.tls {
            self.tls_watch.follow(vec![tls.certificate.clone(), tls.key.clone()]);
        }
    }
}

/// Deployments that are the same as before keep the copies that were made then.
fn reuse(before: &mut Vec<Deployment>, now: &mut [Deployment]) {
    for deployment in now {
        let same = |other: &Deployment| other.is_same(deployment);
        if let Some(at) = before.iter().position(same) {
            *deployment = before.swap_remove(at);
        }
    }
}

/// The manifest and the artifacts that it names.
fn files(manifest: &Manifest) -> Vec<PathBuf> {
    let native = |source: &NativeSource| match source {
        NativeSource::Executable(path) | NativeSource::Image(path) => path.clone(),
        NativeSource::Rootfs { dir, .. } => dir.clone(),
    };
    let artifacts = manifest.functions.iter().flat_map(|function| {
        function.component.iter().cloned().chain(function.native.as_ref().map(native))
    });
    let file = Some(manifest.source.file().to_owned()).filter(|file| !file.as_os_str().is_empty());
    file.into_iter().chain(artifacts).collect()
}

/// The keys that differ and are only read at the start.
fn fixed(before: &Manifest, now: &Manifest) -> Vec<&'static str> {
    let Host {
        listen,
        admin,
        user,
        max_connections,
        headers,
        header_timeout,
        grace,
        drain_delay,
        server_timing,
        log,
        tls,
        cache,
    } = &before.host;
    let host = &now.host;
    let differ = [
        ("host.listen", *listen != host.listen),
        ("host.admin", *admin != host.admin),
        ("host.user", *user != host.user),
        ("host.max_connections", *max_connections != host.max_connections),
        ("host.headers", *headers != host.headers),
        ("host.header_timeout", *header_timeout != host.header_timeout),
        ("host.grace", *grace != host.grace),
        ("host.drain_delay", *drain_delay != host.drain_delay),
        ("host.server_timing", *server_timing != host.server_timing),
        ("host.log", *log != host.log),
        ("host.tls", *tls != host.tls),
        ("host.cache", *cache != host.cache),
        ("pool", before.pool != now.pool),
        ("telemetry", before.telemetry != now.telemetry),
    ];
    differ.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_cannot_change_without_a_restart_is_named() {
        let parse = |text| Manifest::parse(text, Path::new("baton.toml")).unwrap();
        let before = parse("[host]\ngrace = \"1s\"\n");
        let now = parse("[host]\ngrace = \"2s\"\nlog = \"json\"\n[pool]\nparked = 9\n");
        assert_eq!(fixed(&before, &now), ["host.grace", "host.log", "pool"]);
        assert_eq!(fixed(&before, &before), <[&str; 0]>::default());
    }
}
