"""Progress elsewhere than on a terminal is a line now and then; the exit code of an error follows from its class."""

from __future__ import annotations

import pytest

from cli.exit_codes import code_of
from cli.progress import Display, words
from kube_cache import errors
from kube_cache.contracts.node import ExitCode
from kube_cache.dataset.transfer import FetchProgress
from kube_cache.errors import KubeCacheError


def test_words_say_how_far_and_how_long() -> None:
    assert words(FetchProgress(30 << 20, 60 << 20, 10 << 20)) == "50 % of 60.0 MiB, 10.0 MiB/s, done in 3.0s"
    assert words(FetchProgress(0, 60 << 20, 0)) == "0 % of 60.0 MiB, 0 B/s"
    assert words(FetchProgress(0, 0, 0)) == "0 % of 0 B, 0 B/s"


def test_a_pipe_gets_a_line_when_it_is_due(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("s3://models/gpt", every_s=0) as display:
        display.listed(1000)
        display.fetched(FetchProgress(1, 2, 0))
    with Display("s3://models/gpt", every_s=3600) as display:
        display.fetched(FetchProgress(1, 2, 0))
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "kube-cache: s3://models/gpt: listing: 1000 objects",
        "kube-cache: s3://models/gpt: 50 % of 2 B, 0 B/s",
    ]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.UnsafeKey, ExitCode.USAGE),
        (errors.AccessDenied, ExitCode.REFUSED),
        (errors.NodeUnsuitable, ExitCode.REFUSED),
        (errors.ChecksumMismatch, ExitCode.DAMAGED),
        (errors.DatasetNotFound, ExitCode.ABSENT),
        (errors.TransferStalled, ExitCode.UNREACHABLE),
        (errors.InsufficientDisk, ExitCode.NO_ROOM),
        (errors.PersistentDiskFault, ExitCode.FAILED),
        (errors.KubeCacheError, ExitCode.FAILED),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(int(value)),
)
def test_an_errors_class_decides_the_exit_code(kind: type[KubeCacheError], code: ExitCode) -> None:
    assert code_of(kind("why")) == code
