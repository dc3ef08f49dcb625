"""Accounts: seven roles.

Safe while the previous release runs: it knows three of the seven roles and makes no others.

Revision: 0015, after 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


_BEFORE = ("radiologist", "admin", "auditor")
_ROLES = ("viewer", "resident", "radiologist", "lead", "admin", "auditor", "service")


def upgrade() -> None:
    _roles(_BEFORE, _ROLES)


def downgrade() -> None:
    _roles(_ROLES, _BEFORE)


def _roles(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    with op.batch_alter_table("user_account") as account:
        account.alter_column("role", existing_type=_kind(old), type_=_kind(new), existing_nullable=False)


def _kind(roles: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*roles, name="role", native_enum=False, length=16, create_constraint=True)
