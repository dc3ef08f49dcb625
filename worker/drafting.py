"""From what the gate let through to a draft, top to bottom: VLM and Experts, findings, sections, checks.

Arrays in, values out: no database, no Celery, no files. The model answers one question per finding over
one shared prefix (``composition.ROUTE``); the sentences are composed from its answers, and the
provenance says so.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from config.errors import ExpertError, GenerationBudgetError, OutsideIntendedUseError
from worker import checks
from worker.composition import ROUTE, FindingAnswer, compose
from worker.conversation import Bench, Picture, ask
from worker.experts.base import Classification, ExpertResult, SegmentationResult
from worker.intake import Intake
from worker.measuring import LesionMeasure, measure
from worker.profiles import LesionQuestion, Profile
from worker.rendering import (
    axial,
    ct_grey,
    mr_grey,
    overlay,
    radiograph_image,
    volume_slice,
    widest_slice,
)
from worker.vlm.prompts import (
    MR_ROLES,
    classification_feedback,
    finding_question,
    predictions,
    segmentation_feedback,
)
from worker.vlm.triggers import Trigger
from worker.volume import Volume


@dataclass(frozen=True)
class DraftFinding:
    """One observation with the Expert result it rests on.

    Attributes:
        label: as the Expert names it.
        is_present: what the model answered after reading the Expert's feedback.
        expert_positive: what the Expert itself says.
        score: the Expert's uncalibrated probability, for a classifier.
        margin: log-probability margin of the model's answer.
        result_key: (expert, argument) of the result, into ``DraftContent.results``.
        segments: label values that show it.
        measured: measurements of those labels, None when no voxel has them.
    """

    label: str
    is_present: bool
    expert_positive: bool
    score: float | None
    margin: float
    result_key: tuple[str, str]
    segments: frozenset[int] = frozenset()
    measured: LesionMeasure | None = None


@dataclass
class DraftContent:
    """What one run of the pipeline found, before it becomes rows and DICOM objects."""

    findings: list[DraftFinding] = field(default_factory=list)
    results: dict[tuple[str, str], ExpertResult] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    not_assessed: list[dict[str, str]] = field(default_factory=list)
    marks: list[checks.Mark] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)


def draft_study(intake: Intake, profile: Profile, bench: Bench) -> DraftContent:
    """Read one Study.

    Raises:
        OutsideIntendedUseError: nothing could be assessed, so there is no draft; with the reason.
        ModelError: a model broke its contract in a way that no part of the draft survives.
    """
    content = DraftContent()
    if profile.name == "chest-xray":
        _read_radiograph(intake, profile, bench, content)
    else:
        for lesion in profile.lesions:
            _read_lesion(lesion, profile, bench, content)
        if profile.name == "ct-torso":
            _segment_anatomy(profile, bench, content)
    if not content.findings:
        why = "; ".join(item["why"] for item in content.not_assessed) or "no expert is available"
        raise OutsideIntendedUseError(f"nothing could be assessed: {why}")
    content.results = dict(bench.results)
    content.sections = _sections(intake, profile, content)
    content.marks = [*bench.marks, *_check(content)]
    content.provenance = {
        "route": ROUTE,
        "profile": profile.name,
        "conversations": bench.transcript,
        "excluded_series": [{"series": uid, "why": why} for uid, why in intake.excluded],
        "unchecked_gates": intake.unchecked,
        "experts_failed": [{"expert": e, "argument": a, "why": w} for (e, a), w in bench.failures.items()],
    }
    return content


# --- chest radiographs -------------------------------------------------------------------------------------


def _read_radiograph(intake: Intake, profile: Profile, bench: Bench, content: DraftContent) -> None:
    """Ask for a description, run the triggered classifier, then ask finding by finding."""
    radiograph = intake.study.radiograph
    assert radiograph is not None
    asked = ask(bench, profile.overview_question, [radiograph_image(radiograph)], expert=profile.expert, argument="")
    try:
        result = bench.run(asked.trigger.expert, asked.trigger.argument)
    except ExpertError as exc:
        content.not_assessed.append({"what": "all chest findings", "why": str(exc)})
        return
    if not isinstance(result, Classification):
        content.not_assessed.append({"what": "all chest findings", "why": f"{profile.expert} is no classifier"})
        return
    calls = predictions(result)
    feedback = classification_feedback(result, "", style=bench.vlm.card.style)
    questions = [finding_question(label) for label in calls]
    try:
        answers = bench.vlm.answer_each([*asked.messages, feedback], asked.pictures, questions)
    except GenerationBudgetError as exc:
        content.not_assessed.append({"what": "all chest findings", "why": str(exc)})
        return
    bench.transcript[-1] |= {
        "feedback": feedback.text,
        "answers": dict(zip(calls, (asdict(a) for a in answers), strict=True)),
    }
    key = (asked.trigger.expert, asked.trigger.argument)
    for (label, positive), answer in zip(calls.items(), answers, strict=True):
        score = result.probabilities[label]
        content.findings.append(DraftFinding(label, answer.text == "yes", positive, score, answer.margin, key))
    silent = [label for label, probability in result.probabilities.items() if probability is None]
    content.not_assessed += [
        {"what": label.lower().replace("_", " "), "why": f"{profile.expert} has no output for it"} for label in silent
    ]


# --- volumes -----------------------------------------------------------------------------------------------


def _first_pictures(bench: Bench) -> list[Picture]:
    """Return the pictures of the first message: the middle axial slice of each Volume."""
    study = bench.study
    if study.brain_mr is not None:
        return [_middle(study.brain_mr[role]) for role in MR_ROLES]
    assert study.volume is not None
    return [_middle(study.volume)]


def _middle(volume: Volume) -> Picture:
    return volume_slice(volume, axial(volume.array, volume.affine).shape[0] // 2)


def shown_overlay(result: SegmentationResult, wanted: frozenset[int]) -> tuple[Picture, np.ndarray[Any, Any]]:
    """Return the overlay picture the model is shown, and the ``(rows, columns)`` labels on it.

    The slice is the one where the lesion is widest; without a lesion, where the organ is.
    """
    volume = result.volume
    labels = axial(result.labels, volume.affine).astype(np.uint8)
    index = widest_slice(labels, wanted) if np.isin(labels, sorted(wanted)).any() else widest_slice(labels)
    plane = np.asarray(axial(volume.array, volume.affine)[index], dtype=np.float32)
    if volume.modality == "CT":
        grey = ct_grey(plane)
    else:
        grey = mr_grey(plane, low=float(volume.array.min()), high=float(volume.array.max()))
    return overlay(grey, labels[index]), labels[index]


def _segmentation(bench: Bench, trigger: Trigger) -> SegmentationResult:
    """Run the triggered Expert.

    Raises:
        ExpertError: it failed, or it is no segmentation model.
    """
    result = bench.run(trigger.expert, trigger.argument)
    if not isinstance(result, SegmentationResult):
        raise ExpertError(f"{trigger.expert} returned no segmentation")
    return result


def _plausible(measured: LesionMeasure | None, lesion: LesionQuestion, profile: Profile) -> LesionMeasure | None:
    """Return the measurement; a lesion larger than any patient's is a model that broke down.

    Raises:
        ExpertError: the volume is beyond what the profile allows.
    """
    if measured is not None and measured.volume_ml > profile.largest_lesion_ml:
        raise ExpertError(
            f"{profile.expert} segmented {measured.volume_ml:.0f} ml of {lesion.finding}, "
            f"more than {profile.largest_lesion_ml:.0f} ml: not believed"
        )
    return measured


def _read_lesion(lesion: LesionQuestion, profile: Profile, bench: Bench, content: DraftContent) -> None:
    """One conversation about one kind of lesion: Trigger, segmentation, overlay and legend, yes or no."""
    card = bench.card(profile.expert)
    argument = lesion.finding if card and card.arguments else ""
    if card and card.arguments and argument not in card.arguments:
        content.not_assessed.append({"what": lesion.finding, "why": f"{profile.expert} does not offer it"})
        return
    asked = ask(bench, lesion.question, _first_pictures(bench), expert=profile.expert, argument=argument)
    try:
        result = _segmentation(bench, asked.trigger)
        wanted = frozenset({lesion.segment} if lesion.segment else result.names)
        measured = _plausible(measure(result, wanted), lesion, profile)
        picture, shown = shown_overlay(result, wanted)
        feedback = segmentation_feedback(result, shown, lesion.question, style=bench.vlm.card.style)
        answer = bench.vlm.answer_each([*asked.messages, feedback], [*asked.pictures, picture], [""])[0]
    except (ExpertError, GenerationBudgetError) as exc:
        content.not_assessed.append({"what": lesion.finding, "why": str(exc)})
        return
    bench.transcript[-1] |= {"feedback": feedback.text, "answers": {lesion.finding: asdict(answer)}}
    content.findings.append(
        DraftFinding(
            label=lesion.finding,
            is_present=answer.text == "yes",
            expert_positive=measured is not None,
            score=None,
            margin=answer.margin,
            result_key=(asked.trigger.expert, asked.trigger.argument),
            segments=wanted,
            measured=measured,
        )
    )


def _segment_anatomy(profile: Profile, bench: Bench, content: DraftContent) -> None:
    """Ask what is shown, so that the anatomy the model triggers becomes a segmentation; it asserts nothing."""
    card = bench.card(profile.expert)
    argument = next((a for a in ("organs", "everything") if card and a in card.arguments), None)
    if argument is None:
        return
    asked = ask(bench, profile.overview_question, _first_pictures(bench), expert=profile.expert, argument=argument)
    try:
        bench.run(asked.trigger.expert, asked.trigger.argument)
    except ExpertError as exc:
        content.not_assessed.append({"what": "anatomy", "why": str(exc)})


# --- text --------------------------------------------------------------------------------------------------


def _sections(intake: Intake, profile: Profile, content: DraftContent) -> dict[str, str]:
    """Compose the sections; history is not ours to write, technique and comparison state known facts only."""
    answers = [FindingAnswer(f.label, f.is_present) for f in content.findings]
    composition = compose(answers)
    findings = [composition.findings_text]
    findings += [sentence for f in content.findings if (sentence := measured_sentence(f))]
    if content.not_assessed:
        findings.append(f"Not assessed: {', '.join(item['what'] for item in content.not_assessed)}.")
    return {
        "technique": _technique(intake, profile),
        "comparison": "No prior study was read.",
        "findings": "\n".join(findings),
        "impression": composition.impression_text,
    }


def measured_sentence(finding: DraftFinding) -> str:
    """Return one sentence of measurements for a lesion that is reported and was segmented, else ``""``."""
    m = finding.measured
    if m is None or not finding.is_present:
        return ""
    side = f", {m.laterality} side" if m.laterality else ""
    parts = f"{m.count} separate parts, " if m.count > 1 else ""
    return (
        f"Segmented {finding.label}{side}: {parts}{m.volume_ml:.1f} ml in total, "
        f"largest in-plane diameter {m.diameter_mm:.0f} mm."
    )


def _technique(intake: Intake, profile: Profile) -> str:
    study = intake.study
    if study.radiograph is not None:
        view = study.radiograph.view_position or "unknown"
        return f"Chest radiograph, {view} view."
    if study.brain_mr is not None:
        roles = ", ".join(f"{role} ({v.array.shape[0]} slices)" for role, v in study.brain_mr.items())
        return f"MR of the brain: {roles}."
    assert study.volume is not None
    return f"{profile.prompt_modality}, {study.volume.array.shape[0]} slices {study.volume.spacing_mm[0]:.1f} mm apart."


# --- checks ------------------------------------------------------------------------------------------------


def _check(content: DraftContent) -> list[checks.Mark]:
    """Compare the finished text with the Experts' structured output."""
    asserted = "\n".join(
        line
        for key in ("findings", "impression")
        for line in content.sections[key].splitlines()
        if not line.startswith("Not assessed:")
    )
    marks: list[checks.Mark] = []
    for expert in dict.fromkeys(f.result_key[0] for f in content.findings):
        calls = {f.label: f.expert_positive for f in content.findings if f.result_key[0] == expert}
        marks += checks.check_findings(asserted, expert, calls)
    marks += checks.check_unfounded(asserted, [f.label for f in content.findings])
    sides = {f.label: f.measured.laterality if f.measured else "" for f in content.findings}
    marks += checks.check_sides(asserted, sides)
    return marks + checks.check_numbers(asserted, _measured_numbers(content.findings))


def _measured_numbers(findings: Sequence[DraftFinding]) -> list[float]:
    measures = [f.measured for f in findings if f.measured]
    return [n for m in measures for n in (m.volume_ml, m.diameter_mm, float(m.count))]
