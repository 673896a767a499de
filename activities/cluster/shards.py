"""The shards of a reconcile: which nodes a run visits, how its messages stay small, and whose pins a node may lose.

Pure functions of a survey. A shard is some dozens of nodes by the hash of their names, so that operators whose surveys
differ leave no node out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import blake2b
from zlib import crc32

from activities.cluster.survey import Survey, skip
from kube_cache import names
from kube_cache.contracts.common import Consumer
from kube_cache.contracts.reconcile import NodePlan, SettleInput, ShardInput, ShardPlan, SurveyRef

_SHARD_NODES = 64
# Bytes of a shard's plan as JSON, on the average and at most: Temporal takes 2 MB as one payload and 4 MB as one
# message, and the plan travels twice, as the answer of `plan_shard` and in the commands that follow.
_SHARD_BYTES, _MAX_SHARD_BYTES = 400_000, 1_200_000
# Of one node. The digests of receipts beyond are not sent, those of the longest receipts first: only a forged receipt
# names thousands.
_MAX_RECEIPT_BYTES = 128_000
_MAX_ENTITIES = 1_000
_UID_BYTES, _DIGEST_BYTES, _ENTITY_BYTES, _NODE_BYTES = 40, 68, 140, 200
# Nodes that one run visits: those that are used, and those on which nothing of ours is known, where a pin may have
# outlived its entity. A visit costs Temporal and the operator some 13 ms of CPU, and a run is to take less than a
# minute. At 5,000 of each and the default interval a used one is visited every 20 minutes, another every 50.
_USED_NODES, _IDLE_NODES = 1500, 500


def visited_nodes(survey: Survey, turn: int) -> set[str]:
    """Nodes that need a visit in each run, and of the others those whose turn it is.

    In each run: a deleted node that has an entity, one where a repair has failed, and one whose agent has asked. When
    all agents ask, as after an upgrade that has them rebuild their index, they have their turns, too.
    """
    used = survey.nodes.difference(idle := {node for node in survey.nodes if _is_idle(survey, node)})
    gone = survey.entities.keys() - survey.nodes
    asked = in_turn(survey.asked, turn, _USED_NODES)
    return {*gone, *survey.failed, *asked, *in_turn(used, turn, _USED_NODES), *in_turn(idle, turn, _IDLE_NODES)}


def _is_idle(survey: Survey, node: str) -> bool:
    """Whether the node has no entity, no Pod with a dataset, and none that is placed there."""
    pods = survey.pods
    return not any(node in known for known in (survey.entities, pods.receipts, pods.at, survey.placed))


def in_turn(things: Iterable[str], turn: int, at_once: int) -> list[str]:
    """Return about `at_once` of the things, in such a way that each has its turn."""
    listed = list(things)
    turns = max(1, math.ceil(len(listed) / at_once))
    return [thing for thing in listed if crc32(thing.encode()) % turns == turn % turns]


def count_shards(survey: Survey, ref: SurveyRef) -> int:
    nodes = visited_nodes(survey, ref.turn)
    weight = sum(_weight(survey, node) for node in nodes)
    return max(1, math.ceil(len(nodes) / _SHARD_NODES), math.ceil(weight / _SHARD_BYTES))


def plan(survey: Survey, arg: ShardInput) -> ShardPlan:
    """Plan the nodes of one shard. Nodes that would make the message too long are left out, other ones each turn."""
    turn = arg.survey.turn
    if len(survey.shards) != arg.shards:
        survey.shards = [[] for _ in range(arg.shards)]
        for node in visited_nodes(survey, turn):
            survey.shards[_hash(turn, node) % arg.shards].append(node)
    mine = survey.shards[arg.shard]
    nodes: list[NodePlan] = []
    left, skipped = _MAX_SHARD_BYTES, 0
    for node in sorted(mine, key=lambda node: _hash(turn + 1, node)):
        left -= _weight(survey, node)
        if left < 0:
            skip("node", node, "the plan of its shard is too long")
            skipped += 1
            continue
        planned, cut = _plan_node(survey, node)
        nodes.append(planned)
        skipped += cut
    return ShardPlan(nodes, skipped)


def _plan_node(survey: Survey, node: str) -> tuple[NodePlan, int]:
    entities = survey.entities.get(node, [])
    skipped = max(0, len(entities) - _MAX_ENTITIES)
    if skipped:
        skip("entity", node, f"{skipped} of its entities are more than one message holds")
    asked = node in survey.asked
    if node not in survey.nodes:
        return NodePlan(node, exists=False, entities=entities[:_MAX_ENTITIES], asked=asked), skipped
    released = survey.pods.receipts.get(node, {})
    receipts: dict[str, list[str]] = {}
    left = _MAX_RECEIPT_BYTES
    for uid in sorted(released, key=lambda uid: len(released[uid])):
        left -= _UID_BYTES + _DIGEST_BYTES * len(released[uid])
        if left < 0:
            skip("pod", uid, f"its receipt names {len(released[uid])} snapshots: more than one message holds")
            skipped += 1
            continue
        receipts[uid] = list(released[uid])
    placed = (uid for uid in survey.placed.get(node, []) if survey.pods.may_use(uid, node))
    living = {*survey.pods.at.get(node, []), *released, *placed}
    idle = _is_idle(survey, node)
    planned = NodePlan(node, True, sorted(living), receipts, entities[:_MAX_ENTITIES], idle, asked)
    return planned, skipped


def _weight(survey: Survey, node: str) -> int:
    """Bytes of the node's plan, roughly."""
    receipts = survey.pods.receipts.get(node, {})
    of_receipts = sum(2 * _UID_BYTES + _DIGEST_BYTES * len(digests) for digests in receipts.values())
    uids = len(survey.pods.at.get(node, [])) + len(survey.placed.get(node, []))
    entities = min(_MAX_ENTITIES, len(survey.entities.get(node, [])))
    return _NODE_BYTES + _UID_BYTES * uids + min(of_receipts, _MAX_RECEIPT_BYTES) + _ENTITY_BYTES * entities


def _hash(turn: int, node: str) -> int:
    """Not CRC: of the nodes that `in_turn` chose by theirs, all would be in a few shards."""
    return int.from_bytes(blake2b(f"{turn}/{node}".encode(), digest_size=8).digest())


def judge(survey: Survey, arg: SettleInput) -> list[str]:
    """UIDs among the doubtful ones that may hold nothing on this node."""
    return [uid for uid in arg.doubtful if not survey.pods.may_use(uid, arg.node)]


def users_of(survey: Survey, arg: SettleInput) -> dict[str, list[Consumer]]:
    """Digest of a lost snapshot -> Pods that were released to the node with that snapshot, by their receipts.

    The receipts know more than the entity, which a hit does not always join.
    """
    users: dict[str, list[Consumer]] = {}
    for uid, digests in survey.pods.receipts.get(arg.node, {}).items():
        pod = survey.pods.released[uid]
        for digest in dict.fromkeys(digests):
            if digest in arg.lost:
                consumer = Consumer(names.warm_pod_id(pod.namespace, pod.name, pod.uid), pod)
                users.setdefault(digest, []).append(consumer)
    return users
