"""docs/conformance.md promises peers what the node does."""

import re
from pathlib import Path

import pytest
from pydicom.uid import JPEG2000Lossless
from pynetdicom import AllStoragePresentationContexts
from typer.testing import CliRunner

from config.errors import ConfigurationError
from config.results import MESSAGES, ResultKind
from config.settings import AeProfile, Destination, DicomSettings, Peer, PriorSource, Settings, TlsSettings
from dicom_node import policy, query, retrieve, services
from dicom_node.conformance import fill, rejections
from dicom_node.library import ACSE_TIMEOUT_S, DIMSE_TIMEOUT_S
from dicom_node.site_statement import site_statement
from dicom_node.transfer_syntaxes import ACCEPTED, supported_contexts
from firstread.cli import app
from firstread.conformance import dicomweb_routes, generated
from instances.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from instances.storing import INTERNAL_ERROR, STATUS
from reports.values import SERIES_NUMBERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_the_committed_page_is_the_generated_one() -> None:
    assert generated(PAGE) == PAGE, "run firstread node conformance"


def test_drift_is_an_error_for_whoever_checks() -> None:
    drifted = PAGE.replace("| JPEG 2000 Image Compression (Lossless Only) |", "| JPEG 3000 |")
    assert drifted != PAGE
    assert generated(drifted) == PAGE
    assert CliRunner().invoke(app, ["node", "conformance", "--check"]).exit_code == 0


@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("<!-- begin tls -->", ""),
        PAGE + "<!-- begin nothing -->\n<!-- end nothing -->\n",
        PAGE + "<!-- begin tls -->\n<!-- end tls -->\n",
    ],
)
def test_a_page_with_other_marks_is_refused(page: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tls|nothing"):
        generated(page)


def test_what_stands_around_the_marks_is_left_alone() -> None:
    assert fill("a\n<!-- begin x -->\nold\n<!-- end x -->\nb | c\n", {"x": "| n |"}) == (
        "a\n<!-- begin x -->\n| n |\n<!-- end x -->\nb | c\n"
    )


def block(name: str) -> str:
    found = re.search(rf"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


# --- facts from other places than the generator ---------------------------------------------------------------


def test_transfer_syntaxes_are_listed_in_the_order_of_preference() -> None:
    listed = re.findall(r"^\| (\d+) \| [^|]+ \| `([0-9.]+)` \|$", block("transfer-syntaxes"), re.MULTILINE)
    assert listed == [(str(rank), str(uid)) for rank, uid in enumerate(ACCEPTED, 1)]
    assert f"`{JPEG2000Lossless}`" in block("transfer-syntaxes")
    assert "1.2.840.10008.1.2.2`" not in PAGE  # Explicit VR Big Endian


def test_every_status_is_listed_with_its_comment_in_the_order_matched() -> None:
    listed = re.findall(r"^\| `([0-9A-F]{4})` \| ([^|]+) \| `(\w+)` \|", block("store-statuses"), re.MULTILINE)
    assert listed == [(f"{status:04X}", comment, kind.__name__) for kind, (status, comment) in STATUS.items()]
    status, comment = INTERNAL_ERROR
    assert f"| `{status:04X}` | {comment} | any other |" in PAGE


def test_every_rejection_is_listed() -> None:
    listed = re.findall(r"^\| (\d) \| (\d) \| (\d) \| ([^|]+) \|$", block("rejections"), re.MULTILINE)
    source = Path(policy.__file__).read_text(encoding="utf-8")
    written = re.findall(r'^[A-Z_]+ = Rejection\((\d), (\d), (\d), "([^"]+)"\)', source, re.MULTILINE)
    assert listed == written
    assert len(rejections()) == len(written) > 10


def test_services_are_those_that_are_answered_and_asked_for() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `([0-9.]+)` \| (yes|no) \| (yes|no) \|$", block("services"), re.MULTILINE)
    offered = {uid for _, uid, _, scp in rows if scp == "yes"}
    proposed = [*offered, "1.2.840.10008.5.1.4.31"]  # Modality Worklist
    accepted = {str(one.abstract_syntax) for one in services.supported_contexts(proposed)}
    assert offered == accepted | {"1.2.840.10008.1.1"}
    asked = {uid for _, uid, scu, _ in rows if scu == "yes"}
    used = {vars(query)["StudyRootFind"], vars(retrieve)["StudyRootGet"], vars(retrieve)["StudyRootMove"]}
    assert used <= asked
    assert used.isdisjoint(offered)
    assert f"{len(AllStoragePresentationContexts)} classes" in block("services")


def test_storage_classes_have_names_and_are_all_there() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `([0-9.]+)` \|$", block("storage-classes"), re.MULTILINE)
    assert {uid for _, uid in rows} == {str(one.abstract_syntax) for one in AllStoragePresentationContexts}
    assert not [name for name, _ in rows if name[0].isdigit() and "ECG" not in name]
    assert ("CT Image Storage", "1.2.840.10008.5.1.4.1.1.2") in rows


def test_implementation_timeouts_and_series_numbers_are_the_ones_in_force() -> None:
    assert f"`{IMPLEMENTATION_CLASS_UID}`" in block("implementation")
    assert f"`{IMPLEMENTATION_VERSION_NAME}`" in block("implementation")
    assert f"| {ACSE_TIMEOUT_S:.0f} s |" in block("times")
    assert f"| {DIMSE_TIMEOUT_S:.0f} s |" in block("times")
    assert f"| {DicomSettings().max_associations} (" in block("implementation")
    numbers = re.findall(r"^\| [^|]+ \| [^|]+ \| `[0-9.]+` \| (\d+) \|", block("results"), re.MULTILINE)
    assert {int(number) for number in numbers} == set(SERIES_NUMBERS.values())


def test_every_object_we_make_is_listed_with_a_class_the_node_itself_takes() -> None:
    listed = re.findall(r"^\| [^|]+ \| ([^|]+) \| `([0-9.]+)` \|", block("results"), re.MULTILINE)
    classes = {str(one.abstract_syntax) for one in supported_contexts([uid for _, uid in listed])}
    assert {uid for _, uid in listed} <= classes
    assert len(listed) == len(set(ResultKind) - MESSAGES)
    for row in (  # PS3.6 table A-1
        ("Label Map Segmentation Storage", "1.2.840.10008.5.1.4.1.1.66.7"),
        ("Basic Text SR Storage", "1.2.840.10008.5.1.4.1.1.88.11"),
        ("Key Object Selection Document Storage", "1.2.840.10008.5.1.4.1.1.88.59"),
        ("Grayscale Softcopy Presentation State Storage", "1.2.840.10008.5.1.4.1.1.11.1"),
        ("Secondary Capture Image Storage", "1.2.840.10008.5.1.4.1.1.7"),
        ("Encapsulated PDF Storage", "1.2.840.10008.5.1.4.1.1.104.1"),
    ):
        assert row in listed


def test_what_a_refusal_means_is_listed() -> None:
    assert "| `0122` | SOP Class not supported | 1 attempt |" in block("refusals")
    assert "| `A700`… | out of resources | 12 attempts |" in block("refusals")


def test_dicomweb_transactions_are_listed() -> None:
    listed = re.findall(r"^\| (GET|POST) \| `([^`]+)` \|$", block("dicomweb"), re.MULTILINE)
    assert set(listed) == set(dicomweb_routes())
    study = "/dicomweb/studies/<study_uid>"
    for transaction in [("POST", "/dicomweb/studies"), ("GET", study), ("GET", f"{study}/metadata")]:
        assert transaction in listed


def test_tls_is_that_of_the_profile() -> None:
    suites = re.findall(r"`([A-Z0-9-]+)`", block("tls"))
    assert suites
    assert all(suite.startswith("ECDHE-") and "GCM" in suite for suite in suites)
    assert "nothing older" in block("tls")


def test_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"`((?:dicom|priors|retention|web)(?:\.[a-z_]+)+)`", PAGE))
    assert named
    for name in named:
        here: object = Settings
        for part in name.split("."):
            fields = getattr(here, "model_fields", {})
            assert part in fields, name
            here = fields[part].annotation


