"""A DX film may say its view by code alone (PS3.3 C.8.11.5): it is the same view."""

import pytest
from pydicom import Dataset

from worker.views import view_position


def film(position="", *codes):
    ds = Dataset()
    if position:
        ds.ViewPosition = position
    items = []
    for value, scheme in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "view"
        items.append(item)
    ds.ViewCodeSequence = items
    return ds


@pytest.mark.parametrize(
    ("ds", "view"),
    [
        (film("PA"), "PA"),
        (film("", ("399348003", "SCT")), "AP"),
        (film("", ("272479007", "SCT")), "PA"),
        (film("", ("R-10206", "SRT")), "AP"),
        (film("", ("399173006", "SCT")), "LL"),
        (film("LL", ("272479007", "SCT")), "LL"),
        (film("", ("399067008", "SCT")), ""),
        (film("", ("272479007", "SCT"), ("399348003", "SCT")), ""),
        (film(), ""),
        (Dataset(), ""),
    ],
)
def test_the_view_comes_from_position_then_code(ds, view):
    assert view_position(ds) == view
