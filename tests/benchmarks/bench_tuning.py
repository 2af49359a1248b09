"""Tuning: the seconds of the stage, and Optuna against random search at the same number of fits."""

from __future__ import annotations

from typing import Any


def run() -> list[dict[str, Any]]:
    """Read what the stage measured on the default world, in five seeds."""
    from lifecycle import pipeline

    tuned = pipeline.artifact("tuning")
    replays = tuned.frame("replays")
    wide = replays.pivot(index="seed", columns="method", values="value").iloc[:5]
    wins = int((wide["optuna"] > wide["random"]).sum())
    ours, peer = float(wide["optuna"].mean()), float(wide["random"].mean())
    seconds = tuned.json("best")["search_seconds"]
    return [
        {"name": "tuning.search", "what": "the study: 20 trials on four time-ordered folds",
         "ours": seconds, "peer": None, "unit": "s", "ratio": None, "goal": "at most 60 s", "met": seconds <= 60},
        {"name": "tuning.equal_budget", "what": f"best of Optuna and of random search at equal fits: {wins} of 5 won",
         "ours": ours, "peer": peer, "unit": "average precision", "ratio": ours / peer,
         "goal": "better in 4 of 5 seeds", "met": wins >= 4},
    ]  # fmt: skip
