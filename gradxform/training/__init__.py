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
from gradxform.training.range_test import RangeTest, learning_rate_range_test
from gradxform.training.sweep import sweep
from gradxform.training.sweep_result import Sweep

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
    "RangeTest",
    "Sweep",
    "learning_rate_range_test",
    "sweep",
    "restore_checkpoint",
    "save_checkpoint",
]
