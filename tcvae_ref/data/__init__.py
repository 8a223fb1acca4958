"""Data sets with known factors of variation: dSprites from its closed form or from a file."""

from tcvae_ref.data.dsprites import FACTORS, GRIDS, grid, render
from tcvae_ref.data.factors import Factor, FactorDataset, FactorGrid, PackedImages
from tcvae_ref.data.sprite_files import fidelity, read_npz, write_npz

__all__ = [
    "FACTORS",
    "GRIDS",
    "Factor",
    "FactorDataset",
    "FactorGrid",
    "PackedImages",
    "fidelity",
    "grid",
    "read_npz",
    "render",
    "write_npz",
]
