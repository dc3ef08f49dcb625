"""What the viewer's browser tests share: what is on the screen and where, and Instances of several kinds."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from re import Pattern
from typing import Any

import numpy as np
from flask import Flask
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, Route, expect
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import DigitalXRayImageStorageForPresentation, MRImageStorage, generate_uid
from werkzeug.serving import make_server

from tests.dashboard_support import ct_study

SLOW_MS = 60_000  # a busy machine is no failure


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """A dashboard behind a port of its own; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Held:
    """Requests to addresses like ``url`` wait until they are released."""

    def __init__(self, page: Page, url: str | Pattern[str]) -> None:
        self._page = page
        self._waiting: list[Route] = []
        self._is_free = False
        page.route(url, self._take)

    def _take(self, route: Route) -> None:
        if self._is_free:
            route.continue_()
        else:
            self._waiting.append(route)

    def wait(self) -> None:
        """Return when the first one waits."""
        while not self._waiting:
            self._page.wait_for_timeout(100)

    def release(self) -> None:
        """Let those that wait, and all later ones, go on."""
        self.wait()
        self._is_free = True
        for route in self._waiting:
            route.continue_()


def live(page: Page) -> None:
    """Wait for Cornerstone's own first picture."""
    page.wait_for_selector("#viewer[data-stage=live][data-drawn='1']")


def show(page: Page, index: int, pane: int = 0) -> None:
    """Wait until a frame (from 0) is on the screen."""
    expect(page.locator(".cs-pane").nth(pane)).to_have_attribute("data-index", str(index), timeout=SLOW_MS)


def picture(page: Page, pane: int = 0) -> NDArray[np.uint8]:
    """What is on the screen within one pane, ``(rows, columns, 3)``."""
    page.wait_for_timeout(250)  # a picture is drawn after the frame that asked for it
    png = page.locator(".cs-pane").nth(pane).screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def settled(page: Page, pane: int = 0) -> NDArray[np.uint8]:
    """What is on the screen within one pane once it has not changed for a second."""
    seen = [picture(page, pane)]
    while len(seen) < 4 or any(not np.array_equal(seen[-1], one) for one in seen[-4:]):
        seen.append(picture(page, pane))
        if len(seen) > SLOW_MS / 250:
            raise AssertionError("the picture never comes to rest")
    return seen[-1]


def at(screen: NDArray[np.uint8], shape: tuple[int, int], row: float, column: float) -> tuple[int, int]:
    """Where a pixel's centre is when an image with square pixels is fitted into a pane: (y, x)."""
    height, width = screen.shape[:2]
    scale = min(height / shape[0], width / shape[1])
    y = (height - scale * shape[0]) / 2 + scale * (row + 0.5)
    x = (width - scale * shape[1]) / 2 + scale * (column + 0.5)
    return round(y), round(x)


def grey(values: float, center: float, width: float) -> float:
    """The display value of a LINEAR window (PS3.3 C.11.2.1.2.1)."""
    return float(np.clip(((values - (center - 0.5)) / (width - 1) + 0.5) * 255, 0, 255))


def drag(page: Page, screen: NDArray[np.uint8], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draw from one pixel's centre to another's, each (row, column) of an image of 128 x 128."""
    box = page.locator(".cs-pane").bounding_box()
    assert box is not None
    (top, left), (bottom, right) = (at(screen, (128, 128), *one) for one in (start, end))
    page.mouse.move(box["x"] + left, box["y"] + top)
    page.mouse.down()
    page.mouse.move(box["x"] + (left + right) / 2, box["y"] + (top + bottom) / 2, steps=3)
    page.mouse.move(box["x"] + right, box["y"] + bottom, steps=3)
    page.mouse.up()


def dressed(ds: Dataset, **changes: Any) -> Dataset:
    """A sample Instance as one of a patient of this site."""
    plain = ct_study(1)[0]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"):
        setattr(ds, keyword, plain[keyword].value)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyDate, ds.StudyTime, ds.StudyDescription = "20261121", "083000", "Sample"
    ds.SeriesDescription, ds.SeriesNumber, ds.BodyPartExamined, ds.InstanceNumber = "Sample", 1, "HEAD", 1
    ds.WindowCenter, ds.WindowWidth = 600, 1200
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def sequences() -> tuple[list[Dataset], list[Dataset], list[Dataset]]:
    """Three MR sequences of one study: contrast, FLAIR with slices of half the distance from 10 mm higher on, T2."""
    plain = {"Modality": "MR", "SOPClassUID": MRImageStorage, "BodyPartExamined": "BRAIN"}
    contrast = ct_study(8, SeriesDescription="AX T1 POST GAD", **plain)
    flair = ct_study(16, SeriesDescription="AX FLAIR", SeriesNumber=3, **plain)
    late = ct_study(8, SeriesDescription="AX T2", SeriesNumber=4, **plain)
    for index, ds in enumerate(flair):
        ds.ImagePositionPatient = [-112.0, -112.0, 110.0 - 2.5 * index]
    for ds in [*contrast, *flair, *late]:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID = contrast[0].StudyInstanceUID, contrast[0].FrameOfReferenceUID
        ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    return contrast, flair, late


def radiograph() -> Dataset:
    """A MONOCHROME1 radiograph whose spacing is of the detector's plane: a ramp from left to right."""
    ds = dressed(ct_study(1)[0], Modality="DX", Rows=200, Columns=200, BodyPartExamined="CHEST")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleType"):
        delattr(ds, keyword)
    ds.RescaleIntercept, ds.RescaleSlope = 0, 1
    ds.ImagerPixelSpacing, ds.PatientOrientation, ds.ViewPosition = [0.5, 0.5], ["L", "F"], "PA"
    ds.PhotometricInterpretation, ds.PixelRepresentation, ds.BitsStored, ds.HighBit = "MONOCHROME1", 0, 12, 11
    ds.PixelData = np.tile(np.arange(200, dtype="<u2") * 6, (200, 1)).tobytes()
    return ds


def sample(name: str) -> Dataset:
    """One of pydicom's sample files."""
    path = get_testdata_file(name, download=False)
    assert path is not None
    return dcmread(path)
