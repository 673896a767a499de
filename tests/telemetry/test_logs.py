"""Every line of a process has one form and no secret in it, whoever writes it, in JSON and on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kube_cache.telemetry.logs import renderer

ROOT = Path(__file__).parents[2]
SECRET = "hunter2/Zx9+kT4wW7eYxQ1"
QUERY = "X-Amz-Credential=hunter2AKIA&X-Amz-Security-Token=hunter2token&X-Amz-Signature=hunter2sig"

# Feeds credentials to everything that can end up on standard error.
PATHS = f"""
import asyncio, gc, logging, sys, threading, warnings
import structlog
from structlog.contextvars import bind_contextvars
from kube_cache.telemetry import redaction
from kube_cache.telemetry.logs import configure_logging

SECRET, URL = {SECRET!r}, "https://user:hunter2@b.s3.amazonaws.com/k?{QUERY}"
configure_logging("DEBUG", sys.argv[1], node="gpu-1")
redaction.hide(SECRET)
log = structlog.get_logger("test")
log.info(f"the event holds {{SECRET}}")
log.info(URL)
log.info("a %s argument", SECRET)
log.info("a field", uri=URL, value=SECRET, authorization="Basic hunter2")
log.info("a field's name", **{{SECRET: 1, URL: 2}})
log.info("deep", headers={{"Authorization": "Bearer hunter2", "list": [("x-amz-security-token", "hunter2")]}}, raw=b"x-amz-security-token: hunter2")

class Shown:
    def __repr__(self): return f"Shown({{SECRET}})"
class Broken:
    def __repr__(self): raise RuntimeError(SECRET)
log.info("an object", it=Shown())
log.info("a broken one", it=Broken())
circle = []; circle.append(circle); log.info("circle", it=circle, secret="hunter2")

def fail():
    try:
        raise ConnectionError(f"GET {{URL}}")
    except ConnectionError as error:
        raise RuntimeError(f"with {{SECRET}}") from error
try:
    fail()
except RuntimeError:
    log.exception("a chain")
    log.warning("a stack", stack_info=True, url=URL)
    logging.getLogger("foreign").exception("a chain")

bind_contextvars(dataset=URL, note=SECRET, trace_id="0af7651916cd43dd8448eb211c80319c")
log.info("bound")
for name in ("botocore.endpoint", "temporalio.worker", "urllib3.connectionpool", "kubernetes"):
    foreign = logging.getLogger(name)
    foreign.error("%s %s", URL, {{"Authorization": "AWS4-HMAC-SHA256 Credential=hunter2/x, Signature=hunter2"}})
    foreign.error("extra", extra={{"url": URL, "api_key": "hunter2"}})
logging.getLogger("foreign").error("a %d that is none", SECRET)
warnings.warn(f"careful with {{SECRET}} and {{URL}}")
thread = threading.Thread(target=fail, name="failing"); thread.start(); thread.join()
class Leaves:
    def __del__(self): raise RuntimeError(SECRET)
Leaves(); gc.collect()
async def forgotten():
    task = asyncio.create_task(later()); await asyncio.sleep(0.01); del task; gc.collect()
