"""The race as a picture: a bar for each contender with the spread of its rounds."""

# mypy: disable-error-code="import-not-found"

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from bench.race.report import Standing

COLOURS = {"peer": "#8a9bb0", "half": "#c9d2dd", "ours": "#d9622b", "floor": "#404040"}
LABELS = {"peer": "peers", "half": "peers, decoding at half the size", "ours": "Sluice", "floor": "decoding alone"}


def plot(path: Path, standings: Sequence[Standing], told: dict[str, str]) -> None:
    """Medians as bars on a logarithmic axis, least and most as whiskers, the rate beside them; failures are named."""
    matplotlib.use("Agg")
    ordered = sorted(standings, key=lambda one: one.rate)
    figure = Figure(figsize=(9, 1.6 + 0.34 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    least = min((one.rate for one in ordered if one.rates), default=1.0) / 2
    for place, one in enumerate(ordered):
        if not one.rates:
            axes.text(least * 1.05, place, "failed", va="center", color="firebrick", fontsize=9)
            continue
        spread = [[one.rate - min(one.rates)], [max(one.rates) - one.rate]]
        axes.barh(place, one.rate - least, left=least, xerr=spread, color=COLOURS[one.contender.kind], ecolor="#222222")
        axes.text(max(one.rates) * 1.06, place, f"{one.rate:,.0f}", va="center", fontsize=9)
    axes.set_yticks(range(len(ordered)), [one.contender.name for one in ordered])
    axes.set_xscale("log")
    axes.set_xlim(least, 3 * max((max(one.rates) for one in ordered if one.rates), default=2.0))
    axes.set_xlabel("samples a second (logarithmic), median, least and most of the rounds")
    axes.set_title(f"{told['Data']}\n{told['Machine']}, {told['Date']}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [matplotlib.patches.Patch(color=COLOURS[kind], label=LABELS[kind]) for kind in COLOURS]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)
