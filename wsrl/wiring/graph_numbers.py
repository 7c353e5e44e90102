"""Shapes that a graph computes: how many entries they have, and the last where it is told.

That is enough to see that a Reshape leaves the last axis as it is, as in a dense layer that TensorFlow writes as a
product of matrices: [batch, places, in] becomes [batch * places, in], and what it returns [batch, places, out].
"""

from collections.abc import Mapping

Counted = tuple[int, int | None]  # entries, the last one
JOINING = ("Concat", "CONCATENATION")
PACKING = ("Pack", "PACK")
TAKING = ("Gather", "GATHER", "GatherV2")


def counted(node: Mapping, known: Mapping[str, Counted], constants: Mapping[str, object]) -> Counted | None:
    """Returns what is known of the numbers that a node makes of others.

    Args:
      node: reads nothing but numbers.
      known: what is known of those that nodes made.
      constants: integers of the file.
    """

    def of(name: str) -> Counted | None:
        told = constants.get(name)
        if isinstance(told, list | tuple) and told and isinstance(told[-1], int):
            return len(told), told[-1]
        return known.get(name)

    def single(name: str) -> int | None:
        told = constants.get(name)
        return told if isinstance(told, int) else told[0] if isinstance(told, list) and len(told) == 1 else None

    names = node["inputs"]
    if node["op"] in PACKING:
        return len(names), single(names[-1])
    if node["op"] in JOINING and names:
        parts = [of(name) for name in names]
        return (sum(part[0] for part in parts if part), parts[-1][1]) if parts[-1] and all(parts) else None
    if node["op"] in TAKING and len(names) > 1:
        places = constants.get(names[1])
        return (len(places), None) if isinstance(places, list | tuple) else None
    return None


def joined_constants(node: Mapping, constants: Mapping[str, object]) -> list[int] | None:
    """Returns the integers that a node joins, if it joins constants of the file."""
    parts = [constants.get(name) for name in node["inputs"]] if node["op"] in JOINING else []
    lists = [part for part in parts if isinstance(part, list)]
    return [n for part in lists for n in part] if parts and len(lists) == len(parts) else None
