//! How much memory responses hold while they are sent. A frame that several of them share counts once. Pure.

use std::collections::BTreeMap;

use crate::frame::Frame;

/// Something in memory, known by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    address: usize,
    bytes: usize,
}

impl From<&Frame> for Block {
    fn from(frame: &Frame) -> Self {
        Self { address: frame.jpeg().as_ptr() as usize, bytes: frame.memory() }
    }
}

impl From<&[u8]> for Block {
    fn from(bytes: &[u8]) -> Self {
        Self { address: bytes.as_ptr() as usize, bytes: bytes.len() }
    }
}

/// The blocks that are held, and how often each of them is.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    /// For all blocks that are larger than a 32nd of the limit.
    limit_of_large: usize,
    held: BTreeMap<Block, usize>,
}

impl Memory {
    /// Nothing is held, and so many bytes may be.
    pub fn new(limit: usize) -> Self {
        Self { limit, limit_of_large: limit, held: BTreeMap::new() }
    }

    /// The same, with a quarter kept for small blocks, so that a few large ones do not keep out all others.
    pub fn with_room_for_small(limit: usize) -> Self {
        Self { limit_of_large: limit / 4 * 3, ..Self::new(limit) }
    }

    /// Bytes that are held.
    pub fn used(&self) -> usize {
        self.held.keys().map(|block| block.bytes).sum()
    }

    /// Holds these blocks too, if there is room. What is alone may exceed the limit.
    pub fn take(&mut self, blocks: &[Block]) -> bool {
        let new = || blocks.iter().filter(|block| !self.held.contains_key(block)).map(|block| block.bytes);
        let is_large = |bytes: &usize| *bytes > self.limit / 32;
        let large = || self.held.keys().map(|block| block.bytes).chain(new()).filter(is_large).sum::<usize>();
        let is_small = new().all(|bytes| !is_large(&bytes)) || large() <= self.limit_of_large;
        let fits = new().next().is_none() || self.used() + new().sum::<usize>() <= self.limit && is_small;
        let is_taken = fits || self.held.is_empty();
        if is_taken {
            blocks.iter().for_each(|block| *self.held.entry(*block).or_default() += 1);
        }
        is_taken
    }

    /// Holds this block once less.
    pub fn give(&mut self, block: Block) {
        if let Some(times) = self.held.get_mut(&block) {
            *times -= 1;
            if *times == 0 {
                self.held.remove(&block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(address: usize, bytes: usize) -> Block {
        Block { address, bytes }
    }

    #[test]
    fn what_is_shared_counts_once_and_large_blocks_leave_a_quarter() {
        let mut memory = Memory::with_room_for_small(3200);
        assert!(memory.take(&[block(1, 1200)]) && memory.take(&[block(1, 1200)]) && memory.take(&[block(2, 1200)]));
        assert_eq!(memory.used(), 2400);
        assert!(!memory.take(&[block(3, 101)]), "a quarter is kept for small ones");
        assert!((0..8).all(|small| memory.take(&[block(10 + small, 100)])));
        assert!(!memory.take(&[block(30, 1)]) && memory.take(&[block(1, 1200)]));
        (0..2).for_each(|_| memory.give(block(1, 1200)));
        assert_eq!(memory.used(), 3200);
        memory.give(block(1, 1200));
        assert_eq!(memory.used(), 2000);
        assert!(Memory::new(1).take(&[block(1, 1200)]), "what is alone may be larger");
    }

    proptest! {
        #[test]
        fn nothing_leaks(events in prop::collection::vec((0..6usize, 1..400usize, any::<bool>()), 0..60)) {
            let (mut memory, mut held) = (Memory::new(1000), Vec::new());
            for (address, bytes, gives) in events {
                if gives && !held.is_empty() {
                    memory.give(held.swap_remove(bytes % held.len()));
                } else {
                    // Two blocks of one address have one size.
                    let new = block(address, 50 + address * 60);
                    if memory.take(&[new]) {
                        held.push(new);
                    }
                }
                let mut distinct = held.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(memory.used(), distinct.iter().map(|block| block.bytes).sum::<usize>());
                prop_assert!(memory.used() <= 1000);
            }
        }
    }
}
