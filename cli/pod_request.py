"""`kube-cache retry|cancel|pause|resume|priority`: write the annotation that asks the operator for it."""

from __future__ import annotations

from collections.abc import Callable

from cli.cluster import complain, parse_pod, print_json
from kube_cache import names
from kube_cache.contracts.node import ExitCode
from kube_cache.kube.client import ApiError, KubeClient
from kube_cache.kube.user_annotations import NoSuchPod, NotGated, write_annotation
from kube_cache.units import parse_priority
from workflows.warm_pod.options import next_action


def act(verb: str, pod: str, *, as_json: bool) -> int:
    """Ask for an action. An annotation acts when it changes, so a second retry is written `retry-2`."""
    return _write(pod, names.ACTION_ANNOTATION, lambda present: next_action(verb, present), as_json=as_json)


def set_priority(pod: str, priority: str, *, as_json: bool) -> int:
    """Raises InvalidRequest for what is no priority."""
    value = str(parse_priority(priority, name="the priority"))
    return _write(pod, names.PRIORITY_ANNOTATION, lambda _: value, as_json=as_json)


def _write(pod: str, annotation: str, choose: Callable[[str], str], *, as_json: bool) -> int:
    namespace, name = parse_pod(pod)
    try:
        value = write_annotation(KubeClient.from_environment(), namespace, name, annotation, choose)
    except NoSuchPod as error:
        complain(error.message)
        return ExitCode.ABSENT
    except NotGated as error:
        complain(error.message)
        return ExitCode.REFUSED
    except ApiError as error:
        complain(error.message)
        return ExitCode.UNREACHABLE if error.status == 0 else ExitCode.FAILED
    if as_json:
        print_json({"pod": pod, "annotation": annotation, "value": value})
    else:
        print(f"asked: {annotation}={value} is on Pod {pod}; `kube-cache why {pod}` tells what becomes of it")
    return ExitCode.DONE
