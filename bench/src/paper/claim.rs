//! What a paper says, what came out here, and how the two compare: first the order (which is faster,
//! smaller, more), then its size (how many times).

use crate::bars::short;
use crate::table::Table;

/// Two ratios are of one size when neither is more than so many times the other. Hardware, runtimes and
/// five years of compilers lie between them; half as much again is what remains of agreement.
pub(super) const ALIKE: f64 = 1.5;

/// A claim of a paper, and our result.
#[derive(Debug)]
pub(super) struct Claim {
    /// What the paper says.
    pub(super) paper: &'static str,
    /// What was measured here, or why nothing was.
    pub(super) ours: String,
    order: Order,
    ratio: Option<Ratio>,
}

/// Whether the order is the paper's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    Same,
    Other,
    /// What was measured may be chance.
    Undecided,
    NotMeasured,
}

/// The same ratio in the paper and here.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    /// Of what to what.
    of: &'static str,
    paper: f64,
    here: f64,
}

/// How a claim and our result compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// The order is the paper's, and so is the size where the paper gives one.
    Agrees,
    /// The order is, the size is not.
    OrderOnly,
    /// The order is not.
    Contradicts,
    /// Our result may be chance.
    Undecided,
    NotMeasured,
}

impl Claim {
    /// A claim that was measured; `order` says whether ours is the paper's.
    pub(super) fn new(paper: &'static str, ours: impl Into<String>, order: bool) -> Self {
        let order = if order { Order::Same } else { Order::Other };
        Self { paper, ours: ours.into(), order, ratio: None }
    }

    /// A claim that was measured, with a result that may be chance.
    pub(super) fn undecided(paper: &'static str, ours: impl Into<String>) -> Self {
        Self { paper, ours: ours.into(), order: Order::Undecided, ratio: None }
    }

    /// With the size of the claim, in both.
    pub(super) fn sized(mut self, of: &'static str, paper: f64, here: f64) -> Self {
        self.ratio = here.is_finite().then_some(Ratio { of, paper, here });
        self
    }

    /// A claim that could not be measured here.
    pub(super) fn not_measured(paper: &'static str, why: impl Into<String>) -> Self {
        Self { paper, ours: why.into(), order: Order::NotMeasured, ratio: None }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match (self.order, self.ratio) {
            (Order::NotMeasured, _) => Verdict::NotMeasured,
            (Order::Undecided, _) => Verdict::Undecided,
            (Order::Other, _) => Verdict::Contradicts,
            (Order::Same, Some(ratio)) if !ratio.is_alike() => Verdict::OrderOnly,
            (Order::Same, _) => Verdict::Agrees,
        }
    }

    /// All of it: the verdict, what the paper says, what we say, and how far apart they are.
    pub(super) fn sentence(&self) -> String {
        let verdict = match (self.verdict(), self.ratio) {
            (Verdict::Agrees, Some(_)) => "Agrees, in order and in size.",
            (Verdict::Agrees, None) => "Agrees.",
            (Verdict::OrderOnly, _) => "Agrees in order, not in size.",
            (Verdict::Contradicts, _) => "Contradicts.",
            (Verdict::Undecided, _) => "Undecided.",
            (Verdict::NotMeasured, _) => "Not measured.",
        };
        let size = self.ratio.map(|ratio| {
            format!(
                " In figures, {}: {} in the paper, {} here, {} of the paper's.",
                ratio.of,
                short(ratio.paper),
                short(ratio.here),
                short(ratio.here / ratio.paper)
            )
        });
        format!(
            "**{verdict}** The paper: {}. Here: {}.{}",
            self.paper,
            self.ours,
            size.unwrap_or_default()
        )
    }
}

impl Ratio {
    fn is_alike(self) -> bool {
        let apart = self.here / self.paper;
        (1.0 / ALIKE..=ALIKE).contains(&apart)
    }
}

/// One line for each claim of all papers.
pub(super) fn table<'a>(claims: impl Iterator<Item = (&'a str, &'a Claim)>) -> Table {
    let columns = ["paper", "ratio", "in the paper", "here", "here / paper", "order", "size"];
    let mut table = Table::new("Every claim, and how far from it we are", columns);
    for (paper, claim) in claims {
        let (order, size) = match claim.verdict() {
            Verdict::Agrees if claim.ratio.is_some() => ("agrees", "agrees"),
            Verdict::Agrees => ("agrees", "–"),
            Verdict::OrderOnly => ("agrees", "differs"),
            Verdict::Contradicts => ("contradicts", "differs"),
            Verdict::Undecided => ("undecided", "–"),
            Verdict::NotMeasured => ("–", "–"),
        };
        let figures = match claim.ratio {
            Some(Ratio { of, paper, here }) => {
                [of.to_owned(), short(paper), short(here), short(here / paper)]
            }
            None => [claim.paper, "–", "–", "–"].map(str::to_owned),
        };
        let row = std::iter::once(paper.to_owned()).chain(figures);
        table.row(row.chain([order.to_owned(), size.to_owned()]));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(order: bool, here: f64) -> Claim {
        Claim::new("starts are 8 times faster", "they are", order).sized("starts", 8.0, here)
    }

    #[test]
    fn the_order_alone_is_no_agreement() {
        assert_eq!(sized(true, 6.0).verdict(), Verdict::Agrees);
        assert_eq!(sized(true, 12.1).verdict(), Verdict::OrderOnly);
        assert_eq!(sized(true, 2.0).verdict(), Verdict::OrderOnly);
        assert_eq!(sized(false, 8.0).verdict(), Verdict::Contradicts);
        assert_eq!(Claim::not_measured("p", "why").verdict(), Verdict::NotMeasured);
        assert_eq!(Claim::undecided("p", "chance").verdict(), Verdict::Undecided);
    }

    #[test]
    fn a_sentence_says_both_ratios_and_how_far_they_are_apart() {
        let sentence = sized(true, 2.0).sentence();
        assert!(sentence.starts_with("**Agrees in order, not in size.**"), "{sentence}");
        let size = "In figures, starts: 8 in the paper, 2 here, 0.25 of the paper's.";
        assert!(sentence.ends_with(size), "{sentence}");
    }

    #[test]
    fn what_has_no_size_is_not_said_to_agree_in_it() {
        let claim = Claim::new("containers win three", "they do", true);
        assert!(claim.sentence().starts_with("**Agrees.**"));
        let table = table([("korvoj", &claim)].into_iter());
        assert_eq!(table.rows[0][5..], ["agrees", "–"]);
    }
}
