"""What optimizers and schedules were configured with, so that a resumed run can be given other settings.

Loading an optimizer brings its rate, weight decay and all else back, whatever the config says now; a schedule does the
same with its own settings. So each checkpoint also holds what both were configured with. What a resume configures
otherwise is put in after loading; what it configures alike stays as it was loaded, to the last bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from plcourse.errors import UserError
from plcourse.training.schedules import PlannedSchedule

_RATE = ("lr", "initial_lr")
_DERIVED = ("_last_lr", "base_lrs")  # follow from the optimizer's rates


def configured(optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> dict[str, Any]:
    """The settings of optimizers and schedules that no step has been taken with yet, as plain types.

    Returns:
        `optimizers`: for each its `class` and its `groups`; `schedules`: the settings of each.
    """
    return {
        "optimizers": [
            {"class": type(optimizer).__name__, "groups": [_settings(group) for group in optimizer.param_groups]}
            for optimizer in optimizers
        ],
        "schedules": [_schedule_settings(schedule) for schedule in schedules],
    }


def configured_before(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint was configured with; of one that does not say it, what its optimizers hold."""
    if "configured" in checkpoint:
        return checkpoint["configured"]
    moved = ("lr", "momentum", "betas") if checkpoint.get("lr_schedulers") else ()  # what schedules change
    return {
        "optimizers": [
            {
                "class": None,
                "groups": [
                    {key: value for key, value in _settings(group).items() if key not in moved}
                    for group in state["param_groups"]
                ],
            }
            for state in checkpoint.get("optimizer_states", [])
        ],
        "schedules": [],
    }


def check_classes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses the state of an optimizer of another class.

    Raises:
        UserError: with both classes.
    """
    for then, here in zip(before["optimizers"], now["optimizers"], strict=False):
        if then["class"] not in (None, here["class"]):
            raise UserError(
                f"the checkpoint was trained with the optimizer {then['class']}, and {here['class']} is asked for, "
                f"which cannot take over its state: restore {then['class']}, or start a new run"
            )


def apply_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], optimizers: Sequence[Optimizer], schedules: Sequence[Any]
) -> None:
    """Puts the settings that were configured otherwise into optimizers and schedules that were loaded.

    A changed rate becomes the peak of the schedule: the rate in use is the schedule's present share of it.

    Args:
        before: what the checkpoint was configured with.
        now: what this run is configured with.
        optimizers: as loaded from the checkpoint.
        schedules: as loaded from the checkpoint.
    """
    for schedule, then, here in zip(schedules, before["schedules"], now["schedules"], strict=False):
        if _set_schedule(schedule, then, here):
            _follow(schedule)
    for optimizer, then, here in zip(optimizers, before["optimizers"], now["optimizers"], strict=False):
        own = [schedule for schedule in schedules if getattr(schedule, "optimizer", None) is optimizer]
        for number, (old, new) in enumerate(zip(then["groups"], here["groups"], strict=False)):
            group = optimizer.param_groups[number]
            group.update({key: new[key] for key in new if key not in _RATE and key in old and old[key] != new[key]})
            rates = [settings.get("initial_lr", settings.get("lr")) for settings in (old, new)]
            if None not in rates and rates[0] != rates[1]:
                _set_rate(group, number, rates[0], rates[1], own)


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: _plain(value) for key, value in group.items() if key != "params" and _is_plain(value)}
    if "initial_lr" in settings:
        settings.pop("lr", None)  # which the schedule has changed already
    return settings


def _schedule_settings(schedule: Any) -> dict[str, Any]:
    if isinstance(schedule, PlannedSchedule):  # it has the plan in its state and follows the new one when it is loaded
        return {}
    state = schedule.state_dict()
    plain = {key: _plain(value) for key, value in state.items() if key not in _DERIVED and _is_plain(value)}
    parts = getattr(schedule, "_schedulers", None)
    return {**plain, "_schedulers": [_schedule_settings(part) for part in parts]} if parts else plain


def _set_schedule(schedule: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether anything was to be set."""
    changed = [key for key in now if key in before and key != "_schedulers" and before[key] != now[key]]
    for key in changed:
        setattr(schedule, key, now[key])
    olds, news = before.get("_schedulers", ()), now.get("_schedulers", ())
    parts = [_set_schedule(*part) for part in zip(getattr(schedule, "_schedulers", ()), olds, news, strict=False)]
    return bool(changed) or any(parts)


def _set_rate(group: dict[str, Any], number: int, old: Any, new: Any, schedules: Sequence[Any]) -> None:
    share = float(group["lr"] / old) if old and schedules else 1.0
    _set_lr(group, new * share)
    if "initial_lr" in group:
        group["initial_lr"] = new
    for schedule in schedules:
        _set_peak(schedule, number, new)
        _follow(schedule)


def _set_peak(schedule: Any, number: int, rate: Any) -> None:
    if hasattr(schedule, "base_lrs"):
        schedule.base_lrs[number] = rate
    for part in getattr(schedule, "_schedulers", ()):
        _set_peak(part, number, rate)


def _follow(schedule: Any) -> None:
    """Gives the optimizer the rates that a schedule has now, where it can say them without a step."""
    planned = isinstance(schedule, PlannedSchedule)
    closed = schedule.get_lr if planned else getattr(schedule, "_get_closed_form_lr", None)
    groups = schedule.optimizer.param_groups
    if closed is not None:
        for group, rate in zip(groups, closed(), strict=True):
            _set_lr(group, rate)
    schedule._last_lr = [group["lr"] for group in groups]


def _set_lr(group: dict[str, Any], rate: float | Tensor) -> None:
    if isinstance(group["lr"], Tensor):  # which a captured graph reads where it is
        group["lr"].fill_(float(rate))
    else:
        group["lr"] = rate


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return (
        value is None
        or isinstance(value, bool | int | float | str)
        or (isinstance(value, Tensor) and value.numel() == 1)
    )
