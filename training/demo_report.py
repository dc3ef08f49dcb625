"""``docs/demo_models.md`` and its JSON: every figure of the demonstration models, targets met or missed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

TARGETS: Final = (
    ("Expert triggered, exact argument", ("triggers", "all exact", "share"), 0.95),
    ("Yes/no read from the feedback", ("reading", "all", "accuracy", "share"), 0.98),
    ("Findings F1 of the shipped draft text against the expert's list", ("shipped_route", "f1"), 0.90),
)

_INTRO = """# Demonstration models: what they can and cannot do

Every figure here is on **synthetic phantoms**. None says anything about patients. The file is written by
`firstread evaluate`; the numbers behind it are in `demo_models.json`.
"""


def write_report(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write ``demo_models.md`` and ``demo_models.json`` into ``folder``."""
    (folder / "demo_models.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    parts = [_INTRO, _vlm_section(figures["vlm"])]
    if figures.get("training"):
        parts.append(_training_section(figures["training"]))
    if figures.get("experts"):
        parts.append(_experts_section(figures["experts"]))
    (folder / "demo_models.md").write_text("\n".join(parts), encoding="utf-8")


def _vlm_section(vlm: Mapping[str, Any]) -> str:
    patients = vlm["patients"]
    lines = [
        f"## The vision-language model ({vlm['model']['name']} {vlm['model']['version']})",
        "",
        f"{sum(patients.values())} held-out phantoms ({', '.join(f'{n} {m}' for m, n in patients.items())}): no "
        "anatomy seed and no wording in common with training. The questions a draft asks are held-out wordings, too. "
        "Intervals are Wilson 95 %; questions about one phantom are not independent, so they are optimistic.",
        "",
        "| target | wanted | measured | |",
        "|---|---|---|---|",
    ]
    for name, path, wanted in TARGETS:
        value = _at(vlm, path)
        lines.append(f"| {name} | ≥ {wanted:.2f} | {value:.3f} | {'met' if value >= wanted else '**missed**'} |")
    return "\n".join([*lines, "", *_details(vlm), ""])


def _details(vlm: Mapping[str, Any]) -> list[str]:
    lines = ["### Triggers", "", "| | share | n | 95 % |", "|---|---|---|---|"]
    lines += [_row(key, value) for key, value in vlm["triggers"].items()]
    lines += [
        "",
        "### Reading the expert's answer",
        "",
        "Feedback was drawn at random, so it cannot be guessed from the picture.",
        "",
        *_counts_table(vlm["reading"]),
        "",
        "### Text against the expert's list, before any checker",
        "",
        "The shipped route asks one question per finding and composes the sentences; free text is what the model "
        "writes when asked to describe the image.",
        "",
        *_counts_table({"shipped route": vlm["shipped_route"], "free text": vlm["free_text"]}),
        "",
        f"Reports whose positives are exactly the expert's: shipped route "
        f"{vlm['shipped_route']['reports_exact']['share']:.3f}, free text "
        f"{vlm['free_text']['reports_exact']['share']:.3f}; free texts that never stopped: "
        f"{vlm['free_text']['never_stopped']}. Where the most probable token of all was the chosen yes or no: "
        f"{vlm['shipped_route']['answers_freely_yes_or_no']['share']:.3f}.",
        "",
        "### Draft findings against truth, with experts and without",
        "",
        "A draft can be no better than the expert it follows: read these rows beside the expert's own. Without an "
        "expert the model sees one picture (CT: the middle slice) and answers from it alone. Experts used: "
        + ", ".join(f"{name} {version}" for name, version in vlm.get("experts", {}).items())
        + ".",
        "",
        *_counts_table(vlm["against_truth"]),
    ]
    return lines


def _counts_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = ["| | F1 | precision | recall | accuracy | balanced accuracy | questions | positives |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['f1']:.3f} | {row['precision']:.3f} | {row['recall']:.3f} | "
            f"{row['accuracy']['share']:.3f} | {row['balanced_accuracy']:.3f} | {row['accuracy']['n']} | "
            f"{row['positives']} |"
        )
    return lines


def _row(name: str, value: Mapping[str, float]) -> str:
    return f"| {name} | {value['share']:.3f} | {value['n']} | {value['low']:.3f} – {value['high']:.3f} |"


def _training_section(lines: list[Mapping[str, Any]]) -> str:
    """Return the loss curve as a table of about fifteen rows."""
    notes = [str(line["note"]) for line in lines if "note" in line]
    lines = [line for line in lines if "step" in line]
    keys = ("loss", "trunk", "trigger", "yes/no", "legend", "report", "systematic", "direct")
    step = max(1, len(lines) // 15)
    shown = [*lines[::step], lines[-1]] if (len(lines) - 1) % step else lines[::step]
    rows = [
        f"| {line['step']} | {line['seconds']} | "
        + " | ".join(f"{line[key]:.2f}" if key in line else "" for key in keys)
        + " |"
        for line in shown
    ]
    return "\n".join(
        [
            "### Training curve",
            "",
            *notes,
            "",
            "Means since the line before, on training conversations as they are drawn; shares of answers right token "
            "for token under teacher forcing. `direct` is without an expert.",
            "",
            "| step | seconds | " + " | ".join(keys) + " |",
            "|---|---|" + "---|" * len(keys),
            *rows,
            "",
        ]
    )


def _experts_section(experts: Mapping[str, Any]) -> str:
    lines = ["## The experts", "", "| figure | value |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in _flat("", experts) if isinstance(value, float)]
    return "\n".join([*lines, ""])


def _flat(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix} {key}".strip()
        flat += _flat(name, value) if isinstance(value, Mapping) else [(name, value)]
    return flat


def _at(values: Mapping[str, Any], path: tuple[str, ...]) -> float:
    for key in path:
        values = values[key]
    return float(values)  # type: ignore[arg-type]
