"""Serves scripted Experts: ``python -m tests.experts_server VERSION [PORT]``; run by tests as its own process."""

import os
import sys
import time
from dataclasses import replace

import numpy as np

from config.errors import ExpertError
from config.logs import configure_logs
from tests.experts_fakes import LABELS, FakeSource, box, ct_card, film_result
from worker.experts.registry import ExpertRegistry
from worker.experts.serving import ServeOptions, serve


def slow(card, study, argument):
    time.sleep(1.5)
    return box(card, study, argument)


def broken(card, study, argument):
    raise ExpertError("BROKEN: the output had NaN")


def talkative(card, study, argument):
    """Names the Instances it saw, as a provenance record may."""
    series = study.volume.series_instance_uid
    details = {"series": series, "slices": {uid: n for n, uid in enumerate(study.volume.sop_instance_uids)}}
    return replace(box(card, study, argument), notes=("It was read in slabs.",), details=details)


def in_place(card, study, argument):
    study.volume.array[:] = 0
    return box(card, study, argument)


def not_a_number(card, study, argument):
    return replace(film_result(card, study, argument), probabilities={"liver": float("nan")})


def exact(card, study, argument):
    """A probability that decimal notation cannot shorten."""
    return replace(film_result(card, study, argument), probabilities={"liver": float(np.nextafter(0.1, 1))})


def main() -> None:
    version, port = sys.argv[1], int(sys.argv[2])
    configure_logs(level="INFO", json=True, process="experts")
    arguments = ("everything", "hepatic tumor")
    made = [
        FakeSource(ct_card("BOXES", version=version, arguments=arguments)),
        FakeSource(ct_card("SLOW"), slow),
        FakeSource(ct_card("BROKEN"), broken),
        FakeSource(ct_card("TALKATIVE"), talkative),
        FakeSource(ct_card("INPLACE"), in_place),
        FakeSource(ct_card("NAN", task="classification", modality="CXR"), not_a_number),
        FakeSource(ct_card("EXACT", task="classification", modality="CXR", labels=LABELS), exact),
    ]
    registry = ExpertRegistry(made, memory_mb=1000, accepted_licences=["Apache-2.0"])
    token = os.environ.get("TEST_TOKEN", "")
    serve(registry, ServeOptions(host="127.0.0.1", port=port, token=token, max_request_bytes=1 << 20, silence_s=1))


if __name__ == "__main__":
    main()
