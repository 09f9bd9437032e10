//! Pseudo-random input, the same in both builds for the same seed.

/// The generator of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

/// What [`Numbers::text`] is made of: frequent words, so that the text is English to whoever asks.
const WORDS: [&str; 64] = [
    "the", "and", "that", "have", "with", "this", "from", "they", "would", "there", "their",
    "what", "about", "which", "when", "make", "like", "time", "just", "know", "people", "into",
    "year", "good", "some", "could", "them", "other", "than", "then", "look", "only", "come",
    "over", "think", "also", "back", "after", "work", "first", "well", "even", "want", "because",
    "these", "give", "most", "quick", "brown", "fox", "jumps", "lazy", "dog", "river", "mountain",
    "winter", "morning", "letter", "garden", "window", "station", "journey", "library", "engine",
];
const WORDS_IN_A_LINE: u32 = 8;

impl Numbers {
    /// The sequence that belongs to a seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn high_bits(&mut self) -> u32 {
        u32::try_from(self.bits() >> 32).expect("32 bits are left")
    }

    /// A number in [0, 1) of 32 random bits, which a double holds exactly.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.high_bits()) / 4_294_967_296.0
    }

    /// `count` numbers as of [`unit`](Self::unit).
    pub fn units(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.unit()).collect()
    }

    /// `count` random bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// `count` random small letters.
    pub fn letters(&mut self, count: usize) -> String {
        let letter = |byte: u8| char::from(b'a' + byte % 26);
        self.bytes(count).into_iter().map(letter).collect()
    }

    /// A text of exactly `length` bytes of ASCII: lines of eight English words, the last cut off.
    pub fn text(&mut self, length: usize) -> String {
        let mut text = String::with_capacity(length + 16);
        for word in 1_u32.. {
            text += WORDS[crate::index(self.high_bits() >> 26)];
            text.push(if word.is_multiple_of(WORDS_IN_A_LINE) { '\n' } else { ' ' });
            if text.len() >= length {
                break;
            }
        }
        text.truncate(length);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_gives_the_published_sequence() {
        let mut numbers = Numbers::from_seed(1_234_567);
        assert_eq!(numbers.bits(), 6_457_827_717_110_365_317);
        assert_eq!(numbers.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn text_and_bytes_have_the_length_asked_for() {
        for length in [0, 1, 7, 1000] {
            assert_eq!(Numbers::from_seed(1).text(length).len(), length);
            assert_eq!(Numbers::from_seed(1).bytes(length).len(), length);
        }
    }
}
