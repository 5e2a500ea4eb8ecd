"""Fig. 4: every connector at each resolution and number of image tokens, by number of shots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analysis.figures import _errors, head
from analysis.study import Study
from analysis.style import MARKERS, PALETTE, WIDTH, annotate_head, save, styled


def draw_figure_4(study: Study, path: Path) -> list[Path]:
    """A column a number of shots, a group a panel (resolution and number of tokens), a colour a connector.

    A trial without scores leaves a gap.
    """
    from matplotlib.figure import Figure

    groups = list(study.panels.values())
    labels = list(dict.fromkeys(label for panel in groups for label in panel.arms))
    measures = [measure for measure in study.measures if measure.endswith("shot") and " " not in measure]
    with styled():
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.subplots(1, len(measures), squeeze=False)[0]
        for axis, measure in zip(axes, measures, strict=True):
            for order, label in enumerate(labels):
                x = np.arange(len(groups)) + 0.22 * (order - (len(labels) - 1) / 2)
                points = [study.mean(panel.arms[label], measure) if label in panel.arms else None for panel in groups]
                heights = [point.estimate if point else np.nan for point in points]
                axis.errorbar(
                    x, heights, yerr=np.array([_errors(point) for point in points]).T, linestyle="none",
                    marker=MARKERS[order % len(MARKERS)], color=PALETTE[order % len(PALETTE)], elinewidth=0.8,
                    label=label,
                )  # fmt: skip
            axis.set_title(measure)
            axis.set_xticks(
                range(len(groups)), [panel.title.replace(", ", "\n").removesuffix(" tokens") for panel in groups]
            )
            axis.set_xlim(-0.5, len(groups) - 0.5)
            axis.set_xlabel("resolution, image tokens")
        axes[0].set_ylabel("points")
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0)
        annotate_head(figure, head(study), f"{study.uncertainty_note}. MM1's values were never published.")
        return save(figure, path)
