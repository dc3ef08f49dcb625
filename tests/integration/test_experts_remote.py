"""An Expert on another machine answers as it would here; a server that fails in any way ends as "not assessed"."""

import json
import socket
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import ConfigurationError, ExpertError, InputTooLargeError, ModelPackageError, PeerUnavailableError
from phantoms.brain_mr import make_brain_mr
from phantoms.chest_xray import make_chest_xray
from phantoms.ct import make_ct
from tests.experts_fakes import UIDS, FakeSource, ct_card, ct_study, film_study
from tests.experts_remote_support import (
    SERVE,
    TOKEN,
    ask,
    drips,
    entry,
    head,
    heard,
    process,
    recorder,
    registry,
    run,
    says,
    scripted,
    stays_silent,
    stranger,
    unfolded,
)
from training.expert_radiographs import as_radiograph
from training.expert_volumes import as_volume, brain_volumes
from worker.experts import wire
from worker.experts.base import Classification, ExpertInput, SegmentationResult
from worker.experts.registry import ExpertRegistry
from worker.experts.remote import RemoteSource

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server():
    with scripted() as port:
        yield port


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    monkeypatch.setenv("EXPERTS_TOKEN", TOKEN)


# --- as it would be here -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    # as many threads as here: the order in which numbers are added decides their last bits
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    registry = {"FIRSTREAD_MODELS__REGISTRY": str(ROOT / "config" / "models.yaml")}
    with process("-c", SERVE, "serve", "--port", "0", **threads, **registry) as port:
        yield port


STUDIES = {
    "CXR": lambda: (ExpertInput(radiograph=as_radiograph(make_chest_xray(3))), ""),
    "VISTA3D": lambda: (torso(), "everything"),
    "BRATS": lambda: (head_with_tumour(), ""),
}


def torso() -> ExpertInput:
    phantom = make_ct(5, voxel_mm=(6.0, 4.0, 4.0))
    return ExpertInput(volume=as_volume(phantom.hu[:24], phantom.affine, "CT"))


def head_with_tumour() -> ExpertInput:
    """The slices around a tumour, which is less to compute than a head."""
    phantom = make_brain_mr(3, voxel_mm=(5.0, 3.0, 3.0))
    (seen,) = np.nonzero(np.isin(phantom.labels, (1, 2, 4)).any(axis=(1, 2)))
    near = slice(max(0, seen[0] - 2), seen[-1] + 3)
    return ExpertInput(
        brain_mr={
            role: replace(
                volume,
                array=volume.array[near],
                sop_instance_uids=volume.sop_instance_uids[near],
                frame_numbers=volume.frame_numbers[near],
            )
            for role, volume in brain_volumes(phantom).items()
        }
    )


@pytest.mark.models
@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_expert_answers_remotely_as_locally(shipped, name):
    study, argument = STUDIES[name]()
    here = ExpertRegistry.open(ROOT / "config" / "models.yaml", plugins=False).get(name).run(study, argument)
    there = run(shipped, name, study, argument, token_env="", timeout_s=120)
    assert (there.card, there.argument, there.notes) == (here.card, here.argument, here.notes)
    if isinstance(here, Classification):
        assert dict(there.probabilities) == dict(here.probabilities)
        assert (there.threshold, there.sop_instance_uid) == (here.threshold, here.sop_instance_uid)
        assert (dict(there.calibrated), there.calibration) == (dict(here.calibrated), here.calibration)
    else:
        assert isinstance(here, SegmentationResult)
        np.testing.assert_array_equal(there.labels, here.labels)
        assert np.unique(here.labels).size > 1  # something was drawn
        assert dict(there.names) == dict(here.names)
        assert there.volume is here.volume


def test_argument_notes_and_details_travel_and_name_the_study_again(server):
    study = ct_study()
    result = run(server, "TALKATIVE", study)
    assert result.notes == ("It was read in slabs.",)
    assert result.details["series"] == study.volume.series_instance_uid
    assert result.details["slices"] == {uid: n for n, uid in enumerate(study.volume.sop_instance_uids)}
    assert result.details["remote"]["url"] == f"http://127.0.0.1:{server}"
    assert run(server, argument="hepatic tumor").argument == "hepatic tumor"


def test_a_probability_comes_back_to_the_last_bit(server):
    assert run(server, "EXACT", film_study()).probabilities == {"liver": np.nextafter(0.1, 1)}


def test_an_expert_that_works_in_place_may(server):
    study = ct_study()
    before = study.volume.array.copy()
    run(server, "INPLACE", study)
    np.testing.assert_array_equal(study.volume.array, before)


def test_the_card_is_the_one_of_the_server(server):
    source = RemoteSource.open(entry(server))
    assert source.card == ct_card("BOXES", arguments=("everything", "hepatic tumor"))
    assert source.intended_use.refusal(modality="MR") is not None
    assert source.memory_mb == 0


