"""What the loop over steps says on the way."""

from types import SimpleNamespace

import tiny

from jaxkd.train.training import Training


def test_how_unlike_the_parts_of_a_batch_count_is_said_once():
    said = []
    log = SimpleNamespace(report=lambda *_, **__: None, say=said.append)
    run = SimpleNamespace(log=log, config=SimpleNamespace(accumulate=4), recipe=tiny.run(), spread_said=False)
    clock = SimpleNamespace(lap=lambda steps: (0.0, 0.1 * steps))
    row = {"loss": 1.0, "skipped_steps": 0.0, "skipped_in_a_row": 0.0}
    Training._report(run, 1, [row], clock)
    assert said == []
    for done, spread in ((2, 0.25), (3, 0.5)):
        Training._report(run, done, [row | {"count_spread": spread}], clock)
    assert len(said) == 1 and "in 4 parts (train.accumulate)" in said[0] and "by up to 25%" in said[0]
