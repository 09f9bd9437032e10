//! The one table of every span, event and attribute name that Baton emits.
//!
//! A name is a constant in [`span`], [`event`] or [`attribute`], and the same macro that makes the
//! constant puts it with its explanation into [`SPANS`], [`EVENTS`] or [`ATTRIBUTES`], so that the
//! documentation and the tests iterate over exactly what the code can say. Attributes follow the
//! OpenTelemetry semantic conventions where one exists; everything else begins with `baton.`.

/// One row of a table: a name and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name as it is emitted.
    pub name: &'static str,
    /// What it means, in a sentence or two.
    pub doc: &'static str,
}

macro_rules! names {
    ($(#[doc = $about:literal])+ mod $module:ident, $table:ident;
     $($(#[doc = $doc:literal])+ $constant:ident = $name:literal;)+) => {
        $(#[doc = $about])+
        pub mod $module {
            $($(#[doc = $doc])+ pub const $constant: &str = $name;)+
        }

        $(#[doc = $about])+
        pub static $table: &[Name] = &[
            $(Name { name: $module::$constant, doc: concat!($($doc),+).trim_ascii() },)+
        ];
    };
}

names! {
    /// Names of spans. The server span is named by the convention, `{method} {route}`, and is the
    /// only one that is not here.
    mod span, SPANS;
    /// Time in the function's queue before the request was let in.
    ADMIT = "baton.admit";
    /// Getting the compiled component: from memory, from the cache or by compiling it.
    COMPONENT_LOAD = "baton.component.load";
    /// Making an instance of the component for this request.
    COMPONENT_INSTANTIATE = "baton.component.instantiate";
    /// The guest at work, from the call until the end of its response body.
    COMPONENT_HANDLE = "baton.component.handle";
    /// Getting a sandbox for this request.
    SANDBOX_LEASE = "baton.sandbox.lease";
    /// Sending the request to the function in its sandbox and passing the response on.
    FORWARD = "baton.forward";
    /// Making a connection to the function, inside of a forward.
    FORWARD_CONNECT = "baton.forward.connect";
    /// Preparing a sandbox behind a request: a trace of its own, linked to the request that caused it.
    SANDBOX_PREPARE = "baton.sandbox.prepare";
    /// Creating a generic sandbox because none was parked.
    SANDBOX_CREATE = "baton.sandbox.create";
    /// Making the sandbox's control group, and moving the process there that makes the sandbox.
    SANDBOX_CREATE_GROUP = "baton.sandbox.create.group";
    /// Writing the sandbox's configuration.
    SANDBOX_CREATE_CONFIGURE = "baton.sandbox.create.configure";
    /// libcontainer's create: namespaces and root file system.
    SANDBOX_CREATE_CREATE = "baton.sandbox.create.create";
    /// libcontainer's start: the system-call filter, and the stub executed.
    SANDBOX_CREATE_START = "baton.sandbox.create.start";
    /// Until the stub said that it waits for a function.
    SANDBOX_CREATE_PARK = "baton.sandbox.create.park";
    /// Making the listener of its proxy in its network.
    SANDBOX_CREATE_LISTEN = "baton.sandbox.create.listen";
    /// Opening the files of its limits for the host.
    SANDBOX_CREATE_OPEN_LIMITS = "baton.sandbox.create.open_limits";
    /// Turning a parked sandbox into one of this function: limits written, executable handed over.
    SANDBOX_ACTIVATE = "baton.sandbox.activate";
    /// From then until the function accepts its first connection.
    SANDBOX_READY = "baton.sandbox.ready";
    /// Freezing an idle sandbox.
    SANDBOX_FREEZE = "baton.sandbox.freeze";
    /// Thawing a frozen sandbox.
    SANDBOX_THAW = "baton.sandbox.thaw";
    /// Removing a sandbox.
    SANDBOX_REMOVE = "baton.sandbox.remove";
    /// Answering a request a second time by the other tier to compare: a trace of its own when the answers differ, linked to the request.
    VERIFY = "baton.verify";
}

names! {
    /// Names of span events.
    mod event, EVENTS;
    /// The native tier could not take the request after all and the other tier answered it.
    FALLBACK = "baton.fallback";
    /// A sandbox had the request and failed with it; it is given to the component from its beginning.
    RETRY = "baton.retry";
    /// An instance or a sandbox was ended for want of memory.
    OUT_OF_MEMORY = "baton.out_of_memory";
    /// The two builds of a function answered differently.
    VERIFY_DIFFERED = "baton.verify.differed";
    /// The native build of a function is not believed any more: Wasm answers until it is promoted.
    DEMOTED = "baton.demoted";
}

names! {
    /// Attribute keys of spans, events and the resource.
    mod attribute, ATTRIBUTES;
    /// Method of the request; `_OTHER` when it is none of the known ones.
    HTTP_REQUEST_METHOD = "http.request.method";
    /// The method as received, when `http.request.method` is `_OTHER`.
    HTTP_REQUEST_METHOD_ORIGINAL = "http.request.method_original";
    /// Bytes of the request body that were received.
    HTTP_REQUEST_BODY_SIZE = "http.request.body.size";
    /// Status code of the response.
    HTTP_RESPONSE_STATUS_CODE = "http.response.status_code";
    /// Bytes of the response body that were sent.
    HTTP_RESPONSE_BODY_SIZE = "http.response.body.size";
    /// The route of the manifest that matched; of low cardinality.
    HTTP_ROUTE = "http.route";
    /// Path of the request.
    URL_PATH = "url.path";
    /// Query of the request without the question mark.
    URL_QUERY = "url.query";
    /// Scheme of the request, `http` or `https`.
    URL_SCHEME = "url.scheme";
    /// Absolute URL of an outgoing request, without its query.
    URL_FULL = "url.full";
    /// Host name that the request was addressed to.
    SERVER_ADDRESS = "server.address";
    /// Port that the request was addressed to.
    SERVER_PORT = "server.port";
    /// Address of the client.
    CLIENT_ADDRESS = "client.address";
    /// Port of the client.
    CLIENT_PORT = "client.port";
    /// Address of the peer of the connection.
    NETWORK_PEER_ADDRESS = "network.peer.address";
    /// Port of the peer of the connection.
    NETWORK_PEER_PORT = "network.peer.port";
    /// Version of HTTP, `1.1` or `2`.
    NETWORK_PROTOCOL_VERSION = "network.protocol.version";
    /// Transport of the connection, `tcp` or `unix`.
    NETWORK_TRANSPORT = "network.transport";
    /// The client's `User-Agent`.
    USER_AGENT_ORIGINAL = "user_agent.original";
    /// Why the operation failed: a problem type of Baton or a status code; of low cardinality.
    ERROR_TYPE = "error.type";
    /// Name of the function.
    FAAS_NAME = "faas.name";
    /// Digest of the revision of the function that answered.
    FAAS_VERSION = "faas.version";
    /// What called the function, `http`.
    FAAS_TRIGGER = "faas.trigger";
    /// Whether the request waited for a component load, an activation or a creation.
    FAAS_COLDSTART = "faas.coldstart";
    /// Identifier of this one invocation.
    FAAS_INVOCATION_ID = "faas.invocation_id";
    /// Identifier of the sandbox.
    CONTAINER_ID = "container.id";
    /// Digest of the image manifest that a sandbox was made from.
    OCI_MANIFEST_DIGEST = "oci.manifest.digest";
    /// Process id of the function in its sandbox, or of Baton in the resource.
    PROCESS_PID = "process.pid";
    /// Name of the service, in the resource.
    SERVICE_NAME = "service.name";
    /// Version of the service, in the resource.
    SERVICE_VERSION = "service.version";
    /// Name of the machine, in the resource.
    HOST_NAME = "host.name";
    /// Name of the telemetry SDK, in the resource.
    TELEMETRY_SDK_NAME = "telemetry.sdk.name";
    /// Language of the telemetry SDK, in the resource.
    TELEMETRY_SDK_LANGUAGE = "telemetry.sdk.language";
    /// Version of the telemetry SDK, in the resource.
    TELEMETRY_SDK_VERSION = "telemetry.sdk.version";
    /// The tier that answered, `wasm` or `native`.
    BATON_TIER = "baton.tier";
    /// Why that tier answered.
    BATON_TIER_REASON = "baton.tier.reason";
    /// Of what an estimate is: `wasm` and `native`, a request; `activation` and `creation`, a sandbox; `queue`;
    /// `forward`, the way to a sandbox.
    BATON_TIER_ESTIMATE_OF = "baton.tier.estimate.of";
    /// Where the compiled component came from: `memory`, `cache` or `compile`.
    BATON_COMPONENT_SOURCE = "baton.component.source";
    /// Why a sandbox was frozen, thawed or removed.
    BATON_SANDBOX_REASON = "baton.sandbox.reason";
    /// State of sandboxes.
    BATON_SANDBOX_STATE = "baton.sandbox.state";
    /// Whom Baton asks: `forward` for a function in its sandbox, `egress` for a function's own requests.
    BATON_CLIENT = "baton.client";
    /// What became of it.
    BATON_OUTCOME = "baton.outcome";
    /// Which of Baton's logs: `access`, or `host` for its own and the lines of functions.
    BATON_LOG = "baton.log";
    /// `stdout` or `stderr`, of a function's line.
    LOG_IOSTREAM = "log.iostream";
    /// What found no room among a metric's series, all together.
    OTEL_METRIC_OVERFLOW = "otel.metric.overflow";
    /// `user` or `system`.
    CPU_MODE = "cpu.mode";
    /// That only what Baton itself saw was recorded, and why it was: the trace was not sampled, but it is an `error` or `slow`. Other services have not recorded their part.
    BATON_TAIL = "baton.tail";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_explained_once_and_well_formed() {
        for table in [SPANS, EVENTS, ATTRIBUTES] {
            for (position, row) in table.iter().enumerate() {
                assert!(!row.doc.is_empty() && row.doc.ends_with('.'), "{row:?}");
                assert!(
                    row.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'.' || b == b'_'),
                    "{row:?}"
                );
                assert!(
                    table[..position].iter().all(|earlier| earlier.name != row.name),
                    "{row:?}"
                );
            }
        }
    }

    #[test]
    fn a_name_is_a_convention_or_begins_with_ours() {
        let conventions = [
            "http.",
            "url.",
            "server.",
            "client.",
            "network.",
            "user_agent.",
            "error.",
            "faas.",
            "container.",
            "oci.",
            "process.",
            "service.",
            "host.",
            "telemetry.",
            "cpu.",
            "otel.",
            "log.",
            "baton.",
        ];
        for row in ATTRIBUTES {
            assert!(conventions.iter().any(|prefix| row.name.starts_with(prefix)), "{row:?}");
        }
        for row in SPANS.iter().chain(EVENTS) {
            assert!(row.name.starts_with("baton."), "{row:?}");
        }
    }
}
