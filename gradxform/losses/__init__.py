"""Losses, named and called as Optax's are.

All compute in float32 or wider and return it: bfloat16 has three digits, and a
mean over a batch loses them. Gradients come back in the dtype of the input.
"""

from gradxform.losses.binary import (
    hinge_loss,
    perceptron_loss,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    sparsemax_loss,
)
from gradxform.losses.ctc import ctc_loss, ctc_loss_with_forward_probs
from gradxform.losses.divergences import (
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from gradxform.losses.fenchel_young import make_fenchel_young_loss
from gradxform.losses.multiclass import (
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    multiclass_sparsemax_loss,
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    smooth_labels,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from gradxform.losses.ranking import ranking_softmax_loss
from gradxform.losses.regression import (
    cosine_distance,
    cosine_similarity,
    huber_loss,
    l2_loss,
    log_cosh,
    squared_error,
)
from gradxform.losses.segmentation import binary_dice_loss, dice_loss, multiclass_generalized_dice_loss
from gradxform.losses.self_supervised import ntxent, triplet_margin_loss

convex_kl_divergence = generalized_kl_divergence  # its former name

__all__ = [
    "binary_dice_loss",
    "convex_kl_divergence",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]
