"""The first steps of shipped recipes give the losses that they always gave."""

import golden_losses
import numpy as np
import pytest


@pytest.mark.parametrize("argument", golden_losses.RUNS)
def test_a_run_repeats_its_losses(tmp_path, argument):
    found, wanted = golden_losses.run(argument, tmp_path / "run"), golden_losses.golden(argument)
    for step, (row, golden) in enumerate(zip(found["steps"], wanted["steps"], strict=True), start=1):
        assert row.keys() == golden.keys()