async def later(): fail()
asyncio.run(forgotten())
fail()
"""
LINES = 27  # one for each path above


def run(form: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PATHS, form], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def in_json() -> list[dict[str, Any]]:
    ended = run("json")
    assert ended.returncode == 1, "the last exception ends it"
    assert not ended.stdout
    assert "hunter2" not in ended.stderr
    assert SECRET[-8:] not in ended.stderr
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_no_path_shows_a_secret_in_json(in_json: list[dict[str, Any]]) -> None:
    """The fixture looks at every byte; here, that each path was taken."""
    events = " ".join(line["event"] for line in in_json)
    for path in (
        "the event holds ***", "a *** argument", "a field", "deep", "an object", "circle", "a chain", "a stack",
        "bound", "extra", "careful with ***", "an exception ends a thread", "an exception was ignored",
        "Task exception was never retrieved", "an exception ends the process",
    ):  # fmt: skip
        assert path in events
    assert len(in_json) >= LINES


def test_no_path_shows_a_secret_on_a_console() -> None:
    ended = run("console")
    assert "hunter2" not in ended.stderr
    assert SECRET[-8:] not in ended.stderr
    assert ended.stderr.count("***") >= LINES


def test_a_line_has_what_a_search_needs(in_json: list[dict[str, Any]]) -> None:
    first = in_json[0]
    assert list(first)[:3] == ["timestamp", "level", "event"]
    assert first["logger"] == "test"
    assert all(line["node"] == "gpu-1" for line in in_json if "could not be written" not in line["event"])


def test_what_is_bound_appears_on_every_later_line(in_json: list[dict[str, Any]]) -> None:
    bound = [line for line in in_json if line.get("trace_id") == "0af7651916cd43dd8448eb211c80319c"]
    loggers = {line["logger"] for line in bound}
    assert {"test", "botocore.endpoint", "temporalio.worker", "urllib3.connectionpool"} <= loggers


def test_a_traceback_is_kept_with_its_cause(in_json: list[dict[str, Any]]) -> None:
    (ours, foreign) = [line for line in in_json if line["event"] == "a chain"]
    for line in (ours, foreign):
        assert "ConnectionError: GET https://***@b.s3.amazonaws.com/k?" in line["exception"]
        assert "RuntimeError: with ***" in line["exception"]


def test_a_line_that_cannot_be_written_says_where_it_was_and_not_what(in_json: list[dict[str, Any]]) -> None:
    broken, foreign = (line for line in in_json if "could not be written" in line["event"])
    assert broken["event"].endswith("RuntimeError")
    assert foreign["logger"] == "foreign"
    assert ":" in foreign["where"]


@pytest.mark.parametrize(("form", "on_terminal", "is_json"), [
    pytest.param("auto", True, False, id="auto on a terminal"),
    pytest.param("auto", False, True, id="auto elsewhere"),
    pytest.param("json", True, True, id="json"),
    pytest.param("console", False, False, id="console"),
])  # fmt: skip
def test_people_at_a_terminal_read_no_json(form: str, on_terminal: bool, is_json: bool) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    line = renderer(form, Stream())(None, "info", {"event": "it happened", "level": "info"})
    assert line.startswith("{") is is_json
    assert ("\x1b[" in line) is (on_terminal and not is_json)


def test_a_real_terminal_gets_console_lines() -> None:
    code = (
        "from kube_cache.telemetry.logs import configure_logging; import structlog;"
        "configure_logging('INFO', 'auto'); structlog.get_logger().info('seen', password='hunter2')"
    )
    main, side = pty.openpty()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=side, timeout=60, check=True)
    os.close(side)
    shown = os.read(main, 4096).decode()
    os.close(main)
    assert "seen" in shown
    assert not shown.startswith("{")
    assert "hunter2" not in shown


def test_a_workflows_id_names_its_pod_or_node() -> None:
    render = renderer("json", io.StringIO())
    of_pod = json.loads(render(None, "info", {"event": "x", "workflow": "warm/default/gpt/uid"}))
    of_dataset = json.loads(render(None, "info", {"event": "x", "workflow": f"dataset/gpu-1/disk/{'a' * 64}"}))
    other = json.loads(render(None, "info", {"event": "x", "workflow": "reconcile"}))
    assert of_pod["pod"] == "default/gpt"
    assert of_dataset["node"] == "gpu-1"
    assert other == {"event": "x", "workflow": "reconcile"}


def test_a_line_below_the_level_computes_nothing() -> None:
    code = (
        "from kube_cache.telemetry.logs import configure_logging; import structlog, logging;"
        "configure_logging('WARNING', 'json'); log = structlog.get_logger('x');"
        "calls = []; structlog.get_config()['processors'].insert(0, lambda *a: calls.append(a) or a[2]);"
        "log.info('no'); assert not calls; log.warning('yes'); assert len(calls) == 1"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == ["yes"]
