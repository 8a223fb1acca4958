"""Data sets: dSprites from its closed form or from a file, 3D Faces, CelebA and folders of pictures.

Synthetic heads are in `tcvae_ref.data.heads`, correlated sampling in `tcvae_ref.data.correlated`.
"""

from tcvae_ref.data.celeba import read_celeba
from tcvae_ref.data.dsprites import FACTORS, GRIDS, grid, render
from tcvae_ref.data.faces import read_faces
from tcvae_ref.data.factors import ByteImages, Factor, FactorDataset, FactorGrid, PackedImages
from tcvae_ref.data.image_folder import read_folder
from tcvae_ref.data.sprite_files import fidelity, read_npz, write_npz

__all__ = [
    "FACTORS",
    "GRIDS",
    "ByteImages",
    "Factor",
    "FactorDataset",
    "FactorGrid",
    "PackedImages",
    "fidelity",
    "grid",
    "read_celeba",
    "read_faces",
    "read_folder",
    "read_npz",
    "render",
    "write_npz",
]
