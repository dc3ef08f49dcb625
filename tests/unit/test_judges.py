"""Which objects the judges take for one they have seen."""

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tests.judges import likeness
from tests.node_support import ct_slice


def slice_of(**changes) -> Dataset:
    series = generate_uid()
    reference = Dataset()
    reference.ReferencedSOPInstanceUID = series
    usual = {
        "SeriesInstanceUID": series,
        "StudyDate": "20261122",
        "StudyTime": "101112",
        "ReferencedImageSequence": [reference],
    }
    return ct_slice(**usual | changes)


def test_other_uids_dates_and_times_make_no_other_object():
    assert likeness(slice_of()) == likeness(slice_of(StudyDate="20250228", StudyTime="235959"))


@pytest.mark.filterwarnings("ignore")  # of pydicom, about the values that are wrong on purpose
@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": "P-2"},
        {"PatientID": ""},
        {"PixelData": bytes(512)},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        {"SeriesInstanceUID": "1.2.3"},  # what is referred to is another object now
        {"StudyInstanceUID": "1.02.3"},
        {"StudyDate": "20261322"},
        {"StudyTime": "2500"},
        {"StudyTime": "101112.5"},
        {"ReferencedImageSequence": []},
    ],
    ids=str,
)
def test_whatever_else_differs_does(changes):
    assert likeness(slice_of()) != likeness(slice_of(**changes))
