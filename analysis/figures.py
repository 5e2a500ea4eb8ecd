"""Figures of a sweep: a panel a row with the scores by shots, any sweep's arms as dots, and its contrasts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.claims import Verdict
from analysis.statistics import Interval
from analysis.study import FAMILIES, Study
from analysis.style import DARK, GREY, MARKERS, PALETTE, WIDTH, annotate_head, arm_colours, save, styled
from mm1_lab.config import Panel
from mm1_lab.results.summary import TEXT_CORE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TITLES = {"": "all image benchmarks", "captioning": "captioning (CIDEr)", "vqa": "VQA"}
DASHES = (0, (4, 2))
VERDICT_COLOURS: dict[Verdict, str] = {
    "supported": "#0072B2",
    "supported, smaller": "#0072B2",
    "refuted in size": "#D55E00",
    "contradicted": "#D55E00",
}


def draw_panels(study: Study, path: Path) -> list[Path]:
    """A row a panel: text-core, then the means by number of shots of all benchmarks and of each family.

    A trial without scores leaves a gap, and its label says so. Diamonds are the paper's own numbers.
    """
    from matplotlib.figure import Figure

    families = [family for family in FAMILIES if any(m.startswith(f"{family} ".lstrip()) for m in study.measures)]
    rows = len(study.panels)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.75 + 1.75 * rows), layout="constrained")
        grid = figure.subplots(
            rows, 1 + len(families), sharey="col", squeeze=False, width_ratios=[1.1] + [2.2] * len(families)
        )
        for (key, panel), axes in zip(study.panels.items(), grid, strict=True):
            _text_core(axes[0], study, key, panel)
            for axis, family in zip(axes[1:], families, strict=True):
                _by_shots(axis, study, key, panel, family)
            axes[0].set_ylabel("points")
            axes[0].set_title(" ", pad=16)
            name = f"{key}   {panel.title}".strip()
            heading = axes[0].annotate(name, (0, 1.2), xycoords="axes fraction", fontsize=8, fontweight="bold")
            heading.set_in_layout(False)
            for axis, title in zip(axes, [TEXT_CORE, *(TITLES[family] for family in families)], strict=True):
                axis.annotate(title, (0.5, 1.04), xycoords="axes fraction", ha="center", color=DARK)
            _legend(axes[-1], study, panel)
        for axis in grid[-1, 1:]:
            axis.set_xlabel("shots")
        seeds = " Small dots: single seeds." * (len(study.seeds) > 1)
        paper = " Open diamonds: MM1's own numbers; open triangles: MM1 says more than this." * bool(study.paper.values)
        annotate_head(figure, head(study), f"{study.uncertainty_note}.{seeds}{paper}")
        return save(figure, path)


def _by_shots(axis: Axes, study: Study, key: str, panel: Panel, family: str) -> None:
    colours = arm_colours(study.sweep)
    places = np.arange(len(study.shots), dtype=float)
    measures = [f"{family} {shots}-shot".strip() for shots in study.shots]
    for order, (label, arm) in enumerate(panel.arms.items()):
        x = places + _dodge(order, len(panel.arms), 0.32)
        points = [study.mean(arm, measure) for measure in measures]
        line = [point.estimate if point else np.nan for point in points]
        errors = np.array([_errors(point) for point in points]).T
        axis.errorbar(x, line, yerr=errors, color=colours[arm], marker=MARKERS[order % len(MARKERS)], elinewidth=0.8)
        for place, measure in zip(x, measures, strict=True):
            _seeds(axis, study, arm, measure, place, colours[arm])
            number = None if family else study.paper.value(key, label, measure)
            if number:
                axis.plot(
                    place, number.value, marker="^" if number.bound == "above" else "D", color=colours[arm],
                    markerfacecolor="white", markersize=5, linestyle="none", zorder=3,
                )  # fmt: skip
    if study.blind:
        blind = [study.mean(study.blind, measure) for measure in measures]
        axis.plot(places, [b.estimate if b else np.nan for b in blind], color=GREY, linestyle=DASHES, linewidth=1)
    majority = [study.majority(measure) for measure in measures]
    axis.plot(places, [np.nan if m is None else m for m in majority], color=GREY, linestyle=":", linewidth=1)
    axis.set_xticks(places, [str(shots) for shots in study.shots])
    axis.set_xlim(-0.4, len(places) - 0.6)
    axis.margins(y=0.1)


def _text_core(axis: Axes, study: Study, key: str, panel: Panel) -> None:
    colours = arm_colours(study.sweep)
    for order, (label, arm) in enumerate(panel.arms.items()):
        point = study.mean(arm, TEXT_CORE)
        if point:
            marker = MARKERS[order % len(MARKERS)]
            errors = np.array([_errors(point)]).T
            axis.errorbar(order, point.estimate, yerr=errors, color=colours[arm], elinewidth=0.8, marker=marker)
            _seeds(axis, study, arm, TEXT_CORE, order, colours[arm])
        number = study.paper.value(key, label, TEXT_CORE)
        if number:
            axis.plot(order, number.value, marker="D", color=colours[arm], markerfacecolor="white", markersize=5)
    blind = study.mean(study.blind, TEXT_CORE) if study.blind else None
    if blind:
        axis.axhline(blind.estimate, color=GREY, linestyle=DASHES, linewidth=1)
    majority = study.majority(TEXT_CORE)
    if majority is not None:
        axis.axhline(majority, color=GREY, linestyle=":", linewidth=1)
    axis.set_xticks([])
    axis.set_xlim(-0.7, len(panel.arms) - 0.3)


def _seeds(axis: Axes, study: Study, arm: str, measure: str, place: float, colour: str) -> None:
    values = study.seed_values(arm, measure)
    if len(values) > 1:
        axis.plot([place] * len(values), values, marker=".", markersize=2.5, alpha=0.5, color=colour, linestyle="none")


def _errors(point: Interval | None) -> tuple[float, float]:
    """How far the 95 % interval reaches below and above its estimate."""
    return (point.estimate - point.low, point.high - point.estimate) if point else (np.nan, np.nan)


def _dodge(order: int, count: int, width: float) -> float:
    return 0.0 if count == 1 else width * (order / (count - 1) - 0.5)


def _legend(axis: Axes, study: Study, panel: Panel) -> None:
    from matplotlib.lines import Line2D

    colours = arm_colours(study.sweep)
    handles = []
    for order, (label, arm) in enumerate(panel.arms.items()):
        there = arm in study.scored
        label = label if there else f"{label} (missing)"
        handles.append(Line2D([], [], color=colours[arm], marker=MARKERS[order % len(MARKERS)], label=label))
        if not there:
            handles[-1].set(linestyle="none", markerfacecolor="none")
    if study.blind in study.scored:
        handles.append(Line2D([], [], color=GREY, linestyle=DASHES, linewidth=1, label="blind control"))
    if any(study.majority(measure) is not None for measure in study.measures):
        handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=1, label="majority answer"))
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0)


def head(study: Study) -> str:
    return f"{study.sweep.heading} at scale {study.variant.manifest.scale}"


def draw_arms(study: Study, path: Path) -> list[Path]:
    """A row an arm, a column a main measure, the paper's numbers as diamonds: for sweeps of any kind and size."""
    from matplotlib.figure import Figure

    columns = [measure for measure in study.measures if " " not in measure]
    arms = list(study.sweep.arms)
    known = [(arm, measure) for arm in arms for measure in columns if study.paper_value(arm, measure)]
    with styled():
        figure = Figure(figsize=(WIDTH, 1.1 + 0.22 * len(arms)), layout="constrained")
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axis, measure in zip(axes, columns, strict=True):
            for row, arm in enumerate(arms):
                point, number = study.mean(arm, measure), study.paper_value(arm, measure)
                colour = GREY if arm == study.blind else PALETTE[4]
                if point:
                    errors = np.array([_errors(point)]).T
                    axis.errorbar(point.estimate, row, xerr=errors, marker="o", color=colour, elinewidth=0.8)
                if number:
                    axis.plot(number.value, row, marker="D", color=DARK, markerfacecolor="white", linestyle="none")
            axis.set_title(measure)
            axis.grid(axis="x")
            axis.set_xlabel("points")
        labels = [arm if arm in study.scored else f"{arm} (missing)" for arm in arms]
        axes[0].set_yticks(range(len(arms)), labels)
        axes[0].set_ylim(len(arms) - 0.4, -0.6)
        paper = " Open diamonds: MM1's own numbers." * bool(known)
        annotate_head(figure, head(study), f"{study.uncertainty_note}.{paper}")
        return save(figure, path)


