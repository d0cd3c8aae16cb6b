"""All pairs instead of all combinations: most faults need one value, or two together."""

from itertools import combinations

import pytest


def pairwise(*, go=lambda values: True, **factors):
    """Rows, dicts of one value for each factor, in which every two values of two factors stand together in some row.

    Greedy and always the same: a row begins with the first pair that is not there yet, and each other factor takes the
    value with the most new pairs, the earliest of equals. So what is usual stands first: it fills what is left over.

    `go` tells whether the values of a part of a row go together; those that do must leave some to every other factor.
    """
    order = {name: i for i, name in enumerate(factors)}

    def pair(one, other):
        return (one, other) if order[one[0]] < order[other[0]] else (other, one)

    def valued(row):
        return {name: factors[name][place] for name, place in row.items()}

    places = [(name, place) for name in factors for place in range(len(factors[name]))]
    missing = dict.fromkeys(two for two in combinations(places, 2) if two[0][0] != two[1][0] and go(valued(dict(two))))
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for name in factors:
            if name not in row:
                left = [(name, place) for place in range(len(factors[name])) if go(valued({**row, name: place}))]
                best = max(left, key=lambda new: sum(pair(new, old) in missing for old in row.items()))
                row[name] = best[1]
        for two in combinations(row.items(), 2):
            missing.pop(pair(*two), None)
        rows.append({name: factors[name][row[name]] for name in factors})
    return rows


def in_pairs(*, indirect=(), **factors):
    """As stacked ``pytest.mark.parametrize``, of which pairs are taken instead of the product."""
    rows = pairwise(**{name: list(values) for name, values in factors.items()})
    values = [tuple(row.values()) for row in rows]
    ids = [", ".join(map(str, row)) for row in values]
    return pytest.mark.parametrize(list(factors), values, ids=ids, indirect=indirect)
