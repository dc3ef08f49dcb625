"""Every backend behind the same protocol; the served one is `transformers serve`, a real OpenAI-compatible server."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import GenerationBudgetError
from phantoms.chest_xray import make_chest_xray
from phantoms.dicom import write_radiograph
from phantoms.patients import make_patient
from tests.fakes import FixedClassifier, card
from tests.tiny_vlms import write_llava, write_qwen, write_server_package
from tests.vlm_checkpoint import write_checkpoint
from worker.conversation import Bench
from worker.drafting import draft_study
from worker.intake import gate
from worker.profiles import CHEST_XRAY
from worker.vlm.backends import Conversation
from worker.vlm.cards import print_cards
from worker.vlm.opening import open_vlm
from worker.vlm.templates import Message

BUDGET = 100
STARTED_S = 120


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One package for each backend; the served model has the weights of ``hf yes``."""
    root = tmp_path_factory.mktemp("vlms")
    write_checkpoint(root / "vila_m3")
    write_llava(root / "hf llava", says_yes=True)
    write_qwen(root / "hf yes", says_yes=True)
    write_qwen(root / "hf random")
    return root


@pytest.fixture(scope="module")
def served_url(tmp_path_factory):
    """A server process of this module's own; it loads the folder a request names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    environment = os.environ | {"HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32"], env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + STARTED_S
        while not _is_up(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(20)


def _is_up(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def opened(folders, served_url):
    """Open a package by name; ``served yes`` is ``hf yes`` run by the server."""

    def open_named(name):
        kind, _, model = name.partition(" ")
        if kind == "served":
            write_server_package(folders / name, served_url, str(folders / f"hf {model}"))
        return open_vlm(folders / name, dtype=torch.float32)

    return open_named


def picture(seed, rows=60, columns=90):
    return np.random.default_rng(seed).integers(0, 255, (rows, columns, 3), dtype=np.uint8)


# --- a real server -----------------------------------------------------------------------------------------


def test_a_real_server_answers_as_the_same_weights_do_here(opened):
    here, there = opened("hf random"), opened("served random")
    talks = [
        Conversation(
            (
                Message("user", f"cards <CXR(args)> <image>\nfirst {i}"),
                Message("assistant", "Let me trigger <CXR()>."),
                Message("user", "The results are <image>.\nUse <|im_end|> them."),
            ),
            (picture(i, 40 + 20 * i), picture(10 + i)),
        )
        for i in range(3)
    ]
    # the ends of this random model are ordinary tokens to its tokenizer, and this server leaves all tokens in the text
    wanted = [
        (re.sub(r"<\|\w+\|>", "", here.tokenizer.decode(answer.token_ids)).strip(), answer.token_count)
        for answer in here.generate_batch(talks, max_new_tokens=BUDGET)
    ]
    served = there.generate_batch(talks, max_new_tokens=BUDGET)
    assert [(answer.text, answer.token_count) for answer in served] == wanted
    assert len(set(wanted)) > 1


def test_a_real_server_says_yes_stops_and_names_its_model(opened):
    vlm = opened("served yes")
    talk, shown = [Message("user", "<image>\nThis is a CXR image.\n")], [picture(1)]
    assert vlm.generate(talk, shown, max_new_tokens=8).token_count == 2
    with pytest.raises(GenerationBudgetError, match="did not stop within 1 tokens"):
        vlm.generate(talk, shown, max_new_tokens=1)
    answers = vlm.answer_each(talk, shown, ["Does the film show effusion?", "Does the film show edema?"])
    # this server gives no log-probabilities, so nothing is known of the margin
    assert [(a.text, a.margin, a.is_free_choice) for a in answers] == [("yes", 0.0, True)] * 2
    assert vlm.runtime["served_model"].startswith(vlm.runtime["requested_model"])


# --- the same protocol over all ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    xray = make_chest_xray(11, findings=frozenset({"Effusion"}), size=256)
    folder = tmp_path_factory.mktemp("cxr")
    return write_radiograph(
        xray.pixels, make_patient(1), folder, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm
    )


def _shape(value):
    """Return what a provenance record is made of, without the values."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    return [_shape(value[0])] if isinstance(value, list) and value else type(value).__name__


@pytest.mark.parametrize("name", ["vila_m3", "hf llava", "hf yes", "hf random", "served yes"])
def test_a_study_is_drafted_the_same_way_whatever_runs_the_model(opened, chest, name):
    vlm = opened(name)
    intake = gate(chest, CHEST_XRAY)
    expert = FixedClassifier({"Effusion": 0.9, "Mass": 0.1, "Fracture": 0.2})
    bench = Bench(vlm, [expert.card], lambda _: expert, intake.study, "CXR", max_new_tokens=24)
    content = draft_study(intake, CHEST_XRAY, bench)
    # the Expert runs by rule, since no random model asks for it; its verdicts stand beside the model's answers
    assert list(content.results) == [("CXR", "")]
    assert {f.label: f.expert_positive for f in content.findings} == {
        "Effusion": True,
        "Mass": False,
        "Fracture": False,
    }
    assert all(f.margin >= 0 for f in content.findings)
    (lapse,) = [mark for mark in content.marks if mark.kind == "trigger"]
    assert "CXR() was run by rule" in lapse.text
    assert set(content.sections) == {"technique", "comparison", "findings", "impression"}
    contradicted = {mark.finding for mark in content.marks if mark.kind == "contradiction"}
    assert contradicted == {f.label for f in content.findings if f.is_present != f.expert_positive}
    (talk,) = content.provenance["conversations"]
    assert print_cards([expert.card]).rstrip("\n") in talk["prompt"]
    assert talk["demanded_by_rule"] is True
    assert talk["lapse"]
    assert set(talk["answers"]) == {"Effusion", "Mass", "Fracture"}
    assert _shape(talk["answers"]["Mass"]) == {"text": "str", "margin": "float", "is_free_choice": "bool"}
    assert (vlm.card.backend, vlm.card.name) == (name.split()[0].replace("served", "openai"), "random")


def test_what_a_server_runs_drafts_what_the_same_weights_draft_here(opened, chest):
    drafts = []
    for name in ("hf yes", "served yes"):
        intake = gate(chest, CHEST_XRAY)
        expert = FixedClassifier({"Effusion": 0.9, "Mass": 0.1}, card("CXR", "CXR"))
        bench = Bench(opened(name), [expert.card], lambda _, e=expert: e, intake.study, "CXR", max_new_tokens=24)
        content = draft_study(intake, CHEST_XRAY, bench)
        talk = content.provenance["conversations"][0]
        drafts.append((content.sections, content.marks, content.not_assessed, talk["answer"], _shape(talk)))
        assert [f.is_present for f in content.findings] == [True, True]
    # a server does not say which tokens it wrote
    here, there = drafts[0][-1].pop("token_ids"), drafts[1][-1].pop("token_ids")
    assert (here, there) == (["int"], "list")
    assert drafts[0] == drafts[1]
