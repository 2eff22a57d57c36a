"""gradxform: deep-learning optimizers for JAX, composed from small rules."""

import importlib as _importlib
import typing as _typing

from gradxform import (
    contrib,
    losses,
    microbatching,
    projections,
    schedules,
    transforms,
    tree,
    tree_utils,
)
from gradxform.arithmetic import abs_squared, debias, ema_of, safe_divide, safe_sqrt, slot_like
from gradxform.chain import chain, identity, named_chain
from gradxform.describe import Description, describe
from gradxform.hyperparams import (
    Hyperparam,
    Scalar,
    Schedule,
    debiased,
    fraction,
    get_hyperparams,
    nonnegative,
    positive,
    set_hyperparams,
    tunable,
    unit,
)
from gradxform.losses import (
    convex_kl_divergence,
    cosine_distance,
    cosine_similarity,
    ctc_loss,
    ctc_loss_with_forward_probs,
    generalized_kl_divergence,
    hinge_loss,
    huber_loss,
    kl_divergence,
    l2_loss,
    log_cosh,
    ntxent,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
    squared_error,
)
from gradxform.microbatching import microbatch
from gradxform.numerics import safe_increment, safe_norm, safe_root_mean_squares, scale_gradient
from gradxform.optimizers.adam_family import (
    acprop,
    adabelief,
    adamax,
    adamaxw,
    adamw,
    adan,
    ademamix,
    adopt,
    amsgrad,
    nadam,
    nadamw,
    novograd,
    optimistic_adam,
    optimistic_adam_v2,
    radam,
    simplified_ademamix,
    yogi,
)
from gradxform.optimizers.adaptive import adadelta, adagrad, adam, rmsprop
from gradxform.optimizers.gradient_descent import (
    dpsgd,
    noisy_sgd,
    optimistic_gradient_descent,
    polyak_sgd,
    sgd,
)
from gradxform.optimizers.layerwise import fromage, lamb, lars
from gradxform.optimizers.learning_rate_free import cocob, dadapt_adamw, dog, dowg, momo, momo_adam, prodigy
from gradxform.optimizers.matrix import galore, muon, shampoo, soap
from gradxform.optimizers.psgd import kron
from gradxform.optimizers.quasi_newton import lbfgs
from gradxform.optimizers.schedule_free import (
    madgrad,
    scale_by_madgrad,
    schedule_free,
    schedule_free_adamw,
    schedule_free_eval_params,
    schedule_free_sgd,
)
from gradxform.optimizers.sign import lion, rprop, sign_sgd, signum
from gradxform.optimizers.small_memory import adafactor, sm3
from gradxform.optimizers.sophia import (
    HutchinsonState,
    SophiaState,
    hutchinson_estimator_diag_hessian,
    scale_by_sophia,
    sophia,
)
from gradxform.parallel.averaging import (
    AverageGradientsState,
    average_gradients,
    decorrelate,
    fold_in_axis,
)
from gradxform.parallel.communication import Collective, Communication, communication
from gradxform.parallel.gradients import scatter_gradients
from gradxform.parallel.sharding import shard_over, state_sharding
from gradxform.parallel.zero import ShardedState, shard_state
from gradxform.primitives.adam_family import (
    scale_by_acprop,
    scale_by_adamax,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_novograd,
    scale_by_radam,
    scale_by_simplified_ademamix,
    scale_by_yogi,
)
from gradxform.primitives.algebra import graft, ratio, root, square
from gradxform.primitives.averaging import AverageSlots, average_params, evaluation_params
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
from gradxform.primitives.factored import scale_by_factored_rms, scale_by_sm3
from gradxform.primitives.learning_rate_free import (
    scale_by_cocob,
    scale_by_distance_over_gradients,
    scale_by_dog,
    scale_by_dowg,
)
from gradxform.primitives.low_rank import GaLoreDimensionNumbers, GaLoreState, scale_by_galore
from gradxform.primitives.moments import (
    accumulate_squares,
    ema,
    scale_by_adadelta,
    scale_by_adam,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
)
from gradxform.primitives.momentum import scale_by_optimistic_gradient, trace
from gradxform.primitives.noise import add_noise
from gradxform.primitives.orthogonal import (
    MuonDimensionNumbers,
    orthogonalize_via_newton_schulz,
    scale_by_muon,
    scale_by_shape,
)
from gradxform.primitives.privacy import (
    DifferentiallyPrivateAggregateState,
    differentially_private_aggregate,
)
from gradxform.primitives.psgd import KronSlots, precond_update_prob_schedule, scale_by_kron
from gradxform.primitives.quasi_newton import ScaleByLBFGSState, scale_by_lbfgs
from gradxform.primitives.scaling import (
    scale,
    scale_by_learning_rate,
    scale_by_polyak,
    scale_by_schedule,
    set_to_zero,
)
from gradxform.primitives.shampoo import scale_by_shampoo, scale_by_soap
from gradxform.primitives.shaping import (
    ZeroNansState,
    centralize,
    keep_params_nonnegative,
    normalize,
    normalize_by_update_norm,
    scale_by_param_block_norm,
    scale_by_param_block_rms,
    scale_by_trust_ratio,
    stateless,
    stateless_with_tree_map,
    zero_nans,
)
from gradxform.primitives.sign import scale_by_lion, scale_by_rprop, scale_by_sign
from gradxform.rule import LiftState, Mask, Rule, Step, lift
from gradxform.schedules import (
    Curve,
    constant_schedule,
    cosine_decay_schedule,
    cosine_onecycle_schedule,
    cyclic_schedule,
    exponential_decay,
    inverse_sqrt_schedule,
    join_schedules,
    linear_onecycle_schedule,
    linear_schedule,
    linear_to_zero_schedule,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
    plot_schedule,
    polynomial_schedule,
    sgdr_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)
