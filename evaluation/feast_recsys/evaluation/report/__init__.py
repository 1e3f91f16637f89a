"""An evaluation as one HTML file that needs nothing else: no network, no script, no font."""

from feast_recsys.evaluation.report.page import ItemMap, render

__all__ = ["ItemMap", "render"]
