"""Signed reports as FHIR R4 resources."""
