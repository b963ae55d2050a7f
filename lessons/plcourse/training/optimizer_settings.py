"""The settings of optimizers and schedules, which a resumed run can change.

Loading an optimizer restores its learning rate, weight decay and everything else, whatever the config says now; loading
a schedule does the same. So each checkpoint also holds the configured settings of both. Settings that a resumed run
changes are applied after loading; all others stay as they were loaded, bit for bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor
from torch.optim import Optimizer

from plcourse.errors import UserError
from plcourse.training.schedules import PlannedSchedule

_RATE = ("lr", "initial_lr")
_DERIVED = ("_last_lr", "base_lrs")  # follow from the optimizer's rates


class Settings(TypedDict):
    """Settings as plain types: the ``class`` and ``groups`` of each optimizer, and what each schedule was given."""

    optimizers: list[dict[str, Any]]
    schedules: list[dict[str, Any]]


def settings_of(optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> Settings:
    """Returns the settings of optimizers and schedules that have not taken a step yet."""
    return {
        "optimizers": [
            {"class": type(optimizer).__name__, "groups": [_settings(group) for group in optimizer.param_groups]}
            for optimizer in optimizers
        ],
        "schedules": [_schedule_settings(schedule) for schedule in schedules],
    }


def settings_in(checkpoint: Mapping[str, Any]) -> Settings:
    """Returns the settings stored in a checkpoint; if there are none, those in the states of its optimizers."""
    if "configured" in checkpoint:
        return checkpoint["configured"]
    moved = ("lr", "momentum", "betas") if checkpoint.get("lr_schedulers") else ()  # what schedules change
    states = [[_settings(group) for group in state["param_groups"]] for state in checkpoint.get("optimizer_states", [])]
    kept = [[{key: group[key] for key in group if key not in moved} for group in groups] for groups in states]
    return {"optimizers": [{"class": None, "groups": groups} for groups in kept], "schedules": []}


def check_classes(before: Settings, now: Settings) -> None:
    """Raises UserError if an optimizer would have to load the state of another class."""
    for then, here in zip(before["optimizers"], now["optimizers"], strict=False):
        if then["class"] not in (None, here["class"]):
            raise UserError(
                f"the checkpoint was trained with the optimizer {then['class']}, whose state {here['class']} cannot "
                f"load: use {then['class']}, or start a new run"
            )


def apply_changes(before: Settings, now: Settings, optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> None:
    """Applies settings that differ from those of a checkpoint to the optimizers and schedules loaded from it.

    A changed learning rate becomes the peak of the schedule: the rate in use is the same fraction of it as before.
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
        settings.pop("lr", None)  # the schedule has already changed it
    return settings


def _schedule_settings(schedule: Any) -> dict[str, Any]:
    if isinstance(schedule, PlannedSchedule):  # its state contains its plan, and loading it follows the new plan
        return {}
    state = schedule.state_dict()
    plain = {key: _plain(value) for key, value in state.items() if key not in _DERIVED and _is_plain(value)}
    parts = getattr(schedule, "_schedulers", None)
    return {**plain, "_schedulers": [_schedule_settings(part) for part in parts]} if parts else plain


def _set_schedule(schedule: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Sets what has changed; returns whether anything has."""
    changed = [key for key in now if key in before and key != "_schedulers" and before[key] != now[key]]
    for key in changed:
        setattr(schedule, key, now[key])
    olds, news = before.get("_schedulers", ()), now.get("_schedulers", ())
    parts = [_set_schedule(*part) for part in zip(getattr(schedule, "_schedulers", ()), olds, news, strict=False)]
    return bool(changed) or any(parts)


def _set_rate(group: dict[str, Any], number: int, old: Any, new: Any, schedules: Sequence[Any]) -> None:
    fraction = float(group["lr"] / old) if old and schedules else 1.0
    _set_lr(group, new * fraction)
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
    """Gives the optimizer the present rates of a schedule, if the schedule can compute them without a step."""
    planned = isinstance(schedule, PlannedSchedule)
    closed = schedule.get_lr if planned else getattr(schedule, "_get_closed_form_lr", None)
    groups = schedule.optimizer.param_groups
    if closed is not None:
        for group, rate in zip(groups, closed(), strict=True):
            _set_lr(group, rate)
    schedule._last_lr = [group["lr"] for group in groups]


def _set_lr(group: dict[str, Any], rate: float | Tensor) -> None:
    if isinstance(group["lr"], Tensor):  # a captured graph reads the rate from this tensor
        group["lr"].fill_(float(rate))
    else:
        group["lr"] = rate


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return isinstance(value, bool | int | float | str | None) or (isinstance(value, Tensor) and value.numel() == 1)