from gradxform.slots import Exact, NonNegative, decode_stored
from gradxform.sparse import RowSparse
from gradxform.sparse_gradients import sparse_value_and_grad
from gradxform.storage.codecs import Codec
from gradxform.storage.rounding import (
    compensated_sum,
    master_copy,
    round_stochastically,
    stochastic_rounding,
)
from gradxform.storage.store import StoredState, store
from gradxform.transformation import (
    EmptyState,
    GradientTransformation,
    Params,
    State,
    TransformInitFn,
    TransformUpdateFn,
    Updates,
    apply_updates,
    init_empty_state,
    with_extra_args_support,
)
from gradxform.tree import (
    bias_correction,
    update_infinity_moment,
    update_moment,
    update_moment_per_elem_norm,
)
from gradxform.trees import PyTree
from gradxform.updates import incremental_update, periodic_update
from gradxform.wrappers.accumulation import ApplyEvery, MultiSteps, MultiStepsState, apply_every
from gradxform.wrappers.combinators import (
    cautious,
    decay_schedule,
    decoupled_weight_decay,
    leaves_named,
    leaves_of_rank,
    mars,
    nesterov,
)
from gradxform.wrappers.guarding import (
    ApplyIfFiniteState,
    ConditionallyMaskState,
    ConditionallyTransformState,
    apply_if_finite,
    conditionally_mask,
    conditionally_transform,
    skip_large_updates,
    skip_not_finite,
)
from gradxform.wrappers.injecting import (
    InjectHyperparamsState,
    InjectStatefulHyperparamsState,
    StatefulSchedule,
    WrappedSchedule,
    inject_hyperparams,
    inject_stateful_hyperparams,
)
from gradxform.wrappers.layout import (
    SplitRealAndImaginaryArrays,
    SplitRealAndImaginaryState,
    densify,
    flatten,
    split_real_and_imaginary,
)
from gradxform.wrappers.linesearch import (
    BacktrackingLinesearchInfo,
    ScaleByBacktrackingLinesearchState,
    ScaleByZoomLinesearchState,
    ZoomLinesearchInfo,
    scale_by_backtracking_linesearch,
    scale_by_zoom_linesearch,
    value_and_grad_from_state,
)
from gradxform.wrappers.lookahead import LookaheadParams, LookaheadState, lookahead
from gradxform.wrappers.loss_scaling import (
    LossScaleState,
    dynamic_loss_scale,
    scale_loss,
    static_loss_scale,
)
from gradxform.wrappers.masking import MaskedState, freeze, masked, partition, selective_transform
from gradxform.wrappers.mechanic import MechanicState, mechanize
from gradxform.wrappers.monitoring import MonitorState, SnapshotState, measure_with_ema, monitor, snapshot
from gradxform.wrappers.plateau import ReduceLROnPlateauState, reduce_on_plateau
from gradxform.wrappers.sharpness import SAMState, sam

