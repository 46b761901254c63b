"""report.html: one self-contained page about a run.

run_folder   what the folder holds            detections   ground truth, detections, what found what
scores       AP, confusion, where AP is lost  gallery      images and outlines
charts       inline SVG                       sections     numbers to HTML
markup       HTML that is escaped             build        the page
"""

from .build import write_report, write_report_of_run

__all__ = ["write_report", "write_report_of_run"]
