"""The one-to-one assignment of truths to queries with the least total cost.

Truths are added one after another, each along a shortest augmenting path over reduced costs (Jonker & Volgenant 1987,
"A shortest augmenting path algorithm for dense and sparse linear assignment problems"; Crouse 2016, "On implementing 2D
rectangular assignment algorithms"). It is exact up to the rounding of float32.
"""

from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

NAN_COST = 1.0  # in place of a cost that is no number, as in D-FINE
INFINITE_COST = 1e6  # in place of an infinite one
NONE = -1  # in place of an index


def least_total(cost: Float[Array, "g q"], valid: Bool[Array, "g"]) -> Int[Array, "g"]:
    """The query of each truth, no two of them the same, with the least sum of costs; -1 where a truth is not valid.

    Time goes with the number of valid truths; what the rows of others hold changes nothing. Of several assignments with
    the least sum it is any. Costs are float32; NaN counts as `NAN_COST`, infinity as `INFINITE_COST`.

    Args:
      cost: of each pair of a truth and a query.
      valid: whether each truth is to get a query.

    Raises:
      ValueError: if there are fewer queries than truths.
    """
    truths, queries = cost.shape
    if truths > queries:
        raise ValueError(f"{truths} truths cannot have a query each of {queries}; take as many queries, or more.")
    cost = jnp.nan_to_num(cost.astype(jnp.float32), nan=NAN_COST, posinf=INFINITE_COST, neginf=-INFINITE_COST)
    start, left = _begun(cost, valid)
    order = jnp.argsort(~left, stable=True)

    def add(state: tuple[Array, _Duals]) -> tuple[Array, _Duals]:
        rank, duals = state
        # Beside problems with more truths this one goes on, and would find no free query.
        new = jnp.where(rank < left.sum(), order[rank], NONE)
        return rank + 1, _added(cost, new, duals)

    _, duals = lax.while_loop(lambda state: state[0] < left.sum(), add, (jnp.zeros((), jnp.int32), start))
    # A query without a truth writes beyond the last row, which is dropped.
    rows = jnp.where(duals.truth == NONE, truths, duals.truth)
    return jnp.full(truths, NONE, jnp.int32).at[rows].set(jnp.arange(queries, dtype=jnp.int32), mode="drop")


def truth_of_queries(query: Int[Array, "g"], *, queries: int) -> Int[Array, "q"]:
    """The truth of each query, -1 where it has none: the inverse of what `least_total` gives."""
    places = jnp.where(query == NONE, queries, query)
    truths = jnp.arange(len(query), dtype=jnp.int32)
    return jnp.full(queries, NONE, jnp.int32).at[places].set(truths, mode="drop")


class _Duals(NamedTuple):
    """The assignment of the truths added so far."""

    price: Float[Array, "q"]  # of a query, by which its costs are reduced
    truth: Int[Array, "q"]  # of a query, NONE where it is free


class _Search(NamedTuple):
    """The search for a free query with the shortest path from a new truth."""

    length: Float[Array, "q"]  # of the shortest path to each query that was found
    before: Int[Array, "q"]  # the query before it on that path; NONE at its start
    final: Bool[Array, "q"]  # whether that path is the shortest of all
    last: Int[Array, ""]  # the query that became final last
    least: Float[Array, ""]  # the length of its path
    found: Bool[Array, ""]  # whether it is free


def _begun(cost: Float[Array, "g q"], valid: Bool[Array, "g"]) -> tuple[_Duals, Bool[Array, "g"]]:
    """The assignment of the truths that are the first to want their cheapest query, and which truths are left."""
    truths, queries = cost.shape
    index, rows = jnp.arange(queries, dtype=jnp.int32), jnp.arange(truths, dtype=jnp.int32)
    # A minimum is faster on a CPU than an argmin.
    cheapest = jnp.where(cost == cost.min(-1, keepdims=True), index, queries - 1).min(-1)
    wanted = jnp.where(valid, cheapest, queries)
    first = jnp.full(queries, truths, jnp.int32).at[wanted].min(rows, mode="drop")
    truth = jnp.where(first == truths, NONE, first)
    return _Duals(jnp.zeros(queries), truth), valid & (first[cheapest] != rows)


def _added(cost: Float[Array, "g q"], new: Int[Array, ""], duals: _Duals) -> _Duals:
    """The assignment with the truth `new` too; as it is for NONE."""
    queries, taken = cost.shape[1], duals.truth != NONE
    index = jnp.arange(queries, dtype=jnp.int32)

    def step(search: _Search) -> _Search:
        """The paths go on from the truth of the last query, to whose costs its own is the reference."""
        begun = search.last == NONE
        row = cost[jnp.where(begun, new, duals.truth[search.last])] - duals.price
        length = search.least + row - jnp.where(begun, 0.0, row[search.last])
        shorter = ~search.final & (length < search.length)
        reached = jnp.where(shorter, length, search.length)
        before = jnp.where(shorter, search.last, search.before)
        open_lengths = jnp.where(search.final, jnp.inf, reached)
        least = open_lengths.min()
        # Of equal ones a free query comes first.
        ranks = jnp.where(open_lengths == least, index + queries * taken, 2 * queries).min()
        last = ranks % queries
        return _Search(reached, before, search.final | (index == last), last, least, ranks < queries)

    none = jnp.full((), NONE, jnp.int32)
    empty = jnp.full(queries, jnp.inf), jnp.full(queries, NONE, jnp.int32), jnp.zeros(queries, bool)
    begin = _Search(*empty, last=none, least=jnp.zeros(()), found=new == NONE)
    search = lax.while_loop(lambda search: ~search.found, step, begin)
    price = duals.price - jnp.where(search.final, search.least - search.length, 0.0)

    def move(state: tuple[Array, Array]) -> tuple[Array, Array]:
        """The truth of the query before becomes that of this one."""
        place, truth = state
        return search.before[place], jnp.where(index == place, truth[search.before[place]], truth)

    place, truth = lax.while_loop(lambda state: search.before[state[0]] != NONE, move, (search.last, duals.truth))
    return _Duals(price, jnp.where(index == place, new, truth))
