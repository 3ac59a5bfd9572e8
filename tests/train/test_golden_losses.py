"""The first steps of shipped recipes give the losses that they always gave."""

import golden_losses
import pytest


@pytest.mark.parametrize("argument", golden_losses.RUNS)
def test_a_run_repeats_its_losses(tmp_path, argument):
    found, wanted = golden_losses.run(argument, tmp_path / "run"), golden_losses.golden(argument)
    for row, golden in zip(found["steps"], wanted["steps"], strict=True):
        assert row.keys() == golden.keys()
