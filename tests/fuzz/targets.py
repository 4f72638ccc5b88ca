"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import file_targets, folder_targets, kernel_targets, planted, reading_targets, writing_targets
from tests.fuzz.target import Target

_MODULES = (kernel_targets, reading_targets, writing_targets, file_targets, folder_targets, planted)
TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}
