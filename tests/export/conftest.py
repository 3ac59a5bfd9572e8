"""The detectors of `export_scene`, made once."""

import pytest


@pytest.fixture(scope="session")
def subjects():
    import export_scene  # late: jaxtyping has to be told of jaxkd before it is imported

    return export_scene.subjects()
