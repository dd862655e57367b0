"""`mlxclap index`: the vector index of a large library."""

import time
from typing import Any

import click

from .options import Shared, model_option, shared
from .output import emit


@click.command(short_help="Build or refresh the search index of a large library.")
@click.option("--check", is_flag=True, help="Only measure what the index finds; change nothing.")
@click.option("--rebuild", is_flag=True, help="Train the index anew, even if it covers everything.")
@model_option
@shared
def index(shared: Shared, check: bool, rebuild: bool, model: str | None) -> None:
    """Build the search index, or take in what was added since, and compare it with exact search.

    Recall is the share of the exact ten nearest that the index finds, over fifty questions drawn from the library.
    Without an index every search measures the whole library, which is as fast up to 20,000 windows.
    """
    from mlx_clap.errors import AskedWronglyError

    from ..models import space_for_query
    from ..store.index import INDEX_FROM, KINDS, IndexState, build_index, index_state, recall
    from ..store.library import Store

    if check and rebuild:
        raise AskedWronglyError("--check changes nothing, so it cannot be combined with --rebuild")
    store = Store.open(shared.library)
    space = space_for_query(store, model).space
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        began = time.perf_counter()
        state: IndexState = index_state(store, space, kind)
        if not check:
            state = build_index(store, space, kind, rebuild)
        built_s = round(time.perf_counter() - began, 3)
        if state.indexed:
            shared.say(f"{kind}: comparing the index with exact search")
        rows.append(
            {
                "table": kind,
                "space": space,
                "rows": state.rows,
                "indexed": state.indexed,
                "seconds": None if check else built_s,
                "recall_at_10": round(recall(store, space, kind), 4) if state.indexed else None,
            }
        )
        if not state.indexed and state.rows < INDEX_FROM:
            shared.say(f"{kind}: {state.rows:,} rows need no index; exact search is as fast below {INDEX_FROM:,}")
    emit(shared, rows, ["table", "rows", "indexed", "seconds", "recall_at_10"])
