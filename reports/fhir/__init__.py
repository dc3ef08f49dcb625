"""Reports as FHIR R4 (4.0.1) resources: plain JSON values, deterministic, without a server of their own."""

from reports.fhir.bundle import Entry, build_bundle, bundle_entries

__all__ = ["Entry", "build_bundle", "bundle_entries"]
