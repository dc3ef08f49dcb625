"""Received Instances on disk and in the database: bytes first, then the row, and only then an acknowledgement."""
