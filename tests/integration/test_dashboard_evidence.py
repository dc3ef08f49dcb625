"""The pictures each question was shown are listed beside the draft, and lead to their slices."""

import re
from pathlib import Path

import pytest

from tests.dashboard_support import Site, ct_study, make_site


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


@pytest.mark.requirement("REQ-BIAS-1")
def test_a_picture_the_model_was_shown_leads_to_its_slice(site: Site) -> None:
    datasets = ct_study()
    key = datasets[2]
    where = {"series_instance_uid": str(key.SeriesInstanceUID), "sop_instance_uid": str(key.SOPInstanceUID),
             "frame_number": 1, "slice_index": 5, "slice_number": 3}  # fmt: skip
    overlay = where | {
        "kind": "overlay", "expert": "VISTA3D", "argument": "lung tumor",
        "labels": [{"colour": "red", "value": 23, "name": "<b>lung tumor</b>"}],
    }  # fmt: skip
    reformat = {"series_instance_uid": "1.2.3", "sop_instance_uid": None, "frame_number": None, "slice_index": None,
                "slice_number": None, "kind": "plain", "axial_index": 4, "position_mm": -12.5}  # fmt: skip
    talk = {"question": "Can a lung tumor be seen?", "pictures": [where | {"kind": "plain"}, overlay, reformat]}
    study_id = site.drafted(datasets, provenance={"models": [], "conversations": [talk]})
    shown = site.client("radiologist").get(f"/studies/{study_id}").text.partition('id="shown"')[2]
    shown = shown[: shown.index("</details>")]
    assert "Can a lung tumor be seen?" in shown
    jumps = re.findall(r'data-series="([^"]+)" data-index="(\d+)">Slice (\d+)</a>', shown)
    assert jumps == [(str(site.series_id(study_id)), "2", "3")] * 2
    assert "overlay of VISTA3D (lung tumor): &lt;b&gt;lung tumor&lt;/b&gt; in red" in shown
    assert "Axial plane at -12.5 mm" in shown
    fragment = re.search(r'data-jump="([^"]+)"', shown)
    assert fragment is not None
    viewer = site.client("radiologist").get(fragment[1].replace("&amp;", "&")).text
    assert 'data-index="2"' in viewer


def test_a_draft_without_conversations_lists_no_pictures(site: Site) -> None:
    page = site.client("radiologist").get(f"/studies/{site.drafted()}").text
    assert 'id="shown"' not in page


@pytest.mark.parametrize("demonstration", [True, False])
@pytest.mark.parametrize("research_only", [True, False])
def test_what_keeps_a_draft_out_of_care_is_said_above_it_each_by_itself(
    site: Site, demonstration: bool, research_only: bool
) -> None:
    model = {"role": "VLM", "name": "VILA", "version": "3", "research_only": research_only}
    study_id = site.drafted(demonstration=demonstration, provenance={"models": [model]})
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert ("DEMONSTRATION MODEL" in page, "RESEARCH USE ONLY" in page) == (demonstration, research_only)
