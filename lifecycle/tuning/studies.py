"""Optuna studies that can be interrupted: one trial at a time, with pruning, a progress bar, and a resume.

The sampler of each trial has a seed of its own, made from the study's seed and the trial's place. So a study
that was killed and taken up again tries what it would have tried without the interruption.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

StepScores = Callable[[Any], list[float]]


class PageBar(tqdm):
    """A progress bar that a notebook shows in its page, where a bar on the error stream would be lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        from IPython.display import display

        self._handle = display({"text/plain": ""}, raw=True, display_id=True)
        super().__init__(*args, file=io.StringIO(), ncols=100, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Replace what the page shows."""
        self._handle.update({"text/plain": msg or str(self)}, raw=True)


def finished(study: Any) -> list[Any]:
    """Return the trials that ended by themselves, complete or pruned, in the order in which they began."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]


def run_study(
    study: Any,
    objective: Callable[[Any], float],
    trials: int,
    make_sampler: Callable[[int], Any],
    start: Mapping[str, Any],
    bar: tqdm,
    seed: int,
) -> None:
    """Bring a study to `trials` finished trials. Only one process may run a study.

    A trial that was under way when an earlier process died counts as failed, and is tried again.

    Parameters
    ----------
    study
        An `optuna.Study`, new or with trials.
    objective
        Takes an `optuna.Trial`, returns its value, raises `optuna.TrialPruned` to give up.
    make_sampler
        Takes a seed, returns an Optuna sampler.
    start
        The hyperparameters of the first trial.
    """
    import optuna

    for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    done = len(finished(study))
    if done == 0 and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
        study.enqueue_trial(dict(start))
    bar.update(done)
    for place in range(done, trials):
        study.sampler = make_sampler(int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
        trial = study.ask()
        try:
            study.tell(trial, objective(trial))
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        bar.set_postfix_str(f"best average precision {study.best_value:.3f}")
        bar.update()
