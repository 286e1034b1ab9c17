"""A space as an object."""

import pickle

import numpy as np

from lcnas import spaces


def test_a_space_goes_through_pickle_with_what_was_kept():
    space = spaces.load("pplcnet_tail").restrict(stage4_kernel=[3])
    copy = pickle.loads(pickle.dumps(space))
    assert (copy.size, copy.genes, copy.rule_texts) == (
        space.size,
        space.genes,
        space.rule_texts,
    )
    rngs = (np.random.default_rng(0) for _ in range(2))
    codes, same = (s.sample_codes(20, rng) for s, rng in zip((space, copy), rngs, strict=True))
    assert (codes == same).all()
