"""The diagnostics of `DiagnosticTestLoop`, one per file."""

from plcourse.evaluation.diagnostics.calibration import Calibration
from plcourse.evaluation.diagnostics.confusion import Confusion
from plcourse.evaluation.diagnostics.errors import ConfidentErrors
from plcourse.evaluation.diagnostics.intervals import Intervals
from plcourse.evaluation.diagnostics.per_class import PerClass
from plcourse.evaluation.diagnostics.risk_coverage import RiskCoverage
from plcourse.evaluation.diagnostics.slices import WorstSlices

# in the order in which their findings are printed
DIAGNOSTICS = (Intervals, PerClass, Confusion, Calibration, RiskCoverage, WorstSlices, ConfidentErrors)
