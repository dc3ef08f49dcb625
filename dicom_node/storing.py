"""How C-STORE keeps and refuses: as every door does (:mod:`instances.storing`)."""

from instances.storing import INTERNAL_ERROR, STATUS, SUCCESS, Answer, Keeper, keep, refuse

__all__ = ["INTERNAL_ERROR", "STATUS", "SUCCESS", "Answer", "Keeper", "keep", "refuse"]
