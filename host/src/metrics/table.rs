//! A small table that only grows, to a bound: for attributes whose values are few, but not known.

use std::sync::OnceLock;

/// Up to `N` keys with a value each, and one value for all further keys. Looking a key up takes no
/// lock: entries stand in the order in which they came, and the first ones are those asked for most.
pub(super) struct Table<K, V, const N: usize> {
    entries: [OnceLock<(K, Box<V>)>; N],
    overflow: OnceLock<Box<V>>,
}

impl<K, V, const N: usize> Default for Table<K, V, N> {
    fn default() -> Self {
        Self { entries: [const { OnceLock::new() }; N], overflow: OnceLock::new() }
    }
}

impl<K: Copy + Eq, V: Default, const N: usize> Table<K, V, N> {
    /// The value of a key, made when it is asked for first.
    pub(super) fn of(&self, key: K) -> &V {
        for entry in &self.entries {
            let (known, value) = entry.get_or_init(|| (key, Box::default()));
            if *known == key {
                return value;
            }
        }
        self.overflow.get_or_init(Box::default)
    }

    /// All keys with their values; without a key that of all which found no room.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Option<K>, &V)> {
        let known = self.entries.iter().map_while(OnceLock::get);
        let known = known.map(|(key, value)| (Some(*key), &**value));
        known.chain(self.overflow.get().map(|value| (None, &**value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn nothing_is_lost_past_the_bound_when_many_count_at_once() {
        let table: Table<u64, AtomicU64, 4> = Table::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..1_000).for_each(|i| {
                        table.of(i % 6).fetch_add(1, Relaxed);
                    });
                });
            }
        });
        let counts: Vec<_> = table.iter().map(|(key, value)| (key, value.load(Relaxed))).collect();
        assert_eq!(counts.len(), 5);
        assert_eq!(counts[4].0, None);
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 4_000);
    }
}
