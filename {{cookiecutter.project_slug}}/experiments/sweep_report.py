"""What a sweep prints at its end: its trials, the importance of the settings, the best trial."""

from pathlib import Path

import optuna
from optuna.trial import TrialState

from experiments.comparison import compare_runs
from experiments.console_report import format_comparison
from experiments.runs import find_runs, run_folders
from experiments.search_space import describe_values, to_overrides
from experiments.study import ERROR, SweepStudy
from experiments.sweep_plan import SweepPlan
from logger.console import format_number
from utils.command import next_command

MIN_TRIALS_FOR_IMPORTANCES = 10


def describe_sweep(plan: SweepPlan, study: SweepStudy) -> str:
    """The table of all runs, the failed trials, the importances and the best trial."""
    parts = [compare_trials(plan, study)]
    failures = describe_failures(study)
    if failures:
        parts.append(f"failed trials:\n{failures}")
    parts.append(describe_importances(study))
    best = study.best_trial()
    if best is not None:
        index, value = best
        result = f"{study.objective.metric} {format_number(value)}"
        command = repeat_command(plan, study, index)
        parts.append(f"best: trial {index:04d}, {result}; repeat it:\n{command}")
    return "\n\n".join(part for part in parts if part)


def compare_trials(plan: SweepPlan, study: SweepStudy) -> str:
    """The table of compare.py with all runs of the sweep; empty if no trial has a result.

    With a database, all runs may be on other machines: then there is no table.
    """
    if study.best_trial() is None:
        return ""
    if not has_run(plan.folder):
        return describe_missing_runs(plan, study)
    mode = "min"
    if study.objective.higher_is_better:
        mode = "max"
    comparison = compare_runs(
        find_runs([plan.folder]), metric_name=study.objective.metric, mode=mode
    )
    comparison.sort_by_value()
    table = format_comparison(comparison)
    missing = describe_missing_runs(plan, study)
    if not missing:
        return table
    return f"{table}\n{missing}"


def describe_missing_runs(plan: SweepPlan, study: SweepStudy) -> str:
    """A line about the trials without a run in this folder; empty if there are none."""
    missing = 0
    for index, trial in study.trials().items():
        has_trained = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if has_trained and not has_run(plan.trial_folder(index)):
            missing += 1
    if missing == 0:
        return ""
    return (
        f"Trials without a run in {plan.folder}: {missing}. They have run on other machines, "
        "which have their own table."
    )


def has_run(folder: Path) -> bool:
    """Whether there is a run at or below a folder, which may not exist."""
    return next(run_folders(folder), None) is not None


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
    values = {**plan.space.fixed, **study.values_of(index), **plan.space.repeated_settings()[0]}
    return next_command(
        "train.py",
        "--config",
        plan.trial_settings_file,
        *to_overrides(values),
        processes=plan.options.processes,
    )
