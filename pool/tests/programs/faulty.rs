//! A function that fails as its argument says: `exit STATUS` at once, or `deaf`, which lives and never accepts.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", status] => std::process::exit(status.parse().expect("a status")),
        ["deaf"] => loop {
            std::thread::park();
        },
        _ => panic!("no such fault: {words:?}"),
    }
}
