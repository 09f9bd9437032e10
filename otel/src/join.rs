//! The parts of a trace put together: what a function told of itself goes below the host's span that
//! called it.

use crate::span::{Span, Trace};

/// The traces with each part that belongs below a span of another in its place; those that remain
/// keep their order.
#[must_use]
pub fn join(parts: Vec<Trace>) -> Vec<Trace> {
    let mut traces = parts;
    let mut at = 0;
    while at < traces.len() {
        let part = traces.remove(at);
        match place(&mut traces, &part) {
            Some(above) => {
                let after = |other: &Span| other.start > part.root.start;
                let position = above.children.iter().position(after);
                above.children.insert(position.unwrap_or(above.children.len()), part.root);
            }
            None => {
                traces.insert(at, part);
                at += 1;
            }
        }
    }
    traces
}

/// The span that the root of `part` belongs below.
fn place<'a>(traces: &'a mut [Trace], part: &Trace) -> Option<&'a mut Span> {
    let parent = part.parent?;
    let of_it = traces.iter_mut().filter(|trace| trace.trace_id == part.trace_id);
    of_it.map(|trace| &mut trace.root).find_map(|root| find(root, &|span| span.span_id == parent))
}

fn find<'a>(span: &'a mut Span, wanted: &impl Fn(&Span) -> bool) -> Option<&'a mut Span> {
    if wanted(span) {
        return Some(span);
    }
    span.children.iter_mut().find_map(|child| find(child, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn part(trace: u128, parent: u64, id: u64, start: u64) -> Trace {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(start);
        let root = Span { span_id: id.into(), ..Span::new(format!("s{id}"), at, at) };
        let parent = (parent != 0).then(|| parent.into());
        Trace { trace_id: trace.into(), parent, root, tracestate: None }
    }

    fn drawn(parts: &[Trace]) -> Vec<String> {
        fn draw(span: &Span) -> String {
            let inner: Vec<String> = span.children.iter().map(draw).collect();
            format!("{}({})", span.name, inner.join(" "))
        }
        join(parts.to_vec()).iter().map(|trace| draw(&trace.root)).collect()
    }

    #[test]
    fn parts_go_below_their_parents_by_time_whatever_order_they_came_in() {
        let (host, outer) = (part(1, 9, 1, 0), part(1, 1, 2, 5));
        let (inner, early) = (part(1, 2, 3, 6), part(1, 1, 4, 1));
        let joined = ["s1(s4() s2(s3()))"];
        assert_eq!(drawn(&[inner.clone(), outer.clone(), early.clone(), host.clone()]), joined);
        assert_eq!(drawn(&[host, early, outer, inner]), joined);
    }

    #[test]
    fn parts_of_other_traces_and_circles_stay_as_they_are() {
        assert_eq!(drawn(&[part(1, 0, 1, 0), part(2, 1, 2, 0)]), ["s1()", "s2()"]);
        assert_eq!(drawn(&[part(1, 2, 1, 0), part(1, 1, 2, 0)]), ["s2(s1())"]);
        assert_eq!(drawn(&[part(1, 1, 1, 0)]), ["s1()"]);
    }
}
