"""Passwords: argon2id hashes, and random first ones."""

import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from config.errors import RefusedInputError

MIN_LENGTH = 12
MAX_LENGTH = 200
_hasher = PasswordHasher()  # RFC 9106 low-memory profile, argon2-cffi's default


def hash_password(password: str, *, login: str = "") -> str:
    """Return the argon2id hash of ``password``.

    Raises:
        RefusedInputError: too short or too long (NIST SP 800-63B section 3.1.1.2), or hardly more than the login.
    """
    if login and login.lower() in password.lower() and len(password) - len(login) < MIN_LENGTH // 2:
        raise RefusedInputError("a password is not the login with a few characters more")
    if len(set(password)) < 4:
        raise RefusedInputError("a password has at least four different characters")
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise RefusedInputError(f"a password has {MIN_LENGTH} to {MAX_LENGTH} characters")
    return _hasher.hash(password)


def verify_password(stored: str | None, password: str) -> bool:
    """Return whether ``password`` belongs to the stored hash; None takes as long and is False."""
    try:
        matches = _hasher.verify(stored or _nobody(), password[:MAX_LENGTH])
    except (VerificationError, InvalidHashError):
        return False
    return matches and stored is not None


def needs_rehash(stored: str) -> bool:
    """Return whether ``stored`` was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(stored)


@cache
def _nobody() -> str:
    """A hash to verify against when there is no such login."""
    return _hasher.hash(secrets.token_hex())


def random_password() -> str:
    """Return a password of 96 random bits, without letters that look alike."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(6)) for _ in range(3))
