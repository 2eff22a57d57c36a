"""The `gradxform` command: algorithms race on real data, and a report helps to choose."""

from gradxform.comparison.contestants import Contestant
from gradxform.comparison.race import compare
from gradxform.comparison.report import Curve, Noise, Report, Row, Sensitivity

__all__ = ["Contestant", "Curve", "Noise", "Report", "Row", "Sensitivity", "compare"]
