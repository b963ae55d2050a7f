"""A small curriculum."""

from typing import Any

from support import digits_config


def curriculum_config(**changes: Any) -> dict[str, Any]:
    """Digits with dropout, easy first; ``ramp`` 0.8 so that kills fall into the time in which the share grows."""
    loop = {
        "class_path": "CurriculumLoop",
        "init_args": {
            "order": "easy_first",
            "scorer": {"class_path": "ClassifierMargin"},
            "pacing": {"class_path": "PacingFunction", "init_args": {"start": 0.2, "ramp": 0.8}},
        },
    }
    own = {"model__class_path": "CurriculumClassifier", "data__class_path": "CurriculumData", "trainer__fit_loop": loop}
    config = digits_config(**{**own, **changes})
    config["trainer"]["callbacks"].append({"class_path": "CurriculumReport", "init_args": {"plots": False}})
    return config
