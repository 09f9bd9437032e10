//! What a manifest may say, and what is said about one that is wrong.

use std::net::Ipv4Addr;

use super::*;
use crate::manifest::{EgressHost, KeepAlive, Retry, Scheme, User, Verifiable};

fn parsed(text: &str) -> Result<Manifest, Faults> {
    Manifest::parse(text, Path::new("baton.toml"))
}

/// The faults of a text, as a person reads them.
fn said(text: &str) -> String {
    parsed(text).unwrap_err().to_string()
}

/// The faults of a function that is right but for these lines.
fn said_of_function(lines: &str) -> String {
    said(&format!("[[function]]\nname = \"f\"\nroute = \"/f\"\ncomponent = \"f.wasm\"\n{lines}\n"))
}

/// The example in the manual.
fn example() -> &'static str {
    let manual = include_str!("../../../../docs/manifest.md");
    let (_, example) = manual.split_once("```toml\n").unwrap();
    example.split_once("```").unwrap().0
}

#[test]
fn the_example_in_the_manual_states_exactly_the_defaults() {
    let Manifest { mut host, pool, mut telemetry, mut functions, .. } = parsed(example()).unwrap();
    let tls = Tls { certificate: "cert.pem".into(), key: "key.pem".into() };
    assert_eq!(host.tls.take(), Some(tls));
    assert_eq!(host, Host::default());
    assert_eq!(pool, PoolSection::default());
    assert_eq!(telemetry.endpoint.take().as_deref(), Some("http://127.0.0.1:4317"));
    assert_eq!(telemetry, TelemetrySection::default());

    let mut function = functions.pop().unwrap();
    let origin = EgressRule {
        scheme: Some(Scheme::Https),
        host: EgressHost::Name("api.example.com".into()),
        port: Some(443),
    };
    let egress = std::mem::take(&mut function.egress);
    assert_eq!(egress, Egress { allow: vec![origin.clone()], trace: vec![origin] });
    assert_eq!(
        std::mem::take(&mut function.env),
        BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())])
    );
    assert_eq!(function.component.take(), Some("resize.wasm".into()));
    assert_eq!(function.native.take(), Some(NativeSource::Executable("resize".into())));
    let route = Route { host: None, pattern: Pattern::Below("/resize".into()) };
    assert_eq!(function, Function::new("resize", route));
    assert_eq!(functions, []);
}

#[test]
fn every_key_of_the_manual_is_read() {
    let example = example();
    let keys = example.lines().filter(|line| line.contains(" = ") || line.contains("= \""));
    let keys: Vec<_> = keys.map(|line| line.split(['=', ' ']).next().unwrap()).collect();
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        let renamed = format!("{key}-renamed");
        let line = example.lines().position(|line| line.starts_with(key)).unwrap();
        let lines = example.lines().enumerate();
        let text: Vec<_> = lines
            .map(
                |(at, text)| {
                    if at == line { text.replacen(key, &renamed, 1) } else { text.to_owned() }
                },
            )
            .collect();
        let table_with_free_keys = key == "GREETING";
        assert_eq!(parsed(&text.join("\n")).is_ok(), table_with_free_keys, "{key}");
    }
}

#[test]
fn every_key_of_the_example_has_a_row_in_the_manual() {
    let manual = include_str!("../../../../docs/manifest.md");
    let keys = example().lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim());
    for key in keys.filter(|key| !key.contains(['[', '#']) && *key != "GREETING") {
        assert!(manual.contains(&format!("| `{key}` |")), "{key} has no row");
    }
}

#[test]
fn a_manifest_crosses_as_json_and_stays_the_same() {
    let mut manifest = parsed(example()).unwrap();
    let json = serde_json::to_string(&manifest).unwrap();
    manifest.source = Source::default();
    assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap(), manifest);
}

