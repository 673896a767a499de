"""The schema number of the index: an index that another build wrote, older or newer, is converted and never refused.

A roll-out, or its roll-back, meets the index of the other build on every node. Its tables are made anew in one
transaction, in the same file, since the other build may still have it open. What both builds know is carried over, the
pins of people above all: no list brings those back. The recovery at start-up then compares all of it with the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

VERSION: Final = 1
"""Number of the schema in `index_rows`, to be raised with each change of it (`PRAGMA user_version`).

The builds before numbers wrote 0.
"""
_RECOMPUTED: Final = frozenset({"totals"})
"""Tables that triggers fill while the others are carried over."""
_MISSING: Final = {("pins", "created"): 0}
"""Value of a column that the other build lacks: without it the table would be lost."""
_STALE_META: Final = "ctime-fingerprint/%"
"""Keys whose values the recovery makes wrong."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of the index of another build."""

    version: int
    """Schema number that was found."""
    kept: dict[str, int] = field(default_factory=dict)
    """Table -> number of rows that were carried over."""
    lost: list[str] = field(default_factory=list)
    """Tables that could not be carried over. The recovery fills them again, except pins."""


class OtherSchemaError(Exception):
    """The index is of another build, and the caller may not convert it."""

    def __init__(self, version: int) -> None:
        super().__init__(other_schema(version))


def other_schema(version: int) -> str:
    return f"schema {version}, and this build has {VERSION}"


def prepare(db: sqlite3.Connection, schema: str, *, convert: bool) -> Conversion | None:
    """Create the tables in an empty database, or convert those of another build; None if they were there or are new.

    Raises OtherSchemaError unless `convert`, sqlite3.Error.
    """
    if _version(db) == VERSION:
        return None
    db.execute("BEGIN IMMEDIATE")
    try:
        conversion = _prepare(db, schema, convert=convert)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return conversion


def _prepare(db: sqlite3.Connection, schema: str, *, convert: bool) -> Conversion | None:
    found, tables = _version(db), _names(db, "table")
    if found == VERSION:  # another process was quicker
        return None
    if tables and not convert:
        raise OtherSchemaError(found)
    conversion = _convert(db, schema, tables, found) if tables else None
    if not tables:
        _create(db, schema)
    db.execute(f"PRAGMA user_version = {VERSION}")
    return conversion


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _names(db: sqlite3.Connection, kind: str) -> list[str]:
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = ? AND name NOT LIKE 'sqlite_%'", (kind,))
    return [name for (name,) in rows]


def _create(db: sqlite3.Connection, schema: str) -> None:
    for statement in _statements(schema):
        db.execute(statement)


def _convert(db: sqlite3.Connection, schema: str, tables: list[str], version: int) -> Conversion:
    conversion = Conversion(version)
    for kind in ("trigger", "view", "index"):
        for name in _names(db, kind):
            db.execute(f'DROP {kind} "{name}"')
    for name in tables:
        db.execute(f'ALTER TABLE "{name}" RENAME TO "old {name}"')
    _create(db, schema)
    for name in _names(db, "table"):
        if name.startswith("old ") or name in _RECOMPUTED or name not in tables:
            continue
        rows = _carry(db, name)
        if rows is None:
            conversion.lost.append(name)
        else:
            conversion.kept[name] = rows
    if "meta" in conversion.kept:
        db.execute("DELETE FROM meta WHERE key LIKE ?", (_STALE_META,))
    for name in tables:
        db.execute(f'DROP TABLE "old {name}"')
    return conversion


def _carry(db: sqlite3.Connection, table: str) -> int | None:
    """Copy the columns that both builds know. Returns the number of rows; None where a needed column is missing."""
    old = {row[1] for row in db.execute(f'PRAGMA table_info("old {table}")')}
    names, values = [], []
    for _, name, _, required, default, key in db.execute(f'PRAGMA table_info("{table}")').fetchall():
        if name in old:
            names.append(f'"{name}"')
            values.append(f'"{name}"')
        elif (table, name) in _MISSING:
            names.append(f'"{name}"')
            values.append(str(_MISSING[table, name]))
        elif key or (required and default is None):
            return None
    db.execute("SAVEPOINT carry")
    try:
        copied = db.execute(
            f'INSERT OR IGNORE INTO "{table}" ({", ".join(names)}) SELECT {", ".join(values)} FROM "old {table}"'  # noqa: S608 - names of columns
        )
    except sqlite3.Error:
        db.execute("ROLLBACK TO carry")
        return None
    finally:
        db.execute("RELEASE carry")
    return copied.rowcount


def _statements(schema: str) -> Iterator[str]:
    """Split the script: `executescript` would end the transaction."""
    statement = ""
    for line in schema.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