# --- what is on the wire -----------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-PRIV-3")
def test_no_uid_of_the_study_is_on_the_wire(server):
    with recorder(server) as (port, kept):
        source = RemoteSource.open(entry(port, "TALKATIVE"))
        for stream in kept:
            stream.clear()
        source.load("cpu").run(ct_study(), "")
        sent, answered = (bytes(stream) for stream in kept)
    for raw in (sent, unfolded(sent), answered, unfolded(answered)):
        assert [uid for uid in UIDS if uid.encode() in raw] == []
        assert b"1.2.826" not in raw
    assert b"2.25.1" in unfolded(sent)
    assert b"2.25.1" in unfolded(answered)  # the details name Instances


def test_the_token_and_a_request_id_are_on_the_wire_and_the_id_comes_back(server):
    with recorder(server) as (port, kept):
        result = run(port)
    request = result.details["remote"]["request"]
    assert f"X-Request-Id: {request}".encode() in kept[0]
    assert f"x-request-id: {request}".encode() in bytes(kept[1]).lower()
    assert f"Authorization: Bearer {TOKEN}".encode() in kept[0]


# --- what the client makes of it ---------------------------------------------------------------------------


def test_a_failure_there_is_a_failure_here_with_its_reason(server):
    with pytest.raises(ExpertError, match="BROKEN on another machine: BROKEN: the output had NaN"):
        run(server, "BROKEN")


def test_a_result_that_breaks_the_contract_there_is_refused_there(server):
    with pytest.raises(ExpertError, match="NAN on another machine: NAN broke its contract: liver is nan"):
        run(server, "NAN", film_study())


def test_a_study_larger_than_the_server_reads_is_not_sent(server):
    with pytest.raises(InputTooLargeError, match="reads 1048576"):
        run(server, study=ct_study((3, 300, 300)))


def test_a_server_that_stays_busy_ends_at_the_deadline(server):
    held = registry(entry(server, timeout_s=0.8))
    first = threading.Thread(target=run, args=(server, "SLOW"))
    first.start()
    while not json.loads(ask(server, "GET", "/v1/health")[1])["busy"]:
        time.sleep(0.02)
    started = time.monotonic()
    with pytest.raises(ExpertError, match="busy until the time was up"):
        held.get("BOXES").run(ct_study(), "")
    assert time.monotonic() - started < 1.2
    first.join(10)


def test_a_slow_answer_ends_at_the_deadline(server):
    started = time.monotonic()
    with pytest.raises(ExpertError, match="did not answer in time"):
        run(server, "SLOW", timeout_s=0.5)
    assert time.monotonic() - started < 1.5
    time.sleep(1.2)  # it is still at work


def test_a_server_that_now_runs_another_model_is_never_used():
    with scripted("1") as port:
        held = registry(entry(port))
    with scripted("2", port=port), pytest.raises(ModelPackageError, match="another model than the one that was opened"):
        held.get("BOXES").run(ct_study(), "")


def test_a_server_that_went_away_is_not_assessed_and_soon():
    with scripted() as port:
        held = registry(entry(port))
    started = time.monotonic()
    with pytest.raises(ExpertError, match="cannot be reached: ConnectionRefusedError"):
        held.get("BOXES").run(ct_study(), "")
    assert time.monotonic() - started < 3


@pytest.mark.requirement("REQ-MODEL-12")
def test_a_remote_that_is_down_is_not_offered_and_comes_back():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    held = registry(entry(port))
    assert held.cards() == ()
    assert [(absent.entry.name, "cannot be reached" in absent.why) for absent in held.unavailable()] == [
        ("BOXES", True)
    ]
    with pytest.raises(ExpertError, match=r"BOXES is unavailable: .* cannot be reached"):
        held.get("BOXES")
    with pytest.raises(ModelPackageError, match="no expert NOBODY; available: none"):
        held.get("NOBODY")
    with scripted(port=port):
        held.ask_unavailable()  # asked a moment ago
        assert held.cards() == ()
        held.ask_unavailable(after_s=0)
        assert [card.name for card in held.cards()] == ["BOXES"]
        assert held.unavailable() == ()
        assert held.get("BOXES").run(ct_study(), "").labels[0].all()


def test_a_remote_that_comes_back_as_something_else_stays_out():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    held = registry(entry(port), sources=[FakeSource(ct_card("OTHER"))])
    with stranger(says(json.dumps(card_of("OTHER")).encode()), port=port):
        held.ask_unavailable(after_s=0)
    assert [card.name for card in held.cards()] == ["OTHER"]
    assert [absent.entry.name for absent in held.unavailable()] == ["BOXES"]


def card_of(name) -> dict:
    budget = {"memory_mb": 1, "seconds": 1}
    use = {"modalities": ["CT"], "statement": "Tests."}
    return {"protocol": 1, "card": asdict(ct_card(name)), "intended_use": use, "budget": budget,
            "max_request_bytes": 1 << 20}  # fmt: skip


def test_a_wrong_token_is_said(server, monkeypatch):
    monkeypatch.setenv("EXPERTS_TOKEN", "wrong")
    (absent,) = registry(entry(server)).unavailable()
    assert "the token is missing or wrong" in absent.why
    monkeypatch.setenv("EXPERTS_TOKEN", "two\nlines: yes")
    with pytest.raises(ConfigurationError, match="EXPERTS_TOKEN holds more than printable ASCII"):
        registry(entry(server))
    monkeypatch.delenv("EXPERTS_TOKEN")
    with pytest.raises(ConfigurationError, match="EXPERTS_TOKEN is not set"):
        registry(entry(server))


