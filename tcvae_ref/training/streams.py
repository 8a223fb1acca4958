"""The streams of random numbers of a run, each a function of the seed, its number here, and of a step or an epoch.

Every run that was made has these numbers: none is changed, and a new stream takes the next one.
"""

import numpy as np

PARAMETERS = 0
"""The first parameters of encoder and decoder."""
ORDER = 1
"""Of a step's inputs; by epoch, or by step where they have probabilities."""
NOISE = 2
"""eps of a step."""
EVALUATION = 3
"""Of `tcvae_ref.evaluation`, which has it under its own name and seed."""
SECOND_ORDER = 4
"""Of the batch that a discriminator's step takes besides."""
SECOND_NOISE = 5
"""eps of that batch."""
PERMUTATIONS = 6
"""Of its codes, by step."""
DISCRIMINATOR = 7
"""Its first parameters."""
PRIOR = 8
"""The first parameters of the flow."""


def generator(seed: int, stream: int, *moment: int) -> np.random.Generator:
    """A stream's numbers, at a step or epoch where it has such."""
    return np.random.default_rng([seed, stream, *moment])