# --- the statement of one installation ------------------------------------------------------------------------


def test_the_statement_of_a_site_says_who_may_call_and_who_is_called() -> None:
    settings = Settings(
        destinations=(
            Destination(name="pacs", ae_title="PACS", host="pacs.example", port=104, commitment=True, tls=True),
            Destination(name="web", protocol="stow-rs", url="https://web.example/rs", count=True),
            Destination(name="ris", protocol="mllp", host="ris.example", port=2575, drafts=True),
        ),
        dicom=DicomSettings(
            ae_title="FR1",
            port=11119,
            profiles=(AeProfile(ae_title="FR_MR", sop_classes=("1.2.3",), quiet_s=30),),
            tls=TlsSettings(certificate=Path("/secret/c"), key=Path("/secret/k"), authorities=Path("/secret/a")),
        ),
        priors={"sources": (PriorSource(name="vna", ae_title="VNA", host="vna.example"),)},
        retention={"keep_days": 30},
    )
    peers = [
        Peer(ae_title="CT1", host="192.0.2.0/24", called_ae=("FR_MR",), user="ct", passcode_file=Path("/secret/file"))
    ]
    said = site_statement(settings, peers)
    assert "| FR_MR |  | storage classes listed: 1 | 30 s |" in said
    assert "| CT1 | 192.0.2.0/24 | any | FR_MR | required | 10 |" in said
    assert "| pacs | c-store | PACS | pacs.example:104 | yes | no | yes | no |" in said
    assert "| web | stow-rs |  | https://web.example/rs | yes | no | no | yes |" in said
    assert "| ris | mllp |  | ris.example:2575 | no | yes | no | no |" in said
    assert "| vna | c-get | VNA | vna.example:104 | no |" in said
    assert "| Pixel data of delivered Studies go after | 30 days |" in said
    assert "| Without TLS | 127.0.0.1:11119 |" in said
    assert "| With TLS | 0.0.0.0:2762, both sides with certificate |" in said
    assert "secret" not in said
    assert "| A\\|B | any address |" in site_statement(settings, [Peer(ae_title="A|B")])
    assert "only callers on this machine" in site_statement(settings, [])
