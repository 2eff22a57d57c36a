"""Training: drawing batches and running the loop."""

from gradxform.training.batches import Batches, batches, take
from gradxform.training.checkpointing import restore_checkpoint, save_checkpoint
from gradxform.training.fit import fit
from gradxform.training.history import (
    Evaluation,
    FitResult,
    History,
    NonFiniteError,
    Snapshot,
    StopTraining,
)

__all__ = [
    "Batches",
    "batches",
    "take",
    "Evaluation",
    "FitResult",
    "History",
    "NonFiniteError",
    "Snapshot",
    "StopTraining",
    "fit",
    "restore_checkpoint",
    "save_checkpoint",
]
