"""The report: one self-contained HTML file."""

from latefuse.evaluation.report.build import Report, build

__all__ = ["Report", "build"]
