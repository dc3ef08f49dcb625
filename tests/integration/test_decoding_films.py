"""Real chest films, compressed and not, of 8 and 15 bits, against torchxrayvision's own DICOM reader."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torchxrayvision as xrv

from worker.decoding import load_radiograph

DATA_STORE = find_spec("data_store")
FOLDERS = [*(f"cxr_{number:02d}" for number in range(1, 12)), "cxr_12_prior", "cxr_12_current"]


def stretched(values):
    return (values - values.min()) / (values.max() - values.min()) * 255


def library(path):
    """The library's picture: VOI window, MONOCHROME1 inverted; it does not stretch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every MONOCHROME1
        return xrv.utils.read_xray_dcm(path, voi_lut=True, fix_monochrome=True)


def differ(one, other):
    return float(np.abs(one - other).max())


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_real_film_is_the_library_s_picture_stretched(real_data, folder):
    path = next((real_data / folder).glob("*.dcm"))
    film = load_radiograph(path)
    assert differ(film.pixels, stretched(library(path))) < 0.01
    assert (film.pixels.min(), film.pixels.max()) == (0, 255)
    assert film.view_position in {"PA", "AP"}


@pytest.fixture(scope="module")
def rg1():
    if DATA_STORE is None or DATA_STORE.origin is None:
        pytest.skip("pydicom-data is not installed")
    return Path(DATA_STORE.origin).parent / "data"


def test_a_film_of_fifteen_bits_is_the_library_s_picture_whatever_its_compression(rg1):
    plain = load_radiograph(rg1 / "RG1_UNCR.dcm")
    assert plain.pixels.shape == (1955, 1841)
    assert differ(plain.pixels, stretched(library(rg1 / "RG1_UNCR.dcm"))) < 0.01
    lossless = load_radiograph(rg1 / "RG1_J2KR.dcm")
    assert np.array_equal(lossless.pixels, plain.pixels)
    lossy = load_radiograph(rg1 / "RG1_J2KI.dcm")
    assert np.abs(lossy.pixels - plain.pixels).mean() < 2
