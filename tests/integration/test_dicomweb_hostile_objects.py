"""Objects that were stored although their pixels lie: retrieving them is an answer, never a defect."""

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG4HP41, JPEG2000Lossless, JPEGBaseline8Bit

from tests.dashboard_support import Site, ct_study, make_site
from tests.dicomweb_support import BOUNDARY, STOW_TYPE, body, encoded, make_token

ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'
OCTETS = 'multipart/related; type="application/octet-stream"'


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


def compressed(syntax: str, fragments: list[bytes], **changes: Any) -> Dataset:
    ds = ct_study(1)[0]
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate(fragments)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


CASES = {
    "too few pixels": lambda: ct_study(1, PixelData=bytes(100))[0],
    "no rows": lambda: ct_study(1, Rows=0)[0],
    "frames that are not there": lambda: ct_study(1, NumberOfFrames=7)[0],
    "no JPEG 2000": lambda: compressed(JPEG2000Lossless, [b"nonsense"]),
    "no JPEG": lambda: compressed(JPEGBaseline8Bit, [b"\xff\xd8\xff\xe0nonsense"]),
    "a huge matrix": lambda: compressed(JPEG2000Lossless, [b"nonsense"], Rows=65535, Columns=65535),
    "millions of frames": lambda: compressed(JPEG2000Lossless, [b"nonsense"], NumberOfFrames=20_000_000),
    "a video": lambda: compressed(MPEG4HP41, [b"nonsense"], NumberOfFrames=3),
}


@pytest.mark.parametrize("case", CASES)
def test_pixels_that_lie_are_stored_and_sent_as_they_are_and_nothing_else_is_promised(site: Site, case: str) -> None:
    ds = CASES[case]()
    file = encoded(ds)
    client, allowed = site.app.test_client(), {"Authorization": f"Bearer {make_token(site.sessions)}"}
    sent = {**allowed, "Content-Type": STOW_TYPE.format(BOUNDARY)}
    assert client.post("/dicomweb/studies", data=body([file]), headers=sent).status_code == 200
    address = f"/dicomweb/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"

    def get(path: str, accept: str = "*/*") -> Any:
        return client.get(address + path, headers={**allowed, "Accept": accept})

    whole = get("", ANY)
    assert whole.status_code == 200
    assert file[-100:] in whole.data
    assert get("/metadata").status_code == 200
    assert client.get("/dicomweb/instances", headers=allowed).status_code == 200
    assert get("/rendered").status_code == 406
    assert get("/thumbnail").status_code == 404
    assert get("/frames/1", OCTETS).status_code in {200, 406}
    assert get("/frames/7", OCTETS).status_code in {404, 406}
    assert get("/bulkdata/7FE00010").status_code in {200, 400, 406}
