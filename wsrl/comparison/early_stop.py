"""How far the chains of two networks could agree at most, judged by some of their units: most strangers need no more.

Matching all units of a wide layer takes the square of its width; but units that no other layer of a chain hangs on are
wanted only for the test, and for that some of them will do. So both chains run as `wsrl.comparison.chain` describes,
but of such a group SOME units of A, drawn at random, are matched with their nearest ones of B. All others, through
which a chain goes on, are matched as a whole, so no layer is matched by less than in the full run.

Say that a share f of a group's n units agrees in the full run. Units that are each other's nearest in both chains are
the nearest in both as well, so the number k of agreeing units among m drawn ones is at least hypergeometric with mean
f m, and its lower tail no heavier than the binomial one. Hence f lies below the bound u of Clopper and Pearson (1934),

    P(Binomial(m, u) <= k) = DOUBT,

but for one in a million of draws. With no unit of 256 in agreement u is 0.053, half of the share that the test of the
chains grants to independent networks; a group needs 0.18 or more to prove anything. If neither any group nor all of
them together would be significant with u n agreeing units, the full run would find nothing, whichever of the groups
is shared: one frozen layer under new ones is a group of its own here. Else the full run decides.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from scipy.special import betaincinv

from wsrl.comparison.chain import WRITTEN, Chains, Features, Groups, Known, both, groups_of
from wsrl.comparison.matching import Agreement, Matching, match_features, nearest, significant
from wsrl.comparison.pairing import Pair

SOME = 256  # units of a group that are looked at
DOUBT = 1e-6  # chance that more of a group agree than is said
RELATED = 0.5  # share of the units looked at that shows that the full run is needed


def may_agree(pairs: Sequence[Pair]) -> bool:
    """Whether the chains of two networks could agree significantly, as far as some units show.

    Of networks without a group of more than SOME units it says nothing, but that they may: a full run costs no more.

    Args:
      pairs: of matrices, in the order of data flow.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    if all(units.group is None or units.size <= SOME for pair in pairs for units in both(pair)[0].sides()):
        return True
    most = list(most_agreements(pairs).values())
    return significant(most, sum(most, Agreement(0, 0)))


def most_agreements(pairs: Sequence[Pair]) -> dict[Groups, Agreement]:
    """Returns how many units of each group the two chains of a full run could match alike, at most.

    It ends at the first group in which so many units agree that the full run has to be made.

    Args:
      pairs: of matrices, in the order of data flow.

    Raises:
      CheckpointError: a tensor holds NaN or Inf, or cannot be read.
    """
    chains = SampledChains(pairs)
    chains.run_forwards()
    most: dict[Groups, Agreement] = {}
    while chains.step_backwards():
        groups = next(reversed(chains.backward))
        test = chains.most(groups)
        if test is not None:
            most[groups] = test
            if test.share > RELATED:
                break
    return most


class SampledChains(Chains):
    """Chains in which only some units are matched of groups through which no chain goes on.

    Attributes:
      drawn: these groups.
    """

    def __init__(self, pairs: Sequence[Pair]):
        super().__init__(pairs)
        self.drawn: set[Groups] = set()

    def most(self, groups: Groups) -> Agreement | None:
        """Returns how many units of a group the chains could match alike; None as `agreement_of`."""
        test = self.agreement_of(groups)
        if test is None or groups not in self.drawn:
            return test
        size = self._sizes(groups)[0]
        equal = ceil(size * _bound(test.equal, SOME))
        return Agreement(min(equal, test.units), test.units)

    def _matched(self, groups: Groups, units: Features, known: Known, side: int) -> Matching:
        size = len(units[0])
        if size <= SOME or self._goes_on(groups, known, side):
            return match_features(*units)
        self.drawn.add(groups)
        return nearest(*units, np.random.default_rng(size).choice(size, SOME, replace=False))

    def _goes_on(self, groups: Groups, known: Known, side: int) -> bool:
        """Whether a chain reaches further groups through this one."""
        beyond = (groups_of(pair, side) for pair in self.pairs if groups_of(pair, 1 - side) == groups)
        return any(other is not None and other != groups and other not in known for other in beyond)

    def _borrow(self) -> bool:
        if not super()._borrow():
            return False
        groups = next(reversed(self.backward))
        if groups in self.drawn:  # the backward chain goes on through it
            units = self._units(groups, self.forward, (WRITTEN,))
            assert units is not None  # it was matched before
            self.backward[groups] = match_features(*units)
        return True


def _bound(equal: int, drawn: int) -> float:
    """The largest share of units that leaves a chance of DOUBT for so few of those drawn."""
    return 1.0 if equal >= drawn else float(betaincinv(equal + 1, drawn - equal, 1 - DOUBT))