def draw_claims(claims: pd.DataFrame, path: Path, head: str, note: str) -> list[Path]:
    """Rows of claims or lessons: difference with interval, what is claimed (shaded), verdict, the paper's own."""
    from matplotlib.figure import Figure

    known = claims[["low", "high", "estimate", "paper"]].to_numpy(float)
    ends = [0.0, *known[np.isfinite(known)], *claims["margin"], *-claims["margin"]]
    reach = 0.08 * (max(ends) - min(ends) or 1.0)
    limits = (min(ends) - reach, max(ends) + reach)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.3 * len(claims)), layout="constrained")
        axis = figure.subplots()
        axis.axvline(0, color=DARK, linewidth=0.6)
        axis.set_xlim(*limits)
        for place, row in enumerate(claims.to_dict("records")):
            _claim(axis, place, row)
        axis.set_yticks(range(len(claims)), [""] * len(claims))
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(claims) - 0.4, -0.6)
        axis.set_xlabel("difference in points; shaded: what the claim says")
        axis.grid(axis="x")
        axis.grid(axis="y", visible=False)
        axis.spines["left"].set_visible(False)
        note += " Open diamonds: MM1's own difference; open triangles: MM1's is more." * bool(
            claims["paper"].notna().any()
        )
        annotate_head(figure, head, note)
        return save(figure, path)


def _claim(axis: Axes, place: int, row: Mapping[Hashable, Any]) -> None:
    from matplotlib.patches import Rectangle

    margin, (left, right) = row["margin"], axis.get_xlim()
    low, high = {
        "greater": (margin, right),
        "less": (left, -margin),
        "keeps": (-margin, right),
        "equivalent": (-margin, margin),
    }[row["expect"]]
    colour = VERDICT_COLOURS.get(row["verdict"], GREY)
    axis.add_patch(Rectangle((low, place - 0.38), high - low, 0.76, color="#EDEDED", linewidth=0, zorder=0))
    if np.isfinite(row["estimate"]):
        errors = np.nan_to_num([[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]])
        axis.errorbar(row["estimate"], place, xerr=errors, marker="o", color=colour)
    if np.isfinite(row["paper"]):
        marker = "^" if row["paper_bound"] == "above" else "D"
        axis.plot(row["paper"], place, marker=marker, color=DARK, markerfacecolor="white", linestyle="none")
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": False}
    axis.annotate(row["claim"], (-0.01, place), ha="right", va="bottom", **beside)
    axis.annotate(row["detail"], (-0.01, place), ha="right", va="top", color=GREY, fontsize=6, **beside)
    axis.annotate(row["verdict"], (1.01, place), ha="left", va="center", color=colour, fontweight="bold", **beside)
