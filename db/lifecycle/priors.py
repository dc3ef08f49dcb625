"""Earlier Studies of the same patient: found, awaited, here, or refused."""

from sqlalchemy import Connection


def is_awaited(connection: Connection, study_instance_uid: str) -> bool:
    """Return whether a retrieval of ours is fetching this Study now, so that what arrives is a prior."""
    del connection, study_instance_uid
    return False
