"""What a sweep prints at its end: its trials, the importance of the settings, the best trial."""

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from config.reading import DEFAULT
from experiments.search_space import describe_values, to_overrides
from experiments.study import ERROR, SweepStudy
from experiments.sweep_plan import SweepPlan
from logger.console import format_number, format_table
from utils.command import next_command

MIN_TRIALS_FOR_IMPORTANCES = 10
STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "eliminated",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def describe_sweep(plan: SweepPlan, study: SweepStudy) -> str:
    """The table of all trials, the failures, the importances and the best trial."""
    parts = [trial_table(plan, study)]
    failures = describe_failures(study)
    if failures:
        parts.append(f"failed trials:\n{failures}")
    parts.append(describe_importances(study))
    best = study.best_trial()
    if best is not None:
        index, value = best
        metric = study.objective.metric
        text = f"best: trial {index:04d}, {metric} {format_number(value)}; repeat it:"
        parts.append(f"{text}\n{repeat_command(plan, study, index)}")
    return "\n\n".join(part for part in parts if part)


def trial_table(plan: SweepPlan, study: SweepStudy) -> str:
    """The trials, the best first."""
    settings = list(plan.space.ranges)
    rows = [["trial", *settings, study.objective.metric, "state"]]
    trials = sorted(study.trials().items(), key=lambda item: _rank(study, item[1]))
    for index, trial in trials:
        cells = [f"{index:04d}"]
        for key in settings:
            cells.append(_format(trial.params.get(key, "")))
        value = ""
        if trial.value is not None:
            value = format_number(trial.value)
        rows.append([*cells, value, STATES[trial.state]])
    return format_table(rows)


def _rank(study: SweepStudy, trial: FrozenTrial) -> tuple[bool, bool, float]:
    """Complete trials first, the best of them first of all."""
    if trial.value is None:
        return True, True, 0.0
    cost = trial.value
    if study.objective.higher_is_better:
        cost = -cost
    return trial.state != TrialState.COMPLETE, False, cost


def _format(value: object) -> str:
    if isinstance(value, float):
        return format_number(value)
    return str(value)


def describe_failures(study: SweepStudy) -> str:
    """The failed trials with their errors, one in a line."""
    lines = []
    for index, trial in study.failed_trials().items():
        values = describe_values(trial.params)
        lines.append(f"{index:04d}  {values}: {trial.user_attrs[ERROR]}")
    return "\n".join(lines)


def describe_importances(study: SweepStudy) -> str:
    """How much each setting matters for being among the best trials; empty with one setting."""
    complete = study.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(study.plan.space.ranges) < 2:
        return ""
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCES:
        return f"importances: at least {MIN_TRIALS_FOR_IMPORTANCES} complete trials are needed"
    importances = optuna.importance.get_param_importances(study.study)
    cells = [f"{key} {importance:.2f}" for key, importance in importances.items()]
    return f"importances (PED-ANOVA): {', '.join(cells)}"


def repeat_command(plan: SweepPlan, study: SweepStudy, index: int) -> str:
    """The command that trains the first run of a trial again."""
    options: list[str | Path] = []
    if plan.config != DEFAULT:
        options += ["--config", plan.config]
    values = {**plan.space.fixed, **study.values_of(index), **plan.space.repeated_settings()[0]}
    return next_command("train.py", *options, *to_overrides(values))
