"""The image, built once a session, and unpacked."""

from __future__ import annotations

import pytest

from tests.image.unpacked import Unpacked
from tools import image


@pytest.fixture(scope="session")
def built() -> image.Image:
    try:
        return image.build()
    except image.CannotBuildHere as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def unpacked(built: image.Image, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return Unpacked(built.archive, tmp_path_factory.mktemp("image"))