# What Optax calls the same.
multi_transform = partition
tree_map_params = tree.map_params
global_norm = tree.norm
GradientTransformationExtraArgs = GradientTransformation
MaskOrFn = Mask
OptState = State
ScalarOrSchedule = Hyperparam
ShouldSkipUpdateFunction = transforms.ShouldSkipUpdateFunction
TransformUpdateExtraArgsFn = TransformUpdateFn
safe_int32_increment = safe_increment

if _typing.TYPE_CHECKING:
    from gradxform import interop
    from gradxform.checkpoints import Checkpoint, Checkpoints, CheckpointWarning
    from gradxform.comparison import Contestant, Report, compare
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
else:
    # Not every program trains with these: loaded at their first use, they halve the time of the import.
    _LATER = ("training", "checkpoints", "comparison", "interop")

    def __getattr__(name: str) -> _typing.Any:
        rooms = [name] if name in _LATER else _LATER if name in __all__ else []
        for room in rooms:
            module = _importlib.import_module(f"gradxform.{room}")
            if name == room or hasattr(module, name):
                value = globals()[name] = module if name == room else getattr(module, name)
                return value
        raise AttributeError(f"module 'gradxform' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)


__version__ = "0.1.0"

__all__ = [
    "abs_squared",
    "accumulate_squares",
    "acprop",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "ademamix",
    "adopt",
    "amsgrad",
    "apply_every",
    "apply_if_finite",
    "apply_updates",
    "ApplyEvery",
    "ApplyIfFiniteState",
    "average_gradients",
    "average_params",
    "AverageGradientsState",
    "AverageSlots",
    "BacktrackingLinesearchInfo",
    "Batches",
    "batches",
    "bias_correction",
    "cautious",
    "centralize",
    "chain",
    "Checkpoint",
    "Checkpoints",
    "CheckpointWarning",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "cocob",
    "Codec",
    "Collective",
    "Communication",
    "communication",
    "compare",
    "compensated_sum",
    "conditionally_mask",
    "conditionally_transform",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "constant_schedule",
    "Contestant",
    "contrib",
    "convex_kl_divergence",
    "cosine_decay_schedule",
    "cosine_distance",
    "cosine_onecycle_schedule",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "Curve",
    "cyclic_schedule",
    "dadapt_adamw",
    "debias",
    "debiased",
    "decay_schedule",
    "decode_stored",
    "decorrelate",
    "decoupled_weight_decay",
    "densify",
    "describe",
    "Description",
    "differentially_private_aggregate",
    "DifferentiallyPrivateAggregateState",
    "dog",
    "dowg",
    "dpsgd",
    "dynamic_loss_scale",
    "ema",
    "ema_of",
    "EmptyState",
    "Evaluation",
    "evaluation_params",
    "Exact",
    "exponential_decay",
    "fit",
    "FitResult",
    "flatten",
    "fold_in_axis",
    "fraction",
    "freeze",
    "fromage",
    "galore",
    "GaLoreDimensionNumbers",
    "GaLoreState",
    "generalized_kl_divergence",
    "get_hyperparams",
    "global_norm",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "graft",
    "hinge_loss",
    "History",
    "huber_loss",
    "hutchinson_estimator_diag_hessian",
    "HutchinsonState",
    "Hyperparam",
    "identity",
    "incremental_update",
    "init_empty_state",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "interop",
    "inverse_sqrt_schedule",
    "join_schedules",
    "keep_params_nonnegative",
    "kl_divergence",
    "kron",
    "KronSlots",
    "l2_loss",
    "lamb",
    "lars",
    "lbfgs",
    "learning_rate_range_test",
    "leaves_named",
    "leaves_of_rank",
    "lift",
    "LiftState",
    "linear_onecycle_schedule",
    "linear_schedule",
    "linear_to_zero_schedule",
    "lion",
    "log_cosh",
    "lookahead",
    "LookaheadParams",
    "LookaheadState",
    "losses",
    "LossScaleState",
    "madgrad",
    "mars",
    "Mask",
    "masked",
    "MaskedState",
    "MaskOrFn",
    "master_copy",
    "measure_with_ema",
    "MechanicState",
    "mechanize",
    "microbatch",
    "microbatching",
    "momo",
    "momo_adam",
    "monitor",
    "MonitorState",
    "multi_transform",
    "MultiSteps",
    "MultiStepsState",
    "muon",
    "MuonDimensionNumbers",
    "nadam",
    "nadamw",
    "named_chain",
    "nesterov",
    "noisy_sgd",
    "NonFiniteError",
    "NonNegative",
    "nonnegative",
    "normalize",
    "normalize_by_update_norm",
    "novograd",
    "ntxent",
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "OptState",
    "orthogonalize_via_newton_schulz",
    "Params",
    "partition",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "periodic_update",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plot_schedule",
    "polyak_sgd",
    "polynomial_schedule",
    "positive",
    "precond_update_prob_schedule",
    "prodigy",
    "projections",
    "PyTree",
    "radam",
    "RangeTest",
    "ratio",
    "reduce_on_plateau",
    "ReduceLROnPlateauState",
    "Report",
    "restore_checkpoint",
    "rmsprop",
    "root",
    "round_stochastically",
    "RowSparse",
    "rprop",
    "Rule",
    "safe_divide",
    "safe_increment",
    "safe_int32_increment",
    "safe_norm",
    "safe_root_mean_squares",
    "safe_softmax_cross_entropy",
    "safe_sqrt",
    "sam",
    "SAMState",
    "save_checkpoint",
    "Scalar",
    "ScalarOrSchedule",
    "scale",
    "scale_by_acprop",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_backtracking_linesearch",
    "scale_by_belief",
    "scale_by_cocob",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
    "scale_by_factored_rms",
    "scale_by_galore",
    "scale_by_kron",
    "scale_by_lbfgs",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_madgrad",
    "scale_by_muon",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_polyak",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_simplified_ademamix",
    "scale_by_sm3",
    "scale_by_soap",
    "scale_by_sophia",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "scale_by_zoom_linesearch",
    "scale_gradient",
    "scale_loss",
    "ScaleByBacktrackingLinesearchState",
    "ScaleByLBFGSState",
    "ScaleByZoomLinesearchState",
    "scatter_gradients",
    "Schedule",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "schedules",
    "selective_transform",
    "set_hyperparams",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "shampoo",
    "shard_over",
    "shard_state",
    "ShardedState",
    "ShouldSkipUpdateFunction",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "skip_large_updates",
    "skip_not_finite",
    "slot_like",
    "sm3",
    "smooth_labels",
    "Snapshot",
    "snapshot",
    "SnapshotState",
    "soap",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sophia",
    "SophiaState",
    "sparse_value_and_grad",
    "split_real_and_imaginary",
    "SplitRealAndImaginaryArrays",
    "SplitRealAndImaginaryState",
    "square",
    "squared_error",
    "State",
    "state_sharding",
    "StatefulSchedule",
    "stateless",
    "stateless_with_tree_map",
    "static_loss_scale",
    "Step",
    "stochastic_rounding",
    "StopTraining",
    "store",
    "StoredState",
    "Sweep",
    "sweep",
    "take",
    "trace",
    "TransformInitFn",
    "transforms",
    "TransformUpdateExtraArgsFn",
    "TransformUpdateFn",
    "tree",
    "tree_map_params",
    "tree_utils",
    "tunable",
    "unit",
    "unitwise_clip",
    "unitwise_norm",
    "update_infinity_moment",
    "update_moment",
    "update_moment_per_elem_norm",
    "Updates",
    "value_and_grad_from_state",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
    "with_extra_args_support",
    "WrappedSchedule",
    "yogi",
    "zero_nans",
    "ZeroNansState",
    "ZoomLinesearchInfo",
]
