"""From the hub to an answer: checkpoints in the published layout are fetched, activated and loaded."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from config.settings import ROOT, Settings
from db import packages
from db.engine import make_engine, make_sessions, migrate
from db.uow import unit_of_work
from tests.hub_server import repository, serve
from tests.published_checkpoint import write_published
from tests.store_support import COMMIT, OPERATOR, acquisition, vila_folder
from worker.store.active import drafting, models_dir, vlm_folder
from worker.store.published import HubSource, find_recipe
from worker.vlm.templates import Message
from worker.vlm.vila_m3 import VilaM3

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
CONTEXT = [Message("user", "<image>\nThis is a CXR image."), Message("assistant", "yes")]
QUESTIONS = ["Is there an effusion?", "Is there a pneumothorax?"]


@pytest.mark.parametrize("size", ["3B", "8B", "13B"])
def test_each_published_size_goes_from_the_hub_to_an_answer(tmp_path, sqlite_url, sqlite_sessions, size):
    published = tmp_path / "published"
    write_published(published, size)
    as_written = VilaM3.load(published, dtype=torch.float32).answer_each(CONTEXT, [PICTURE], QUESTIONS)
    (published / "manifest.json").unlink()
    settings = Settings(data_dir=tmp_path / "data", database_url=sqlite_url)
    repo = f"MONAI/Llama3-VILA-M3-{size}"
    recipe = find_recipe(repo).model_copy(update={"hub": HubSource(repo=repo, revision=COMMIT)})
    with serve({repo: repository(published, commit=COMMIT)}) as endpoint:
        acquisition(models_dir(settings), sqlite_sessions).fetch(recipe, endpoint=endpoint)
    with unit_of_work(sqlite_sessions, OPERATOR) as uow:
        packages.activate(uow, packages.find_package(uow.session, f"Llama3-VILA-M3-{size}").id)
    with sqlite_sessions() as session:
        model = VilaM3.load(vlm_folder(settings, drafting(session)), dtype=torch.float32)
    assert (model.card.name, model.card.revision) == (f"Llama3-VILA-M3-{size}", COMMIT)
    assert model.card.research_only
    assert model.answer_each(CONTEXT, [PICTURE], QUESTIONS) == as_written


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 2)])
def test_a_person_at_a_terminal_reads_the_licence_and_answers(tmp_path, answer, code):
    """A real terminal; the question's default is no."""
    environment = os.environ | {"FIRSTREAD_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200", "TERM": "dumb"}
    migrate(Settings(data_dir=tmp_path / "data").database)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "firstread", "models", "import", str(vila_folder(tmp_path / "vila"))]
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    os.close(ours)
    os.close(theirs)
    said = done.stdout.decode()
    assert done.returncode == code, said
    assert re.search(r"Research and evaluation only\.[\s\S]*META LLAMA 3[\s\S]*Do you accept this licence", said)
    with make_sessions(make_engine(Settings(data_dir=tmp_path / "data").database))() as session:
        assert len(packages.list_packages(session)) == (1 if code == 0 else 0)


def test_the_folder_of_the_store_is_readable_by_its_owner_only(tmp_path, sqlite_sessions):
    new = acquisition(tmp_path / "store", sqlite_sessions).bring(vila_folder(tmp_path / "vila"))
    assert Path(tmp_path / "store" / new.folder).stat().st_mode & 0o777 == 0o700
