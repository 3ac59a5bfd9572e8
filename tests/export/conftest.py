"""The detectors of `export_scene`, made once."""

import export_scene
import pytest


@pytest.fixture(scope="session")
def subjects():
    return export_scene.subjects()
