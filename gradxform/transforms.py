"""What Optax keeps under this name; in gradxform it all stands at the top level."""

from gradxform.chain import chain, named_chain
from gradxform.primitives.clipping import (
    adaptive_grad_clip,
    clip,
    clip_by_block_rms,
    clip_by_global_norm,
    per_example_global_norm_clip,
    per_example_layer_norm_clip,
    unitwise_clip,
    unitwise_norm,
)
from gradxform.primitives.decay import add_decayed_weights
from gradxform.primitives.moments import ema
from gradxform.primitives.momentum import trace
from gradxform.primitives.noise import add_noise
from gradxform.primitives.shaping import ZeroNansState, keep_params_nonnegative, zero_nans
from gradxform.wrappers.accumulation import MultiSteps, MultiStepsState, ShouldSkip
from gradxform.wrappers.guarding import (
    ApplyIfFiniteState,
    Condition,
    ConditionallyMaskState,
    ConditionallyTransformState,
    apply_if_finite,
    conditionally_mask,
    conditionally_transform,
    skip_large_updates,
    skip_not_finite,
)
from gradxform.wrappers.layout import flatten
from gradxform.wrappers.masking import MaskedState, freeze, masked, partition, selective_transform
from gradxform.wrappers.monitoring import MonitorState, SnapshotState, measure_with_ema, monitor, snapshot

ConditionFn = Condition
ShouldSkipUpdateFunction = ShouldSkip

__all__ = [
    "ApplyIfFiniteState",
    "ConditionFn",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "MaskedState",
    "MonitorState",
    "MultiSteps",
    "MultiStepsState",
    "ShouldSkipUpdateFunction",
    "SnapshotState",
    "ZeroNansState",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "apply_if_finite",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "conditionally_mask",
    "conditionally_transform",
    "ema",
    "flatten",
    "freeze",
    "keep_params_nonnegative",
    "masked",
    "measure_with_ema",
    "monitor",
    "named_chain",
    "partition",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "selective_transform",
    "skip_large_updates",
    "skip_not_finite",
    "snapshot",
    "trace",
    "unitwise_clip",
    "unitwise_norm",
    "zero_nans",
]
