"""The first steps of shipped recipes have the losses that they had when these were recorded.

Bits are the same on one machine alone. Elsewhere sums are added up in another order, and the differences grow: with as
many threads as four devices have they were at most 2e-6 of a term's greatest value until step 10 of `bccd:tar`, and
after it other proposals were sampled, of which a term of few regions changes wholly.
"""

import golden_losses
import numpy as np
import pytest

ALIKE, TOLERANCE = 8, 1e-3  # steps in which each term is compared, and by how much of its greatest value it may differ
STEPS, LOSS_TOLERANCE = 20, 0.2  # steps in which the loss is compared, and its share by which it may differ


@pytest.mark.parametrize("argument", golden_losses.RUNS)
def test_a_run_repeats_its_losses(tmp_path, argument):
    rows, recorded = (
        result["steps"] for result in (golden_losses.run(argument, tmp_path / "run"), golden_losses.golden(argument))
    )
    assert [row.keys() for row in rows] == [row.keys() for row in recorded]
    for name in recorded[0]:
        values, wanted = (np.array([row[name] for row in series[:ALIKE]]) for series in (rows, recorded))
        atol = TOLERANCE * np.abs(wanted).max()
        np.testing.assert_allclose(values, wanted, rtol=0, atol=atol, err_msg=f"{argument}: {name}")
    losses, wanted = (np.array([row["loss"] for row in series[:STEPS]]) for series in (rows, recorded))
    np.testing.assert_allclose(losses, wanted, rtol=LOSS_TOLERANCE, err_msg=f"{argument}: loss")
