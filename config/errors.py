"""The error tree: a class exists only where somebody handles it differently.

AppError
├─ RefusedInputError     the peer or the user sent it; never retried
│  ├─ UnsupportedSopClassError
│  ├─ SopMismatchError        dataset is not what the command announced
│  ├─ UnreadableDatasetError  no Data Set in its transfer syntax, or cut short
│  ├─ InvalidUidError         a UID that is no UID
│  │  └─ MissingUidError         a UID that is not there
│  ├─ BrokenBodyError         an HTTP request body that is not what its header says
│  ├─ ConflictingInstanceError  same SOP Instance UID, other bytes
│  ├─ AbortAssociationError   a peer broke the protocol, or was too slow: A-ABORT
│  ├─ GeometryError           slices that make no Volume
│  ├─ UndecodablePixelsError  stored, but its pixels cannot be read
│  ├─ AlteredInstanceError    a kept file is not what was received
│  ├─ BrokenSealError         a head, proof or anchor of the audit log that does not verify
│  ├─ PixelsDeletedError      retention deleted the file; its row says when
│  └─ OutsideIntendedUseError  a gate refused the study: no draft
│     └─ UnlicensedModelError     a model whose licence does not allow this use
├─ ModelError            a model or its package broke its contract; never retried
│  ├─ ModelPackageError       missing, surplus or altered files
│  ├─ TriggerSyntaxError      model text with a malformed or unknown Trigger
│  ├─ ModelOutputError        numbers that are none, or nothing where something is needed
│  ├─ ExpertError             an expert failed: listed as "not assessed"
│  │  └─ InputTooLargeError      the study does not fit the expert's memory budget
│  └─ GenerationBudgetError   the prompt does not fit, or the model did not stop
│     └─ RepetitionError         the model repeated itself without end
├─ LifecycleError        that state change is not allowed, or someone was faster
├─ NotAuthorisedError    the Actor may not do this
├─ ConfigurationError    settings or rules nobody can work with; the process does not start
└─ TransientError        waiting may cure it; the task layer retries
   ├─ OutOfSpaceError
   ├─ PeerUnavailableError
   │  └─ AssociationLostError    the connection of an association is gone
   └─ GpuBusyError
"""


class AppError(Exception):
    """Base of every error Firstread raises on purpose."""


class RefusedInputError(AppError):
    """The peer or the user sent something that is refused; never retried."""


class UnsupportedSopClassError(RefusedInputError):
    """The SOP Class is not one this node stores."""


class SopMismatchError(RefusedInputError):
    """SOP Class or Instance UID of the Dataset differ from the C-STORE command."""


class UnreadableDatasetError(RefusedInputError):
    """The bytes are no Data Set in the announced transfer syntax, or end too early."""


class InvalidUidError(RefusedInputError):
    """A UID is not a UID (PS3.5 section 9.1)."""


class MissingUidError(InvalidUidError):
    """A UID that names Study, Series, Instance or SOP Class is absent or empty."""


class BrokenBodyError(RefusedInputError):
    """A request body is not what its Content-Type says, or ends too early."""


class ConflictingInstanceError(RefusedInputError):
    """An Instance with this UID is already held with other bytes."""


class AbortAssociationError(RefusedInputError):
    """The association is ended with an A-ABORT: the peer broke the protocol, was too slow, or the node stops.

    ``source`` and ``reason`` are those of the A-ABORT PDU (PS3.8 section 9.3.8): source 0 is the service user
    (DIMSE and above), whose reason is always 0; source 2 is the service provider.
    """

    def __init__(self, message: str, *, source: int = 0, reason: int = 0) -> None:
        super().__init__(message)
        self.source = source
        self.reason = reason


class GeometryError(RefusedInputError):
    """The slices of a Series do not make a Volume."""


class UndecodablePixelsError(RefusedInputError):
    """The Instance is kept, but its pixel data cannot be decoded."""


class AlteredInstanceError(RefusedInputError):
    """A kept Instance is gone, or is not what was received."""


class BrokenSealError(RefusedInputError):
    """A head, a proof or an anchor of the audit log does not verify."""


class PixelsDeletedError(RefusedInputError):
    """Retention deleted the pixel data of an Instance that was kept; the row says when."""


class OutsideIntendedUseError(RefusedInputError):
    """A gate refused the Study: no draft, with this reason."""


class UnlicensedModelError(OutsideIntendedUseError):
    """A model's licence does not allow the use this Study is routed to."""


class ModelError(AppError):
    """A model or its package broke its contract; never retried."""


class ModelPackageError(ModelError):
    """A model package has missing, surplus or altered files."""


class TriggerSyntaxError(ModelError):
    """Model text holds a Trigger that is malformed or names no available Expert."""


class ModelOutputError(ModelError):
    """A model gave numbers that are none, or nothing where something is needed."""


class ExpertError(ModelError):
    """An Expert failed; what it should have assessed is listed as not assessed."""


class InputTooLargeError(ExpertError):
    """The Study does not fit the memory budget of an Expert."""


class GenerationBudgetError(ModelError):
    """The prompt does not fit, or the model did not stop within its budget."""


class RepetitionError(GenerationBudgetError):
    """The model repeated itself without end."""


class LifecycleError(AppError):
    """That state change is not allowed, or someone was faster."""


class NotAuthorisedError(AppError):
    """The Actor may not do this."""


class ConfigurationError(AppError):
    """Settings or rules that no process can work with."""


class TransientError(AppError):
    """Waiting may cure it; the task layer retries."""


class OutOfSpaceError(TransientError):
    """The instance store has no room left."""


class PeerUnavailableError(TransientError):
    """A peer (DICOM node, model server, hub) did not answer, or refused for a passing reason."""


class AssociationLostError(PeerUnavailableError):
    """The connection of an association is gone; nobody is there to be told."""


class GpuBusyError(TransientError):
    """No memory for the model at this moment."""
