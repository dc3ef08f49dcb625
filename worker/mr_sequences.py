"""What one MR Series is, read from what the scanner wrote; its name only supports or contradicts that.

Classic MR Image Storage and Enhanced MR are asked alike (PS3.3 C.8.3, C.8.13): the functional groups of the
first frame stand for the Series.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from reports.geometry import functional_group

_NO_AGENT = {"none", "no", "n", "without", "not administered", "0", "-", "no contrast"}
# Values of Image Type (0008,0008) or Frame Type (0008,9007) that are no anatomical contrast, and what they are.
_KINDS = (
    (frozenset({"DIFFUSION", "ADC", "EADC", "FA", "TRACE", "TRACEW", "TENSOR", "DWI"}), "a diffusion image or map"),
    (frozenset({"PERFUSION", "CBV", "CBF", "RCBV", "RCBF", "RELCBV", "RELCBF", "MTT", "RELMTT", "TTP", "TMAX", "PBP",
                "KTRANS", "ASL", "DSC"}), "a perfusion image or map"),
    (frozenset({"SUBTRACTION", "SUBTRACTED", "SUBTRACT", "SUB"}), "a subtraction"),
    (frozenset({"MIP", "MINIP", "MNIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "CSA MIP", "VOLUME_RENDER", "CURVED",
                "CPR"}), "a projection"),
    (frozenset({"T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "T2_STAR_MAP", "PHASE", "P", "PHASE MAP", "PHASE_MAP",
                "FIELD_MAP", "REAL", "R", "IMAGINARY", "I", "VELOCITY MAP", "FMRI", "SWI"}), "a map or phase image"),
    (frozenset({"FAT", "F", "FAT_FRACTION", "FF"}), "a fat image"),
    (frozenset({"LOCALIZER"}), "a localizer"),
)  # fmt: skip
_REFORMATS = frozenset({"MPR", "REFORMATTED", "CSA RESAMPLED", "RESAMPLED", "MPR_THICK"})
# names of sequences (0018,0024), (0018,9005) that are no anatomical contrast
_NAMES = (
    (re.compile(r"ep2d|ep3d|\bep\b|epi|epfid|epse|resolve"), "an echo-planar image"),
    (re.compile(r"tof|pc3d|pcfl|phase.?contrast"), "an angiogram"),
    (re.compile(r"swi|swan|venobold|merge|medic"), "susceptibility-weighted"),
    (re.compile(r"ciss|fiesta|tfi\dd|truefisp|balanced"), "a balanced sequence"),
    (re.compile(r"asl|perf"), "a perfusion image or map"),
)
_WORDS = re.compile(
    r"\b(dwi|dti|diff|diffusion|adc|trace|perf|perfusion|dsc|dce|asl|swi|bold|fmri|loc|localizer|scout|survey|mra|mrv|tof"
    r"|sub|subtraction|mip|ciss|fiesta|spectro|svs|csi|fieldmap|calibration)\b"
)
_T1_SEQUENCES = re.compile(r"mprage|mp2rage|tfl|bravo|fspgr|spgr|vibe|lava|fl2d|fl3d|\bmpr|t1tfe|t1ffe|thrive")
_FLAIR_SEQUENCES = re.compile(r"flair|tir2d|tir3d|spcd? ?ir")
_WITH_AGENT = re.compile(
    r"\bpost\b(?! ?fossa)|\bgad|gado|\bgd\b|\+ ?(c|gd|km)\b|\bce\b|\bt1 ?-?ce?\b|contrast|\bmit km\b"
)
_WITHOUT_AGENT = re.compile(r"\bpre\b|\bw/?o\b|without|\bnativ|\bohne\b|\bno contrast|\bunenhanced|\bnon[ -]?contrast")


@dataclass(frozen=True)
class MrSequence:
    """One Series as the scanner describes it; times in ms, None where it says nothing.

    Attributes:
        number: Series Number.
        echo_ms, repetition_ms, inversion_ms: of the first frame.
        several_echoes: the images of the Series were taken at different echo times.
        names: Sequence Name and Pulse Sequence Name, lower case.
        words: Series Description and Protocol Name, lower case.
        kinds: values of Image Type and Frame Type.
        inverted: an inversion pulse was given.
        gradient: the echo is a gradient echo.
        planar: echo-planar.
        contrast: Acquisition Contrast (0008,9209) of enhanced MR; ``""`` when unknown.
        diffusion: diffusion gradients were on.
        time_points: Number of Temporal Positions.
        body_part: Body Part Examined.
        agent: what its attributes say about a contrast agent: nothing, yes, no, or both.
        is_3d: MR Acquisition Type is 3D.
        plane: ``"axial"``, ``"coronal"``, ``"sagittal"`` or ``""``.
        slices: number of images.
        acquired: date and time of acquisition as written, ``""`` when unknown.
    """

    number: str
    echo_ms: float | None
    repetition_ms: float | None
    inversion_ms: float | None
    several_echoes: bool
    names: str
    words: str
    kinds: frozenset[str]
    inverted: bool
    gradient: bool
    planar: bool
    contrast: str
    diffusion: bool
    time_points: int
    body_part: str
    agent: frozenset[bool]
    is_3d: bool
    plane: str
    slices: int
    acquired: str

    def __str__(self) -> str:
        """What a radiographer recognises it by, without its name: descriptions may name a patient."""
        times = (("TE", self.echo_ms), ("TR", self.repetition_ms), ("TI", self.inversion_ms))
        said = [f"{name} {value:.0f} ms" for name, value in times if value is not None]
        said.append(" ".join(part for part in ("3D" if self.is_3d else "2D", self.plane) if part))
        said.append("1 slice" if self.slices == 1 else f"{self.slices} slices")
        if True in self.agent:
            said.append("contrast agent")
        return f"series {self.number or 'without number'} ({', '.join(said)})"

    @property
    def is_reformat(self) -> bool:
        """Whether it was resliced from another Series."""
        return bool(self.kinds & _REFORMATS)

    @property
    def named_weighting(self) -> str:
        """T1, T2 or FLAIR as the Series is called; ``""`` when its name says nothing, or several things."""
        if re.search(r"\bt1.{0,6}flair|flair.{0,3}t1", self.words):
            return "T1"
        if re.search(r"flair|dark.?fluid|\btirm", self.words):
            return "FLAIR"
        named = {word.upper() for word in re.findall(r"(?<![a-z])(t[12])(?! ?\*| ?star|\d| ?map)", self.words)}
        if not named and re.search(r"mprage|bravo|vibe", self.words):
            return "T1"
        return named.pop() if len(named) == 1 else ""

    @property
    def named_agent(self) -> bool | None:
        """Whether the Series is called contrast-enhanced; None when its name says nothing."""
        if _WITHOUT_AGENT.search(self.words):
            return False
        return True if _WITH_AGENT.search(self.words) else None

    def no_anatomy(self) -> str:
        """Return why no anatomical contrast can be read from the Series, or ``""``."""
        for values, reason in _KINDS:
            if self.kinds & values:
                return reason
        if self.planar:
            return "an echo-planar image"
        if self.diffusion:
            return "a diffusion image or map"
        for pattern, reason in _NAMES:
            if pattern.search(self.names):
                return reason
        word = _WORDS.search(self.words)
        if word:
            return f"called {word[0]}"
        return self._no_single_contrast()

    def _no_single_contrast(self) -> str:
        if self.several_echoes:
            return "images of several echo times"
        if self.time_points > 1:
            return f"a dynamic series of {self.time_points} time points"
        if self.contrast not in {"", "T1", "T2", "FLUID_ATTENUATED"}:
            return f"of acquisition contrast {self.contrast[:16]}"
        if self.body_part and not any(part in self.body_part for part in ("BRAIN", "HEAD", "SKULL")):
            return f"of body part {self.body_part[:16]}"
        return ""

    def acquired_weighting(self) -> tuple[str, str]:
        """Return T1, T2 or FLAIR as it was acquired, or ``""`` and why none of them.

        The reason is ``""`` too when the attributes that would tell are absent.
        """
        stated = {"T1": "T1", "T2": "T2", "FLUID_ATTENUATED": "FLAIR"}.get(self.contrast, "")
        timed, reason = self._timed_weighting()
        named = "FLAIR" if _FLAIR_SEQUENCES.search(self.names) else "T1" if _T1_SEQUENCES.search(self.names) else ""
        if reason and not stated:
            return "", reason
        claims = {claim for claim in (stated, timed, named) if claim}
        if len(claims) > 1:
            return "", f"its attributes contradict each other ({', '.join(sorted(claims))})"
        return (claims.pop() if claims else ""), ""

    def _timed_weighting(self) -> tuple[str, str]:
        """Return what echo, repetition and inversion time make of it, or why they make none of the four."""
        echo, repetition, inversion = self.echo_ms, self.repetition_ms, self.inversion_ms
        if echo is None or repetition is None:
            return "", ""
        if self.gradient:
            if echo < 12 and repetition <= 3000:
                return "T1", ""
            return "", "a gradient echo of long echo time (T2*)"
        if self.inverted or inversion:
            return _inverted_weighting(echo, repetition, inversion)
        return _spin_weighting(echo, repetition)


def _spin_weighting(echo: float, repetition: float) -> tuple[str, str]:
    if echo <= 30 and repetition <= 1200:
        return "T1", ""
    if repetition >= 1800:
        return ("T2", "") if echo >= 60 else ("", "proton density weighted")
    return "", f"neither T1 nor T2 at TE {echo:.0f} ms and TR {repetition:.0f} ms"


def _inverted_weighting(echo: float, repetition: float, inversion: float | None) -> tuple[str, str]:
    """Return the weighting after an inversion pulse: fluid nulled late, fat nulled early, T1 between."""
    if inversion is not None and inversion < 300:
        return "", "short inversion time (STIR)"
    if echo >= 60 and repetition >= 3500 and (inversion is None or inversion >= 1300):
        return "FLAIR", ""
    if echo <= 50 and (inversion is None or inversion <= 1300):
        return "T1", ""
    return "", f"neither FLAIR nor T1 at TE {echo:.0f} ms and TR {repetition:.0f} ms after inversion"


def mr_sequence(headers: Sequence[Dataset]) -> MrSequence:
    """Read one Series: classic Instances, or multi-frame objects."""
    ds = headers[0]
    modifier = functional_group(ds, 0, "MRModifierSequence")
    scanning = set(_values(ds, "ScanningSequence"))
    frame_type = functional_group(ds, 0, "MRImageFrameTypeSequence")
    contrast = str(frame_type.get("AcquisitionContrast") or ds.get("AcquisitionContrast") or "")
    diffusion = functional_group(ds, 0, "MRDiffusionSequence")
    inversion = (
        _number(modifier, "InversionTimes") or _number(modifier, "InversionTime") or _number(ds, "InversionTime")
    )
    spin = "SE" in scanning or str(ds.get("EchoPulseSequence")) in {"SPIN", "BOTH"}
    echoes = {_echo_ms(one, index) for one in headers for index in range(_frames(one))} - {None}
    return MrSequence(
        number=re.sub(r"\D", "", str(ds.get("SeriesNumber") or "")),  # what is no number might be a name
        echo_ms=_echo_ms(ds, 0),
        repetition_ms=_number(functional_group(ds, 0, "MRTimingAndRelatedParametersSequence"), "RepetitionTime"),
        inversion_ms=inversion,
        several_echoes=bool(echoes) and max(filter(None, echoes)) > 1.2 * min(filter(None, echoes)),
        names=_text(ds, "SequenceName", "PulseSequenceName"),
        words=_text(ds, "SeriesDescription", "ProtocolName"),
        kinds=frozenset({*_values(ds, "ImageType"), *_values(frame_type, "FrameType")}),
        inverted="IR" in scanning or str(modifier.get("InversionRecovery")) == "YES",
        gradient=not spin and ("GR" in scanning or str(ds.get("EchoPulseSequence")) == "GRADIENT"),
        planar="EP" in scanning or str(ds.get("EchoPlanarPulseSequence")) == "YES",
        contrast="" if contrast == "UNKNOWN" else contrast,
        diffusion=(_number(diffusion, "DiffusionBValue") or 0) > 0,
        time_points=int(_number(ds, "NumberOfTemporalPositions") or 1),
        body_part=str(ds.get("BodyPartExamined") or "").upper(),
        agent=_agent(ds),
        is_3d=str(ds.get("MRAcquisitionType")) == "3D",
        plane=_plane(ds),
        slices=sum(_frames(one) for one in headers),
        acquired=_acquired(ds),
    )


def _agent(ds: Dataset) -> frozenset[bool]:
    """Return what the Contrast/Bolus modules say (PS3.3 C.7.6.4, C.7.6.4b)."""
    said = set()
    administered = str(
        functional_group(ds, 0, "ContrastBolusUsageSequence").get("ContrastBolusAgentAdministered") or ""
    )
    name = str(ds.get("ContrastBolusAgent") or "").strip().lower()
    dose = max(_number(ds, "ContrastBolusVolume") or 0, _number(ds, "ContrastBolusTotalDose") or 0)
    if administered == "NO" or name in _NO_AGENT:
        said.add(False)
    if administered == "YES" or (name and name not in _NO_AGENT) or dose > 0 or ds.get("ContrastBolusStartTime"):
        said.add(True)
    if not administered and ds.get("ContrastBolusAgentSequence"):
        said.add(True)
    return frozenset(said)


def _plane(ds: Dataset) -> str:
    cosines = functional_group(ds, 0, "PlaneOrientationSequence").get("ImageOrientationPatient")
    if cosines is None or isinstance(cosines, str) or len(cosines) != 6:
        return ""
    values = np.array([float(value) for value in cosines])
    normal = np.abs(np.cross(values[:3], values[3:]))
    return ("sagittal", "coronal", "axial")[int(normal.argmax())]


def _acquired(ds: Dataset) -> str:
    """Return date and time as one string that sorts, ``""`` unless both are known."""
    whole = functional_group(ds, 0, "FrameContentSequence").get("FrameAcquisitionDateTime") or ds.get(
        "AcquisitionDateTime"
    )
    if whole:
        return str(whole)[:14]
    day, hour = (str(ds.get(keyword) or "") for keyword in ("AcquisitionDate", "AcquisitionTime"))
    return f"{day}{hour[:6]}" if len(day) == 8 and len(hour) >= 6 else ""


def _frames(ds: Dataset) -> int:
    return len(ds.get("PerFrameFunctionalGroupsSequence") or []) or 1


def _echo_ms(ds: Dataset, index: int) -> float | None:
    echo = functional_group(ds, index, "MREchoSequence")
    return _number(echo, "EffectiveEchoTime") or _number(ds, "EchoTime")


def _values(ds: Dataset, keyword: str) -> list[str]:
    value = ds.get(keyword)
    parts = value if isinstance(value, MultiValue | list) else [] if value in (None, "") else [value]
    return [str(part).upper().strip() for part in parts]


def _text(ds: Dataset, *keywords: str) -> str:
    return re.sub(r"[_,;]", " ", " ".join(str(ds.get(keyword) or "") for keyword in keywords).lower()).strip()


def _number(ds: Dataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    first = value[0] if isinstance(value, MultiValue | list) and value else value
    try:
        number = float(str(first))
    except ValueError:
        return None
    return number if np.isfinite(number) else None
