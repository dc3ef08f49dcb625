"""Head and brain: air is told from head by a threshold, brain from skull by the deepbet network."""

import threading
import warnings
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from config.errors import ExpertError, ModelPackageError
from worker.experts import grid
from worker.experts.packages import file_sha256
from worker.volume import Volume

# deepbet 1.0.2 (MIT). Another release brings other weights: measure it before its hashes are entered here.
WEIGHTS_SHA256 = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}
LEAST_ML, MOST_ML = 700.0, 2200.0  # adult brains with tumour and ventricles


@dataclass(frozen=True)
class BrainExtractor:
    """deepbet's two networks: one finds the head, one outlines the brain in it.

    Attributes:
        networks: deepbet's ``BrainExtraction``; it keeps the box it found, hence the lock.
        version: release of deepbet, for the provenance record.
    """

    networks: Any
    version: str
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, *, device: str = "cpu") -> Self:
        """Load the networks of the installed wheel.

        Raises:
            ModelPackageError: the weights are not the ones this code was measured with.
        """
        import deepbet.utils  # slow to import: pandas, nibabel
        from deepbet import BrainExtraction

        folder = Path(deepbet.utils.DATA_PATH) / "models"
        for name, expected in WEIGHTS_SHA256.items():
            if file_sha256(folder / name) != expected:
                raise ModelPackageError(f"deepbet: {name} is altered: its SHA-256 differs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated, the wheel has nothing else
            networks = BrainExtraction(no_gpu=device == "cpu")
        return cls(networks=networks, version=version("deepbet"))

    def mask(self, volume: Volume) -> NDArray[np.bool_]:
        """Return the brain with its ventricles, ``(slices, rows, columns)`` on the grid of ``volume``.

        Raises:
            ExpertError: the network finds no brain.
        """
        axes = grid.axis_order(volume.affine, "RAS")
        image = np.ascontiguousarray(axes.apply(volume.array), dtype=np.float32)
        if image.max() <= image.min():
            raise ExpertError("no brain is found: the image is empty")
        try:
            with self._lock:
                found = self.networks.postprocess(self.networks.run_model(image) > 0.5)
        except (AssertionError, ValueError, IndexError) as exc:  # how deepbet says that no voxel is left
            raise ExpertError("no brain is found") from exc
        return np.ascontiguousarray(axes.undo(np.asarray(found, dtype=bool)))


def brain_ml(mask: NDArray[np.bool_], volume: Volume) -> float:
    """Return the volume of a brain mask in millilitres.

    Raises:
        ExpertError: it is no adult brain: part of the head is missing, or the outline failed.
    """
    millilitres = float(mask.sum()) * volume.voxel_volume_ml
    if not LEAST_ML <= millilitres <= MOST_ML:
        raise ExpertError(
            f"the brain found in T1c has {millilitres:.0f} ml, {LEAST_ML:.0f} to {MOST_ML:.0f} ml is plausible"
        )
    return millilitres


def foreground(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the head: the largest component above Otsu's threshold of the logarithm, holes filled."""
    positive = np.maximum(array, 0)
    if positive.max() == positive.min():
        return np.ones(array.shape, dtype=bool)
    logarithm = np.log1p(positive / positive.mean() * 10)
    components, count = ndimage.label(logarithm > threshold_otsu(logarithm))
    if count == 0:
        return np.ones(array.shape, dtype=bool)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    head: NDArray[np.bool_] = components == sizes.argmax()
    for plane in head:
        ndimage.binary_fill_holes(plane, output=plane)
    return head