#[test]
fn every_other_form_of_a_value_is_read() {
    let text = r#"
        [host]
        listen = ["[::1]:0", "127.0.0.1:0", "127.0.0.1:0", "unix:run/http.sock", "fd:3"]
        user = "www-data"
        log = "json"
        [[function]]
        name = "f"
        route = "/f"
        host = "WWW.example.com"
        component = "f.wasm"
        native = { rootfs = "root", command = ["/app", ""] }
        listen = "unix:/run/function.sock"
        policy = "adaptive"
        retry = "never"
        verify = { sample = 1, requests = "all" }
        instances = { reuse = { requests = 5 } }
        keep_alive = "histogram"
        egress.allow = ["10.0.0.0/8", "localhost:3000", "http://[::1]:80", "https://10.1.2.3"]
        egress.trace = ["http://10.1.2.3:8080"]
        [[function]]
        name = "g"
        route = "/*"
        native = { image = "/images/g.tar" }
        listen = "tcp:8080"
    "#;
    let manifest = Manifest::parse(text, Path::new("/etc/baton/baton.toml")).unwrap();
    let listen = manifest.host.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(listen, "[::1]:0 127.0.0.1:0 127.0.0.1:0 unix:/etc/baton/run/http.sock fd:3");
    assert_eq!(manifest.host.user, User::Name("www-data".into()));
    let [f, g] = &manifest.functions[..] else { panic!("two functions") };
    assert_eq!(f.route.to_string(), "www.example.com/f");
    let (dir, command) = ("/etc/baton/root".into(), vec!["/app".into(), String::new()]);
    assert_eq!(f.native, Some(NativeSource::Rootfs { dir, command }));
    assert_eq!(f.listen, Listen::Unix("/run/function.sock".into()));
    assert_eq!(
        (f.policy, f.retry, f.keep_alive),
        (Policy::Adaptive, Retry::Never, KeepAlive::Histogram)
    );
    assert_eq!(f.verify, Verify { sample: 1.0, requests: Verifiable::All, ..Verify::default() });
    let idle = 10 * SECOND;
    assert_eq!(f.instances, Instances::Reuse { requests: 5, concurrent: 1, idle });
    assert!(f.egress.allow[2].admits(Scheme::Http, "[::1]", 80));
    assert!(f.egress.allow[1].covers(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(g.native, Some(NativeSource::Image("/images/g.tar".into())));
    assert_eq!((g.policy, &g.listen), (Policy::Native, &Listen::Tcp(8080)));
}

#[test]
fn the_policy_follows_from_the_artifacts() {
    let policy = |artifacts: &str| {
        let text = format!("[[function]]\nname = \"f\"\nroute = \"/f\"\n{artifacts}");
        parsed(&text).unwrap().functions[0].policy
    };
    assert_eq!(policy("component = \"f.wasm\""), Policy::Wasm);
    assert_eq!(policy("native = \"f\""), Policy::Native);
    assert_eq!(policy("component = \"f.wasm\"\nnative = \"f\""), Policy::Adaptive);
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    let missing = Manifest::read(Path::new("/nowhere/baton.toml")).unwrap_err();
    insta::assert_snapshot!(missing, @"
    /nowhere/baton.toml: cannot be read: No such file or directory (os error 2)
    1 fault in /nowhere/baton.toml
    ");
}

#[test]
fn relative_paths_are_taken_from_the_manifests_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baton.toml");
    std::fs::write(&path, "[[function]]\nname = \"f\"\nroute = \"/\"\ncomponent = \"f.wasm\"")
        .unwrap();
    let manifest = Manifest::read(&path).unwrap();
    assert_eq!(manifest.functions[0].component, Some(directory.path().join("f.wasm")));
}

#[test]
fn all_faults_are_told_at_once_sorted_by_position() {
    let text = r#"
[host]
admin = 8081
grac = "30s"
[[function]]
route = "f"
component = ""
[function.limits]
memory = "64M"
[pool]
parked = "4"
"#;
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:3:9: host.admin: 8081 is an integer; expected a listener such as "127.0.0.1:8081"
    baton.toml:4:1: host.grac: is an unknown key; did you mean grace?
    baton.toml:5:1: function[0].name: is missing; expected a name of letters, digits, '-', '_' and '.', at most 63 of them
    baton.toml:6:9: function[0].route: "f" does not begin with a slash; expected a path such as "/resize", or "/resize/*" for it and everything below; did you mean "/f"?
    baton.toml:7:13: function[0].component: is empty; expected the path of a component
    baton.toml:9:10: function[0].limits.memory: "64M" has the unknown unit "M"; expected a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as "64MiB"; did you mean "64MiB"?
    baton.toml:11:10: pool.parked: "4" is a string; expected a whole number from 0 to 10000; did you mean 4?
    7 faults in baton.toml
    "#);
}

#[test]
fn syntax_errors_are_told_together_with_what_can_be_read_around_them() {
    insta::assert_snapshot!(said("[host]\nadmin = \"x\nlog = txt\ngrac = 1\nlog = \"text\"\n"), @r#"
    baton.toml:2:11: invalid basic string, expected `"`
    baton.toml:3:7: invalid boolean, expected `true`
    baton.toml:4:1: host.grac: is an unknown key; did you mean grace?
    baton.toml:5:1: duplicate key
    4 faults in baton.toml
    "#);
    insta::assert_snapshot!(said("[host]\nlisten = [\"127.0.0.1:80\"\n[pool]\nparked = 1\nmemory = 2"), @"
    baton.toml:3:1: missing comma between array elements, expected `,`
    1 fault in baton.toml
    ");
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one_or_all() {
    insta::assert_snapshot!(said("[hosts]\n[pool]\nsize = 1\n[[functions]]"), @"
    baton.toml:1:2: hosts: is an unknown key; did you mean host?
    baton.toml:3:1: pool.size: is an unknown key; expected parked or memory
    baton.toml:4:3: functions: is an unknown key; did you mean function?
    3 faults in baton.toml
    ");
    insta::assert_snapshot!(said_of_function("polcy = \"wasm\"\nlimits.memroy = \"1MiB\""), @"
    baton.toml:5:1: function.f.polcy: is an unknown key; did you mean policy?
    baton.toml:6:8: function.f.limits.memroy: is an unknown key; did you mean memory?
    2 faults in baton.toml
    ");
    insta::assert_snapshot!(said_of_function("egress.alow = []\ninstances.reuse.request = 1"), @"
    baton.toml:5:8: function.f.egress.alow: is an unknown key; did you mean allow?
    baton.toml:6:17: function.f.instances.reuse.request: is an unknown key; did you mean requests?
    2 faults in baton.toml
    ");
}

#[test]
fn a_wrong_type_is_told_with_the_right_one() {
    let text = "[host]\nlisten = \"127.0.0.1:80\"\nserver_timing = \"true\"\nuser = 1\ntls = true\n\
        [pool]\nparked = 1.5\nmemory = 64\n[telemetry]\nsample = \"1\"\n[function]\n";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:2:10: host.listen: "127.0.0.1:80" is a string; expected an array of listeners such as ["127.0.0.1:8080"]; did you mean ["127.0.0.1:80"]?
    baton.toml:3:17: host.server_timing: "true" is a string; expected true or false; did you mean true?
    baton.toml:4:8: host.user: 1 is an integer; expected a user's name or number in quotes; did you mean "1"?
    baton.toml:5:7: host.tls: true is a boolean; expected the table [host.tls]
    baton.toml:7:10: pool.parked: 1.5 is a float; expected a whole number from 0 to 10000
    baton.toml:8:10: pool.memory: 64 is an integer; expected a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as "64MiB"
    baton.toml:10:10: telemetry.sample: "1" is a string; expected a number from 0.0 to 1.0; did you mean 1?
    baton.toml:11:1: function: is a table; expected tables headed [[function]]
    8 faults in baton.toml
    "#);
    insta::assert_snapshot!(said("host = 1\nfunction = [1]"), @"
    baton.toml:1:8: host: 1 is an integer; expected the table [host]
    baton.toml:2:12: function: is an array; expected tables headed [[function]]
    2 faults in baton.toml
    ");
    insta::assert_snapshot!(said_of_function("env = { A = 1, LISTEN_PID = \"1\" }\nlimits.timeout = 30"), @r#"
    baton.toml:5:13: function.f.env.A: 1 is an integer; expected a string in quotes; did you mean "1"?
    baton.toml:5:29: function.f.env.LISTEN_PID: is set by Baton; expected another variable
    baton.toml:6:18: function.f.limits.timeout: 30 is an integer; expected a duration with its unit (ns, us, ms, s, m, h), such as "30s"
    3 faults in baton.toml
    "#);
}

#[test]
fn a_bad_unit_is_told_with_the_right_ones() {
    let lines = "[function.limits]\nmemory = \"64\"\nrequest_body = \"10mib\"\nscratch = \"MiB\"\n\
        cpu_time = \"10 sec\"\ntimeout = \"0.1ns\"\nqueue_timeout = \"5 parsecs\"";
    insta::assert_snapshot!(said_of_function(lines), @r#"
    baton.toml:6:10: function.f.limits.memory: "64" has no unit; expected a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as "64MiB"
    baton.toml:7:16: function.f.limits.request_body: "10mib" has the unknown unit "mib"; expected a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as "64MiB"; did you mean "10MiB"?
    baton.toml:8:11: function.f.limits.scratch: "MiB" does not begin with a number; expected a size with its unit (B, KB, MB, GB, KiB, MiB, GiB), such as "64MiB"
    baton.toml:9:12: function.f.limits.cpu_time: "10 sec" has the unknown unit "sec"; expected a duration with its unit (ns, us, ms, s, m, h), such as "30s"; did you mean "10s"?
    baton.toml:10:11: function.f.limits.timeout: "0.1ns" is not a whole number of ns; expected a duration with its unit (ns, us, ms, s, m, h), such as "30s"
    baton.toml:11:17: function.f.limits.queue_timeout: "5 parsecs" has the unknown unit "parsecs"; expected a duration with its unit (ns, us, ms, s, m, h), such as "30s"
    6 faults in baton.toml
    "#);
}

#[test]
fn a_number_out_of_range_is_told_with_the_range() {
    let lines = "verify.sample = 1.5\n[function.limits]\nmemory = \"1KiB\"\ncpu = 0\npids = 0\n\
        timeout = \"0s\"\nqueue = -1\nconcurrency = 99999999999999999999999";
    insta::assert_snapshot!(said_of_function(lines), @r#"
    baton.toml:5:17: function.f.verify.sample: 1.5 is out of range; expected a number from 0.0 to 1.0
    baton.toml:7:10: function.f.limits.memory: "1KiB" is out of range; expected a size from 1MiB to 1048576GiB
    baton.toml:8:7: function.f.limits.cpu: 0 is out of range; expected a number from 0.01 to 1024.0
    baton.toml:9:8: function.f.limits.pids: 0 is out of range; expected a whole number from 1 to 1000000
    baton.toml:10:11: function.f.limits.timeout: "0s" is out of range; expected a duration from 1ms to 24h
    baton.toml:11:9: function.f.limits.queue: -1 is out of range; expected a whole number from 0 to 1000000
    baton.toml:12:15: function.f.limits.concurrency: 99999999999999999999999 is out of range; expected a whole number from 1 to 1000000
    7 faults in baton.toml
    "#);
}

#[test]
fn what_is_missing_is_told_where_it_belongs() {
    insta::assert_snapshot!(said("[host.tls]\n[[function]]\n"), @r#"
    baton.toml:1:1: host.tls.certificate: is missing; expected the path of a certificate chain in PEM
    baton.toml:1:1: host.tls.key: is missing; expected the path of the private key in PEM
    baton.toml:2:1: function[0].name: is missing; expected a name of letters, digits, '-', '_' and '.', at most 63 of them
    baton.toml:2:1: function[0].route: is missing; expected a path such as "/resize" or "/resize/*"
    baton.toml:2:1: function[0]: has nothing to run; expected component, native or both
    5 faults in baton.toml
    "#);
}

#[test]
fn a_name_or_a_route_is_given_once() {
    let text = "[[function]]\nname = \"f\"\nroute = \"/f/*\"\nnative = \"f\"\n\
        [[function]]\nname = \"f\"\nroute = \"/f/*\"\nnative = \"f\"\n\
        [[function]]\nname = \"g\"\nroute = \"/f/*\"\nhost = \"h\"\nnative = \"f\"\n\
        [[function]]\nname = \"a b\"\nroute = \"/f\"\nhost = \"h:80\"\nnative = \"f\"\n";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:6:8: function.f.name: "f" is taken by the function at line 2; expected another name
    baton.toml:7:9: function.f.route: "/f/*" is taken by the function at line 3; expected another route or host
    baton.toml:15:8: function[3].name: "a b" is not a name; expected a name of letters, digits, '-', '_' and '.', at most 63 of them
    baton.toml:17:8: function[3].host: "h:80" is not a host; expected a host's name without scheme and port, such as "www.example.com"
    4 faults in baton.toml
    "#);
}

#[test]
fn a_bad_route_is_told_with_the_two_good_forms() {
    let routes = ["resize", "/a*", "/a/*/b", "/a b", "/a?b", "//a", "/a/../b", "", "/ä"];
    let said = routes.map(|route| {
        let text = format!("[[function]]\nname = \"f\"\nnative = \"f\"\nroute = \"{route}\"\n");
        said(&text).lines().next().unwrap().to_owned()
    });
    insta::assert_snapshot!(said.join("\n"), @r#"
    baton.toml:4:9: function.f.route: "resize" does not begin with a slash; expected a path such as "/resize", or "/resize/*" for it and everything below; did you mean "/resize"?
    baton.toml:4:9: function.f.route: "/a*" has a * that is not its last segment; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "/a/*/b" has a * that is not its last segment; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "/a b" contains ' ', which no request's path contains; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "/a?b" contains '?', which no request's path contains; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "//a" has an empty or a dot segment; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "/a/../b" has an empty or a dot segment; expected a path such as "/resize", or "/resize/*" for it and everything below
    baton.toml:4:9: function.f.route: "" does not begin with a slash; expected a path such as "/resize", or "/resize/*" for it and everything below; did you mean "/"?
    baton.toml:4:9: function.f.route: "/ä" contains 'ä', which no request's path contains; expected a path such as "/resize", or "/resize/*" for it and everything below
    "#);
}

#[test]
fn a_bad_listener_is_told_with_the_good_forms() {
    let text = "[host]\nlisten = [\"localhost:80\", \":80\", \"80\", \"/run/x\", \"unix:\", \"fd:2\", \"x\"]\n\
        admin = \"http://127.0.0.1:81/\"";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:2:11: host.listen[0]: "localhost:80" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3; did you mean "127.0.0.1:80"?
    baton.toml:2:27: host.listen[1]: ":80" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3; did you mean "127.0.0.1:80"?
    baton.toml:2:34: host.listen[2]: "80" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3; did you mean "127.0.0.1:80"?
    baton.toml:2:40: host.listen[3]: "/run/x" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3; did you mean "unix:/run/x"?
    baton.toml:2:50: host.listen[4]: "unix:" has no path; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3
    baton.toml:2:59: host.listen[5]: "fd:2" names no inherited descriptor; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3
    baton.toml:2:67: host.listen[6]: "x" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3
    baton.toml:3:9: host.admin: "http://127.0.0.1:81/" is not a listener; expected IP:PORT such as "127.0.0.1:8080", "unix:PATH" or "fd:N" with N from 3; did you mean "127.0.0.1:81"?
    8 faults in baton.toml
    "#);
    insta::assert_snapshot!(said("[host]\nlisten = []\nadmin = \"127.0.0.1:8080\""), @r#"
    baton.toml:2:10: host.listen: has no listener; expected an array of listeners such as ["127.0.0.1:8080"]
    baton.toml:3:9: host.admin: "127.0.0.1:8080" is listened on already; expected another listener
    2 faults in baton.toml
    "#);
    let lines = "listen = \"unix:run/x\"";
    insta::assert_snapshot!(said_of_function(lines), @r#"
    baton.toml:5:10: function.f.listen: "unix:run/x" is not a function's socket; expected "inherited", "unix:PATH" with an absolute path inside the sandbox, or "tcp:PORT"
    1 fault in baton.toml
    "#);
}

#[test]
fn one_socket_is_listened_on_once() {
    let text = "[host]\nlisten = [\"127.0.0.1:80\", \"127.0.0.1:80\"]\nadmin = \"127.0.0.1:80\"";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:2:27: host.listen[1]: "127.0.0.1:80" is listened on already; expected another listener
    baton.toml:3:9: host.admin: "127.0.0.1:80" is listened on already; expected another listener
    2 faults in baton.toml
    "#);
}

#[test]
fn a_policy_without_its_artifact_is_a_contradiction() {
    insta::assert_snapshot!(said_of_function("policy = \"hybrid\""), @r#"
    baton.toml:5:10: function.f.policy: "hybrid" needs native, which is missing; did you mean "wasm"?
    1 fault in baton.toml
    "#);
    insta::assert_snapshot!(said_of_function("policy = \"nativ\""), @r#"
    baton.toml:5:10: function.f.policy: "nativ" is unknown; expected "wasm", "native", "hybrid" or "adaptive"; did you mean "native"?
    1 fault in baton.toml
    "#);
    insta::assert_snapshot!(said_of_function("verify.sample = 0.5"), @"
    baton.toml:5:1: function.f.verify: compares component and native; expected both of them
    1 fault in baton.toml
    ");
    let text = "[[function]]\nname = \"f\"\nroute = \"/f\"\nnative = \"f\"\npolicy = \"wasm\"";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:5:10: function.f.policy: "wasm" needs component, which is missing; did you mean "native"?
    1 fault in baton.toml
    "#);
}

#[test]
fn a_bad_native_is_told_with_its_three_forms() {
    let native = [
        "1",
        "{}",
        "{ rootfs = \"r\" }",
        "{ rootfs = \"r\", command = [] }",
        "{ rootfs = \"r\", command = \"/app\" }",
        "{ rootfs = \"r\", command = [\"app\"] }",
        "{ image = \"i\", command = [\"/app\"] }",
        "{ imag = \"i\" }",
    ];
    insta::assert_snapshot!(native.map(|native| said_of_function(&format!("native = {native}"))).join("\n"), @r#"
    baton.toml:5:10: function.f.native: 1 is an integer; expected the path of an executable, { rootfs = "dir", command = ["/app"] } or { image = "path" }; did you mean "1"?
    1 fault in baton.toml
    baton.toml:5:10: function.f.native: says neither rootfs nor image; expected the path of an executable, { rootfs = "dir", command = ["/app"] } or { image = "path" }
    1 fault in baton.toml
    baton.toml:5:10: function.f.native.command: is missing; expected the program inside the rootfs and its arguments, such as ["/app"]
    1 fault in baton.toml
    baton.toml:5:36: function.f.native.command: has no program; expected the program inside the rootfs and its arguments, such as ["/app"]
    1 fault in baton.toml
    baton.toml:5:36: function.f.native.command: "/app" is a string; expected the program inside the rootfs and its arguments, such as ["/app"]; did you mean ["/app"]?
    1 fault in baton.toml
    baton.toml:5:36: function.f.native.command: "app" is not an absolute path inside the rootfs; expected the program inside the rootfs and its arguments, such as ["/app"]
    1 fault in baton.toml
    baton.toml:5:25: function.f.native.command: is an unknown key; expected image
    1 fault in baton.toml
    baton.toml:5:10: function.f.native: says neither rootfs nor image; expected the path of an executable, { rootfs = "dir", command = ["/app"] } or { image = "path" }
    baton.toml:5:12: function.f.native.imag: is an unknown key; did you mean image?
    2 faults in baton.toml
    "#);
}

#[test]
fn limits_that_contradict_each_other_are_told() {
    let text = "[pool]\nmemory = \"100MiB\"\n\
        [[function]]\nname = \"f\"\nroute = \"/f\"\nnative = \"f\"\n\
        limits.memory = \"101MiB\"\nsandboxes = { min = 5 }\n";
    insta::assert_snapshot!(said(text), @r#"
    baton.toml:2:10: pool.memory: "100MiB" is less than the 505MiB that sandboxes.min keeps running; expected a larger pool.memory or fewer sandboxes
    baton.toml:7:17: function.f.limits.memory: "101MiB" is more than pool.memory; expected at most 100MiB, so that one sandbox fits
    baton.toml:8:21: function.f.sandboxes.min: 5 is more than max, 4; expected at most max
    3 faults in baton.toml
    "#);
}

#[test]
fn memory_beyond_the_pool_is_fine_for_a_function_that_never_uses_it() {
    let text =
        "[[function]]\nname = \"f\"\nroute = \"/f\"\ncomponent = \"f\"\nlimits.memory = \"3GiB\"";
    assert!(parsed(text).is_ok());
}

#[test]
fn a_bad_egress_rule_is_told_with_the_good_forms() {
    let lines = "[function.egress]\nallow = [\n\"api.example.com\",\n\"https://a.example/v1\",\n\
        \"ftp://a.example\",\n\"https://u@a.example\",\n\"http://300.1.1.1\",\n\"10.0.0.0/33\",\n\
        \"https://a.example:0\",\n\"https://\",\n]\ntrace = [\"https://b.example\"]\n";
    insta::assert_snapshot!(said_of_function(lines), @r#"
    baton.toml:7:1: function.f.egress.allow[0]: "api.example.com" has no scheme; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"; did you mean "https://api.example.com"?
    baton.toml:8:1: function.f.egress.allow[1]: "https://a.example/v1" has a path, which an origin does not; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"; did you mean "https://a.example"?
    baton.toml:9:1: function.f.egress.allow[2]: "ftp://a.example" has the scheme ftp, not http or https; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    baton.toml:10:1: function.f.egress.allow[3]: "https://u@a.example" names a user, which an origin does not; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    baton.toml:11:1: function.f.egress.allow[4]: "http://300.1.1.1" is not an origin; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    baton.toml:12:1: function.f.egress.allow[5]: "10.0.0.0/33" is not a place to connect to; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    baton.toml:13:1: function.f.egress.allow[6]: "https://a.example:0" is not an origin; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    baton.toml:14:1: function.f.egress.allow[7]: "https://" is not an origin; expected an origin such as "https://api.example.com", an IP address, a network such as "10.0.0.0/8" or "localhost"
    8 faults in baton.toml
    "#);
}

#[test]
fn a_place_that_gets_our_trace_is_an_allowed_one() {
    let lines = "egress = { allow = [\"https://a.example\"], trace = [\"https://b.example\"] }";
    insta::assert_snapshot!(said_of_function(lines), @r#"
    baton.toml:5:52: function.f.egress.trace[0]: "https://b.example" is not allowed; expected an origin of egress.allow
    1 fault in baton.toml
    "#);
}

#[test]
fn a_bad_reuse_is_told_with_the_good_form() {
    insta::assert_snapshot!(said_of_function("instances = \"reuse\""), @r#"
    baton.toml:5:13: function.f.instances: "reuse" is unknown; expected "fresh" or { reuse = { requests = 1000, concurrent = 1, idle = "10s" } }
    1 fault in baton.toml
    "#);
    insta::assert_snapshot!(said_of_function("instances = { reuse = true }"), @"
    baton.toml:5:23: function.f.instances.reuse: true is a boolean; expected the table [function.f.instances.reuse]
    1 fault in baton.toml
    ");
    insta::assert_snapshot!(said_of_function("instances = { reused = {} }"), @r#"
    baton.toml:5:13: function.f.instances: does not say reuse; expected "fresh" or { reuse = { requests = 1000, concurrent = 1, idle = "10s" } }
    baton.toml:5:15: function.f.instances.reused: is an unknown key; did you mean reuse?
    2 faults in baton.toml
    "#);
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered_and_every_fault_has_a_place(
        at in 0usize..3000,
        deleted in 0usize..20,
        inserted in "[\\[\\]{}=\"#.,a-z0-9 \nä]{0,6}",
    ) {
        let example = example();
        let start = example.floor_char_boundary(at);
        let end = example.floor_char_boundary(start + deleted);
        let text = [&example[..start], &inserted, &example[end..]].concat();
        if let Err(faults) = parsed(&text) {
            let lines = text.lines().count() + 1;
            for fault in faults.iter() {
                let position = fault.position.expect("a fault in a text has a place");
                proptest::prop_assert!((1..=lines).contains(&position.line));
            }
        }
    }
}
