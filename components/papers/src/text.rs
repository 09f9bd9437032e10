//! The text that a function reads: given in the request, fetched from the store, or made.

use baton_function::Problem;

use crate::{Numbers, Object, Stopwatch, index, length, within};

/// What a request says about its text; the first that is there counts.
#[derive(Clone, Debug)]
pub struct Text {
    /// The text itself.
    pub text: Option<String>,
    /// The URL of the object that is the text.
    pub storage: Option<String>,
    /// The size of the text that is made otherwise.
    pub size_kib: u32,
    /// What it is made from.
    pub seed: u64,
}

impl Text {
    /// A text of [`LONGEST`](Self::LONGEST) bytes in JSON, of which few are escaped.
    pub const LONGEST_REQUEST: usize = 9 << 20;
    /// The longest text, given or made.
    pub const LONGEST: u32 = 8 << 20;

    /// The text, with the laps that it took.
    ///
    /// # Errors
    /// A problem: 400 when a bound is passed or the text is not UTF-8, 502 when the store fails.
    pub async fn read(self, stopwatch: &mut Stopwatch) -> Result<String, Problem> {
        if let Some(text) = self.text {
            within("the length of text", length(text.as_bytes()), 0..=u64::from(Self::LONGEST))?;
            return Ok(text);
        }
        let Some(url) = self.storage else {
            within("size_kib", self.size_kib, 1..=Self::LONGEST / 1024)?;
            let text = Numbers::from_seed(self.seed).text(index(self.size_kib * 1024));
            stopwatch.retrieved();
            return Ok(text);
        };
        let bytes = Object::at("storage", &url)?.read().await?;
        stopwatch.retrieved();
        within("the length of the object", length(&bytes), 0..=u64::from(Self::LONGEST))?;
        let text = String::from_utf8(bytes.into());
        stopwatch.serialized();
        text.map_err(|error| Problem::bad_request(format!("{url} is no UTF-8 text: {error}")))
    }
}
