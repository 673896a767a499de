"""Builds the image of `deploy/image/Dockerfile` without Docker: `make image`, or `build()` from tests."""

from tools.image.build import Image, build
from tools.image.chroot import CannotBuild, CannotBuildHere

__all__ = ["CannotBuild", "CannotBuildHere", "Image", "build"]
