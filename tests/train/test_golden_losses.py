"""The first steps of shipped recipes have the losses that they had when these were recorded."""

import golden_losses
import numpy as np
import pytest

STEPS = 20  # compared; rounding grows with each step
TOLERANCE = 2e-2  # relative to the greatest value of a term; measured in the docstring of the test


@pytest.mark.parametrize("argument", golden_losses.RUNS)
def test_a_run_repeats_its_losses(tmp_path, argument):
    """Every term of every step, by the tolerance of another compiler."""
    result, recorded = golden_losses.run(argument, tmp_path / "run"), golden_losses.golden(argument)
    assert len(result["steps"]) == len(recorded["steps"]) == golden_losses.STEPS
    for step, (row, wanted) in enumerate(zip(result["steps"], recorded["steps"], strict=True), start=1):
        assert row.keys() == wanted.keys(), step
    for name in recorded["steps"][0]:
        series, wanted = (np.array([row[name] for row in rows["steps"][:STEPS]]) for rows in (result, recorded))
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(series, wanted, rtol=0, atol=TOLERANCE * scale, err_msg=f"{argument}: {name}")
