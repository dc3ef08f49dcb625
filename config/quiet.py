"""How long a Study must be quiet before it counts as complete."""

from config.settings import DicomSettings


def quiet_seconds(dicom: DicomSettings, *, calling_ae: str, called_ae: str, modality: str) -> float:
    """Return the quiet time: of the calling peer, else of the called profile by Modality, else ours by Modality.

    A Study waits for the longest of its Instances.
    """
    for peer in dicom.peers:
        if peer.ae_title == calling_ae and peer.quiet_s:
            return peer.quiet_s
    for profile in dicom.profiles:
        if profile.ae_title == called_ae:
            found = profile.quiet_by_modality.get(modality) or profile.quiet_s
            if found:
                return found
    return dicom.quiet_by_modality.get(modality, dicom.quiet_s)