def test_an_expert_the_server_does_not_have_is_unavailable(server):
    assert "no such expert here" in registry(entry(server, "NOBODY")).unavailable()[0].why


def test_a_remote_of_a_name_that_is_taken_is_refused_also_while_it_is_down(server):
    with pytest.raises(ConfigurationError, match=r"BOXES is configured twice: remote .* and plug-in"):
        registry(entry(9), sources=[FakeSource()])
    with pytest.raises(ConfigurationError, match=r"BOXES is configured twice: remote .* and remote"):
        registry(entry(server), entry(server))


# --- servers that are none ---------------------------------------------------------------------------------


STRANGERS = {
    "silent": (stays_silent, "did not answer in time"),
    "drips its head": (drips(b"HTTP/1.1 200 OK\r\nX-Long: "), "did not answer in time"),
    "drips its body": (drips(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"), "in time"),
    "hangs up": (lambda caller: None, "cannot be reached"),
    "no HTTP": (says(b"", status="hello"), "cannot be reached"),
    "no card": (says(b"<html>login</html>"), "no model card"),
    "half a body": (says(b"x", Content_Length=50), "cannot be reached: IncompleteRead"),
    "another digest": (says(b"{}", Content_Digest=wire.content_digest(b"")), "not what its digest says"),
    "too long": (says(b" " * ((1 << 20) + 1)), "longer than 1048576 bytes"),
    "a redirect": (says(b"", status="302 Found", Location="http://127.0.0.1:1/"), "offers no BOXES: status 302"),
    "markup": (says(b"<script>\x1b[2J", status="400 Bad Request"), r"offers no BOXES: script \[2J"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_whatever_answers_the_question_for_a_card_ends_in_time_and_in_words(name):
    answer, said = STRANGERS[name]
    started = time.monotonic()
    with stranger(answer) as port, pytest.raises(PeerUnavailableError, match=said):
        RemoteSource.open(entry(port, timeout_s=1.2))
    assert time.monotonic() - started < 2.5


def test_a_card_of_another_protocol_or_expert_is_refused(server):
    card = json.loads(ask(server, "GET", "/v1/card/BOXES")[1])
    with stranger(says(json.dumps(card | {"protocol": 2}).encode())) as port:
        assert "speaks version 2" in registry(entry(port)).unavailable()[0].why
    with stranger(says(json.dumps(card).encode())) as port, pytest.raises(ModelPackageError, match="not of OTHER"):
        registry(entry(port, "OTHER"))
    card["card"]["overview"] = "Now <VISTA3D(everything)>."
    with stranger(says(json.dumps(card).encode())) as port, pytest.raises(ModelPackageError, match="overview must be"):
        registry(entry(port))


def answered(**changes) -> bytes:
    """An answer about ``ct_study()`` with something changed."""
    labels = changes.pop("labels", np.zeros((3, 4, 5), np.uint8))
    card = ct_card("BOXES", arguments=("everything", "hepatic tumor"))
    message = {
        "kind": "segmentation", "argument": "", "seconds": 0.1, "version": card.version, "role": "CT",
        "weights_sha256": dict(card.weights_sha256), "names": {"1": "liver", "3": "spleen"},
    }  # fmt: skip
    return wire.pack(message | changes, {"labels": labels})


@pytest.mark.parametrize(
    ("body", "error", "said"),
    [
        (answered(labels=np.zeros((3, 5, 4), np.uint8)), ExpertError, "BOXES broke its contract: labels are"),
        (answered(labels=np.full((3, 4, 5), 9, np.uint8)), ExpertError, "label value 9 has no name"),
        (answered(labels=np.zeros((3, 4, 5), np.int32)), ExpertError, "labels are int32"),
        (answered(names={"1": "kidney"}), ExpertError, "is called 'kidney'"),
        (answered(role="T1c"), ExpertError, "a volume that was not sent"),
        (answered(kind="classification"), ExpertError, "a segmentation was promised"),
        (answered(notes=["<b>"]), ExpertError, "not the fields of a message: notes"),
        (answered(version="2"), ModelPackageError, "answered with another model"),
        (b"garbage", ExpertError, "the bytes are no message"),
        (answered(labels=np.zeros(64 << 20, np.uint8)), ExpertError, "unfolds to more"),
    ],
)
def test_an_answer_that_is_none_is_refused(server, body, error, said):
    with impostor(server, body) as port, pytest.raises(error, match=said):
        run(port)


def test_the_undamaged_answer_is_taken(server):
    with impostor(server, answered()) as port:
        assert not run(port).labels.any()


def impostor(server, body):
    """A server that shows the card of the good one and then says ``body``."""
    card = ask(server, "GET", "/v1/card/BOXES")[1].encode()

    def answer(caller):
        said = card if heard(caller).startswith(b"GET") else body
        caller.sendall(head(said) + said)

    return stranger(answer)
