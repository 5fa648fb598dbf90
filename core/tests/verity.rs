//! Where the blocks of a verity tree are, and which of them error correction covers.

use std::collections::BTreeSet;

use perigee_core::slot::verity::{Fec, HASH_BYTES, Tree};

/// Trees of one to three levels, and those that just have one more.
const DATA_BLOCKS: [u32; 7] = [1, 2, 128, 129, 16_384, 16_385, 40_000];

#[test]
fn each_block_is_the_child_of_the_one_that_has_its_hash() {
    for data_blocks in DATA_BLOCKS {
        let tree = Tree::new(data_blocks);
        let mut seen = BTreeSet::from([tree.top()]);
        for parent in tree.blocks() {
            for (at, child) in tree.children(parent).enumerate() {
                let place = tree.hash_of(child).expect("a block below the top");
                assert_eq!((place.block, place.offset), (parent, at * HASH_BYTES), "{child} of {data_blocks}");
                assert!(seen.insert(child), "{child} of {data_blocks} is two blocks' child");
            }
        }
        assert!(seen.into_iter().eq(0..tree.end), "{data_blocks}: each block has a parent");
    }
}

#[test]
fn what_is_no_block_of_the_tree_has_neither_children_nor_a_hash() {
    for data_blocks in DATA_BLOCKS {
        let tree = Tree::new(data_blocks);
        assert!(tree.children(0).is_empty() && tree.children(tree.end).is_empty(), "{data_blocks}");
        assert_eq!((tree.hash_of(tree.top()), tree.hash_of(tree.end)), (None, None), "{data_blocks}");
    }
}

#[test]
fn error_correction_covers_data_and_tree() {
    for data_blocks in DATA_BLOCKS {
        let tree = Tree::new(data_blocks);
        let fec = Fec::new(&tree, 4);
        assert_eq!(fec.covered(), tree.end);
        let covered: BTreeSet<_> = (0..fec.groups()).flat_map(|group| fec.group(group)).flatten().collect();
        assert!(covered.into_iter().eq(0..tree.end), "{data_blocks}: each block is in a group");
    }
}
