"""Memory of VISTA3D does not grow with the number of class prompts. The published size: make bench-experts."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The peak of a process only ever rises, so one process asks for one class and then for all of them.
SCRIPT = """
from pathlib import Path
import numpy as np, torch
from worker.experts.base import ModelCard
from worker.experts.vista3d import Vista3dConfig, Vista3dExpert, build_vista3d
from worker.experts.vista3d_labels import EVERYTHING, NAMES
from worker.volume import Volume

def peak_mb():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e3

torch.manual_seed(0)
config = Vista3dConfig(
    weights="-", init_filters=4, feature_size=16, blocks_down=(1, 1, 1), patch=(64, 64, 64), bfloat16=False
)
card = ModelCard("VISTA3D", "0", "segmentation", "CT", "", "", ("everything",), NAMES, {}, "-", True)
expert = Vista3dExpert(card, config, build_vista3d(config).eval(), 1000.0)
hu = np.random.default_rng(0).normal(40, 200, (64, 128, 64)).astype(np.float32)
affine = np.diag([1.5, 1.5, 1.5, 1.0])[[2, 1, 0, 3]]
volume = Volume(hu, affine, ("1",) * 64, (1,) * 64, "1", "1", "CT")
for prompts in (EVERYTHING[:1], EVERYTHING):
    labels = expert.segment(volume, prompts)
    expert.kept.clear()
    print(peak_mb(), len(np.unique(labels)))
"""


def test_the_peak_at_117_classes_is_within_a_third_of_the_peak_at_one():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=280, check=True,
    )  # fmt: skip
    one, everything = (line.split() for line in run.stdout.splitlines())
    # the logits of 117 classes at once would be 245 MB
    assert float(everything[0]) <= 1.3 * float(one[0])
    assert float(everything[0]) - float(one[0]) < 245 / 3
    assert int(everything[1]) > 2
