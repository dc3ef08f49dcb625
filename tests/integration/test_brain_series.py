"""Roles of real MR series of six vendors, as their publishers describe them."""

import pytest

from worker.decoding import read_headers
from worker.mr_roles import claim_of
from worker.mr_sequences import mr_sequence


@pytest.mark.parametrize(
    ("folder", "role", "reason"),
    [
        ("mr_glioma/t1", "T1", ""),
        ("mr_glioma/t1c", "T1c", ""),
        ("mr_glioma/t2", "T2", ""),
        ("mr_glioma/flair", "FLAIR", ""),
        # no description at all: gradient echo, TE 3.2, TR 8.9, TI 900
        ("mr_multivendor/ge_t1_gradient_sagittal", "T1", ""),
        ("mr_multivendor/siemens_flair3d_sagittal", "FLAIR", ""),
        ("mr_multivendor/philips_flair3d_coronal", "FLAIR", ""),
        ("mr_multivendor/siemens_t1_sagittal_HFS", "T1", ""),
        ("mr_multivendor/siemens_t1_sagittal_HFP", "T1", ""),
        # enhanced MR: from Acquisition Contrast and the functional groups
        ("mr_multivendor/hyperfine_enhanced_multiframe", "FLAIR", ""),
        ("mr_multivendor/philips_enhanced_multiframe", "T1", ""),
        # enhanced MR without Shared Functional Groups: an echo time is not enough
        ("mr_multivendor/siemens_enhanced_multiframe", "", "name no contrast"),
        ("mr_multivendor/hitachi_oblique", "", "proton density"),
        ("mr_multivendor/siemens_diffusion_mosaic", "", "diffusion"),
        ("mr_multivendor/ge_epi_fmri", "", "echo-planar"),
        # a b0 image looks like T2
        ("mr_multivendor/toshiba_diffusion_b0", "", "echo-planar"),
        ("mr_multivendor/siemens_xa10_enhanced_phantom", "", "echo-planar"),
        # a thin header and a telling name: doubt, not a role
        ("mr_t1_defaced", "", "called T1, but no echo or repetition time"),
        ("mr_multivendor/colour_secondary_capture", "", "called T1, but no echo or repetition time"),
    ],
)
def test_a_real_series_gets_its_role_or_the_reason_for_none(real_data, folder, role, reason):
    claim = claim_of(mr_sequence(read_headers(sorted((real_data / folder).glob("*.dcm")))))
    assert claim.role == role
    assert reason in claim.reason
    assert bool(claim.reason) == (not role)
