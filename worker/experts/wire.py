"""What travels between a worker and an Expert on another machine: arrays and geometry, nothing about the patient.

A message is one zip archive: ``message.json`` and one ``NAME.npy`` per array (numpy's ``npz``, without
pickle). UIDs of the Study never leave: placeholders take their place, equal where the UIDs are equal.
"""

import base64
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from config.errors import RefusedInputError
from worker.experts.base import Classification, ExpertInput, ExpertResult, ModelCard, SegmentationResult
from worker.experts.contract import is_same_grid, volumes_of
from worker.experts.packages import Budget, IntendedUse
from worker.radiograph import Radiograph
from worker.volume import Volume

PROTOCOL = 1
CONTENT_TYPE = "application/vnd.firstread.expert+zip"
CT_ROLE = "CT"

_MESSAGE = "message.json"
_LARGEST_MESSAGE = 16 << 20
_MOST_ARRAYS = 8
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal content makes equal bytes

Arrays = Mapping[str, NDArray[Any]]
M = TypeVar("M", bound=BaseModel)


# --- the envelope ------------------------------------------------------------------------------------------


def content_digest(body: bytes) -> str:
    """Return the Content-Digest field of a body: SHA-256 (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def pack(message: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Return one message as bytes; label maps are compressed, grey values are not worth the time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        text = json.dumps(message, allow_nan=False).encode()
        archive.writestr(zipfile.ZipInfo(_MESSAGE, _EPOCH), text, zipfile.ZIP_DEFLATED)
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            how = zipfile.ZIP_DEFLATED if array.dtype == np.uint8 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getbuffer(), how, 1)
    return buffer.getvalue()


def unpack(body: bytes, *, max_bytes: int) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return message and arrays of `pack`; nothing larger than ``max_bytes`` is ever unfolded.

    Raises:
        RefusedInputError: the bytes are no message, or would unfold to more.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            if len(members) > _MOST_ARRAYS + 1 or sum(member.file_size for member in members) > max_bytes:
                raise RefusedInputError(f"the message unfolds to more than {max_bytes} bytes")
            if archive.getinfo(_MESSAGE).file_size > _LARGEST_MESSAGE:
                raise RefusedInputError("the message is longer than any message")
            content = {member.filename: _content(archive, member) for member in members}
            message = json.loads(content.pop(_MESSAGE))
            arrays = {name.removesuffix(".npy"): _array(array) for name, array in content.items()}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, RuntimeError, zlib.error) as exc:
        raise RefusedInputError(f"the bytes are no message: {type(exc).__name__}") from exc
    if not isinstance(message, dict):
        raise RefusedInputError("the message is no JSON object")
    return message, arrays


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # never more than the directory says, which was checked: a member may unfold to anything
    with archive.open(member) as stream:
        return stream.read(member.file_size + 1)


def _array(content: bytes) -> NDArray[Any]:
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise RefusedInputError("an array is of a version nobody writes")
    shape, column_order, dtype = np.lib.format.read_array_header_1_0(stream)
    count = int(np.prod(shape, dtype=object))
    # a header may claim anything: what was sent decides
    if column_order or dtype.hasobject or len(content) - stream.tell() != count * dtype.itemsize:
        raise RefusedInputError("an array is not what its header says")
    flat: NDArray[Any] = np.frombuffer(content, dtype=dtype, count=count, offset=stream.tell())
    # writable, as an array from a file is: an Expert may work in place
    return flat.reshape(shape).copy()


# --- the card ----------------------------------------------------------------------------------------------


class CardMessage(BaseModel):
    """What a server promises about one Expert.

    Attributes:
        protocol: version of these messages.
        card, intended_use, budget: of the Expert, as in its package.
        max_request_bytes: the largest request the server reads.
    """

    protocol: int
    card: ModelCard
    intended_use: IntendedUse
    budget: Budget
    max_request_bytes: int = Field(gt=0)


def decode_card(body: bytes) -> CardMessage:
    """Return the promise in a server's answer.

    Raises:
        RefusedInputError: it is none, or of another version of the protocol.
    """
    try:
        message = CardMessage.model_validate_json(body)
    except ValidationError as exc:
        raise RefusedInputError("the answer is no model card") from exc
    if message.protocol != PROTOCOL:
        raise RefusedInputError(f"the server speaks version {message.protocol}, this is version {PROTOCOL}")
    return message


# --- the Study ---------------------------------------------------------------------------------------------


@dataclass
class Placeholders:
    """UIDs of one Study and what stands for them on the wire."""

    by_uid: dict[str, str] = field(default_factory=dict)

    def hide(self, uid: str) -> str:
        """Return the placeholder of a UID, a valid UID itself; ``""`` stays ``""``."""
        return self.by_uid.setdefault(uid, f"2.25.{len(self.by_uid) + 1}") if uid else ""

    def restore(self, value: Any) -> Any:
        """Return JSON with every placeholder in it replaced by its UID."""
        uids = {placeholder: uid for uid, placeholder in self.by_uid.items()}
        return _mapped(value, uids)


def _mapped(value: Any, uids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return uids.get(value, value)
    if isinstance(value, list):
        return [_mapped(item, uids) for item in value]
    if isinstance(value, dict):
        return {_mapped(key, uids): _mapped(item, uids) for key, item in value.items()}
    return value


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Uid = Annotated[str, StringConstraints(pattern=r"^[0-9.]{0,64}$")]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 _+./-]{0,64}$")]


class RadiographMessage(_Message):
    """A Radiograph without its pixels, which are the array ``radiograph``."""

    sop_instance_uid: _Uid
    series_instance_uid: _Uid
    view_position: _Word
    modality: _Word
    pixel_spacing_mm: tuple[float, float] | None


class VolumeMessage(_Message):
    """A Volume without its voxels, which are the array ``volume_ROLE``."""

    affine: tuple[tuple[float, float, float, float], ...] = Field(min_length=4, max_length=4)
    sop_instance_uids: tuple[_Uid, ...]
    frame_numbers: tuple[int, ...]
    series_instance_uid: _Uid
    frame_of_reference_uid: _Uid
    modality: _Word


class RunMessage(_Message):
    """One request: who should answer what about which arrays.

    Attributes:
        version, weights_sha256: of the model the client opened; another one is refused.
    """

    argument: str = Field(max_length=64)
    version: str
    weights_sha256: dict[str, str]
    radiograph: RadiographMessage | None = None
    volumes: dict[_Word, VolumeMessage] = Field(default={}, max_length=_MOST_ARRAYS)


def encode_run(card: ModelCard, study: ExpertInput, argument: str) -> tuple[RunMessage, Arrays, Placeholders]:
    """Return the request for one run, its arrays, and what the placeholders stand for."""
    names = Placeholders()
    arrays: dict[str, NDArray[Any]] = {}
    image = study.radiograph
    radiograph = None
    if image is not None:
        arrays["radiograph"] = image.pixels
        radiograph = RadiographMessage(
            sop_instance_uid=names.hide(image.sop_instance_uid),
            series_instance_uid=names.hide(image.series_instance_uid),
            view_position=image.view_position,
            modality=image.modality,
            pixel_spacing_mm=image.pixel_spacing_mm,
        )
    volumes = {}
    for role, volume in volumes_of(study).items():
        arrays[f"volume_{role}"] = volume.array
        volumes[role] = VolumeMessage(
            affine=volume.affine.tolist(),
            sop_instance_uids=tuple(names.hide(uid) for uid in volume.sop_instance_uids),
            frame_numbers=volume.frame_numbers,
            series_instance_uid=names.hide(volume.series_instance_uid),
            frame_of_reference_uid=names.hide(volume.frame_of_reference_uid),
            modality=volume.modality,
        )
    message = RunMessage(
        argument=argument,
        version=card.version,
        weights_sha256=dict(card.weights_sha256),
        radiograph=radiograph,
        volumes=volumes,
    )
    return message, arrays, names


def decode_run(content: Mapping[str, Any], arrays: Arrays) -> tuple[RunMessage, ExpertInput]:
    """Return a request and the Study it is about.

    Raises:
        RefusedInputError: fields or arrays are not those of a request.
    """
    message = _valid(RunMessage, content)
    expected = {"radiograph"} if message.radiograph else set()
    if set(arrays) != expected | {f"volume_{role}" for role in message.volumes} or not arrays:
        raise RefusedInputError("the arrays are not those the message speaks of")
    if any(array.dtype != np.float32 for array in arrays.values()):
        raise RefusedInputError("grey values travel as float32")
    radiograph = None
    if message.radiograph:
        if arrays["radiograph"].ndim != 2:
            raise RefusedInputError("a radiograph is (rows, columns)")
        radiograph = Radiograph(pixels=arrays["radiograph"], **dict(message.radiograph))
    volumes = {role: _volume(one, arrays[f"volume_{role}"]) for role, one in message.volumes.items()}
    ct = volumes.pop(CT_ROLE, None)
    return message, ExpertInput(radiograph=radiograph, volume=ct, brain_mr=volumes or None)


def _volume(message: VolumeMessage, array: NDArray[np.float32]) -> Volume:
    slices = {len(message.sop_instance_uids), len(message.frame_numbers)}
    if array.ndim != 3 or slices != {array.shape[0]}:
        raise RefusedInputError("a volume is (slices, rows, columns), with one instance for each slice")
    return Volume(array=array, **(dict(message) | {"affine": np.array(message.affine, dtype=np.float64)}))


# --- the result --------------------------------------------------------------------------------------------

_Note = Annotated[str, StringConstraints(pattern=r"^[^<>\x00-\x1f\x7f]{0,300}$")]


class ResultMessage(_Message):
    """One answer; a label map is the array ``labels``.

    Attributes:
        kind: which of the two results.
        argument, seconds, notes, details: as on the result.
        version, weights_sha256: of the model that answered.
        probabilities, threshold, sop_instance_uid, calibrated, calibration: of a Classification.
        names, role: of a SegmentationResult; the role of the Volume its label map lies on.
    """

    kind: Literal["classification", "segmentation"]
    argument: str = Field(max_length=64)
    seconds: float
    version: str
    weights_sha256: dict[str, str]
    notes: tuple[_Note, ...] = Field(default=(), max_length=20)
    details: dict[str, Any] = {}
    probabilities: dict[str, float | None] = {}
    threshold: float = 0.0
    sop_instance_uid: str = ""
    calibrated: dict[str, float] = {}
    calibration: str = ""
    names: dict[int, str] = {}
    role: str = ""


_COMMON = ("argument", "seconds", "notes", "details")
_CLASSIFIED = ("probabilities", "threshold", "sop_instance_uid", "calibrated", "calibration")


def encode_result(study: ExpertInput, result: ExpertResult) -> tuple[ResultMessage, Arrays]:
    """Return the answer to one run, which `check_result` has seen, and its arrays."""
    identity = {"version": result.card.version, "weights_sha256": dict(result.card.weights_sha256)}
    common = identity | {name: getattr(result, name) for name in _COMMON}
    if isinstance(result, Classification):
        said = {name: getattr(result, name) for name in _CLASSIFIED}
        return ResultMessage(kind="classification", **common, **said), {}
    role = next(role for role, volume in volumes_of(study).items() if is_same_grid(volume, result.volume))
    message = ResultMessage(kind="segmentation", **common, names=dict(result.names), role=role)
    return message, {"labels": result.labels}


def decode_result(
    content: Mapping[str, Any], arrays: Arrays, *, card: ModelCard, study: ExpertInput, names: Placeholders
) -> tuple[ResultMessage, ExpertResult]:
    """Return an answer and the result in the Study's own terms; `check_result` has not seen it yet.

    Raises:
        RefusedInputError: fields or arrays are not those of an answer.
    """
    message = _valid(ResultMessage, names.restore(dict(content)))
    common = {name: getattr(message, name) for name in _COMMON}
    if message.kind == "classification":
        said = {name: getattr(message, name) for name in _CLASSIFIED}
        return message, Classification(card=card, **common, **said)
    volume = volumes_of(study).get(message.role)
    if volume is None or set(arrays) != {"labels"}:
        raise RefusedInputError("the answer is about a volume that was not sent, or has no label map")
    return message, SegmentationResult(card=card, **common, labels=arrays["labels"], names=message.names, volume=volume)


def _valid(kind: type[M], content: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(content)
    except ValidationError as exc:
        fields = sorted({".".join(str(part) for part in error["loc"][:2]) for error in exc.errors()})
        raise RefusedInputError(f"not the fields of a message: {', '.join(fields)[:200]}") from exc
