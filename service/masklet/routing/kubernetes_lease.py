"""Who of several does what only one should: the holder of a Lease (coordination.k8s.io/v1).

The package's own election cannot be used: it runs for ever without a way to stop, its requests have no time limit, and
it measures with the wall clock.

No clocks are compared. A Lease counts as abandoned when we have seen it unchanged for its duration, by our own
monotonic clock; and we count as its holder only for two thirds of that, from before we asked. Replacing goes by
resource version, so of two who try at once one is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from masklet.routing.kubernetes_api import ApiProblem, KubernetesApi
from masklet.routing.kubernetes_slices import Json

_MISSING, _CONFLICT = 404, 409
_SAFE_SHARE = 2 / 3
_LONGEST_S = 3600  # whatever the holder says


class Lease:
    """One candidate's view. Its calls block and may raise ApiProblem; one thread at a time.

    Args:
        api: is asked.
        name: of the Lease, in the API's namespace.
        identity: of this candidate; another's must differ.
        duration_s: for how long a holder is believed to live.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        identity: str,
        *,
        duration_s: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._name = name
        self._identity = identity
        self._duration_s = duration_s
        self._clock = clock
        self._held_until_s = float("-inf")
        self._observed: tuple[object, ...] = ()
        self._observed_s = float("-inf")

    @property
    def is_held(self) -> bool:
        """Whether we are the holder, for certain."""
        return self._clock() < self._held_until_s

    def hold(self) -> bool:
        """Get it or keep it, if nobody else has it; whether we do."""
        asked_s = self._clock()
        try:
            held = self._try()
        except ApiProblem as problem:
            if problem.status != _CONFLICT:
                raise
            return self.is_held  # another was faster; or somebody edited it, and there is time left to try again
        self._held_until_s = asked_s + _SAFE_SHARE * self._duration_s if held else float("-inf")
        return held

    def release(self) -> None:
        """Let another have it at once."""
        if not self.is_held:
            return
        self._held_until_s = float("-inf")
        lease = self._api.read_lease(self._name)
        spec = _spec(lease)
        if spec.get("holderIdentity") == self._identity:
            freed = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
            self._api.replace_lease(self._name, {**lease, "spec": freed})

    def _try(self) -> bool:
        try:
            lease = self._api.read_lease(self._name)
        except ApiProblem as problem:
            if problem.status != _MISSING:
                raise
            self._api.create_lease(self._name, self._renewed({}))
            return True
        spec = _spec(lease)
        if spec.get("holderIdentity") not in (None, "", self._identity) and not self._is_abandoned(spec):
            return False
        self._api.replace_lease(self._name, {**lease, "spec": self._renewed(spec)})
        return True

    def _is_abandoned(self, spec: Json) -> bool:
        now_s, seen = self._clock(), (spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions"))
        if seen != self._observed:
            self._observed, self._observed_s = seen, now_s
        said_s = spec.get("leaseDurationSeconds")
        duration_s = max(self._duration_s, min(said_s, _LONGEST_S) if isinstance(said_s, int) else 0)
        return now_s - self._observed_s > duration_s

    def _renewed(self, spec: Json) -> Json:
        now, transitions = _now(), spec.get("leaseTransitions")
        ours = {"holderIdentity": self._identity, "leaseDurationSeconds": self._duration_s, "renewTime": now}
        if spec.get("holderIdentity") == self._identity:
            return {**spec, **ours}
        changes = transitions + 1 if isinstance(transitions, int) else 0
        return {**spec, **ours, "acquireTime": now, "leaseTransitions": changes}


def _spec(lease: Json) -> Json:
    spec = lease.get("spec")
    return spec if isinstance(spec, dict) else {}


def _now() -> str:
    """As the API's MicroTime, which wants all six digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
