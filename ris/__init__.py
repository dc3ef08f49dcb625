"""The exchange with RIS and EHR: HL7 v2 over MLLP both ways, FHIR bundles out."""
