"""How good are the masks? Scores of any backend on annotated video, as the benchmarks define them."""

from masklet.training.evaluation.report import Report, format_table
from masklet.training.evaluation.run import MODES, evaluate
from masklet.training.evaluation.settings import EvaluationSettings, View

__all__ = ["MODES", "EvaluationSettings", "Report", "View", "evaluate", "format_table"]
