"""Who holds the Lease, over real HTTP; clocks are the tests'."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from tests.routing.kubernetes_server import SETTINGS

from masklet.routing.kubernetes_api import ApiProblem, KubernetesApi, connect
from masklet.routing.kubernetes_lease import Lease

NAME = SETTINGS.lease_name


class Candidate:
    """One service, with a clock of its own."""

    def __init__(self, api: KubernetesApi, identity: str) -> None:
        self.now_s = 5000.0
        self.lease = Lease(api, NAME, identity, duration_s=30, clock=lambda: self.now_s)

    def hold(self, after_s: float = 0.0) -> bool:
        self.now_s += after_s
        return self.lease.hold()


@pytest.fixture
def candidates(kubeconfig_path):
    settings = replace(SETTINGS, kubeconfig=str(kubeconfig_path))
    apis = [KubernetesApi(connect(settings), settings) for _ in range(2)]
    yield Candidate(apis[0], "one"), Candidate(apis[1], "two")
    for api in apis:
        api.close()


def test_the_first_gets_it_and_keeps_it(api, candidates):
    one, two = candidates
    assert one.hold() and not two.hold()
    for _ in range(10):
        assert one.hold(10) and not two.hold(10)
    spec = api.leases[NAME]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("one", 0, 30)
    assert spec["acquireTime"] < spec["renewTime"]


def test_of_two_who_race_one_wins(api, candidates):
    for _ in range(10):
        api.leases.clear()
        candidates = [Candidate(one.lease._api, one.lease._identity) for one in candidates]
        barrier, won = threading.Barrier(2), list[bool]()

        def race(candidate: Candidate, barrier=barrier, won=won) -> None:
            barrier.wait(5)
            won.append(candidate.hold())

        threads = [threading.Thread(target=race, args=(one,)) for one in candidates]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(won) == [False, True]
        assert [one.lease.is_held for one in candidates].count(True) == 1


def test_of_two_who_find_it_abandoned_one_wins(api, candidates):
    one, two = candidates
    api.write(api.leases, NAME, {"spec": {"holderIdentity": "dead", "leaseDurationSeconds": 30}})
    assert not one.hold() and not two.hold()
    read = two.lease._api.read_lease(NAME)
    assert one.hold(31)
    two.lease._api.read_lease = lambda name: read  # it looked before the other wrote
    assert not two.hold(31) and api.holder() == "one"


def test_when_the_holder_dies_another_takes_over_but_not_before(api, candidates):
    one, two = candidates
    assert one.hold() and not two.hold()
    assert not two.hold(29.9)
    one.now_s += 29.9
    assert not one.lease.is_held  # it knows that it may have lost it before anybody takes it
    assert two.hold(0.2) and two.lease.is_held
    assert api.leases[NAME]["spec"]["leaseTransitions"] == 1
    assert not one.hold() and not one.lease.is_held


def test_a_holder_that_leaves_is_followed_at_once(api, candidates):
    one, two = candidates
    assert one.hold() and not two.hold()
    one.lease.release()
    assert not one.lease.is_held and api.holder() == ""
    assert two.hold()
    one.lease.release()  # not its own any more
    assert api.holder() == "two"


@pytest.mark.parametrize("renewed", ["1999-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z", "nonsense", None])
def test_a_holder_whose_clock_is_wrong_is_neither_robbed_nor_immortal(api, candidates, renewed):
    one, _ = candidates
    spec = {"holderIdentity": "skewed", "renewTime": renewed, "leaseDurationSeconds": 30}
    api.write(api.leases, NAME, {"spec": spec})
    assert not one.hold()
    assert not one.hold(20)
    api.write(api.leases, NAME, {"spec": {**spec, "renewTime": f"{renewed} and later"}})
    assert not one.hold(20)  # it lives
    assert not one.hold(29)
    assert one.hold(2)


def test_a_longer_duration_of_the_holder_is_respected(api, candidates):
    one, _ = candidates
    api.write(api.leases, NAME, {"spec": {"holderIdentity": "slow", "leaseDurationSeconds": 100}})
    assert not one.hold() and not one.hold(99) and one.hold(2)


def test_while_the_api_is_down_it_is_held_for_as_long_as_it_is_certain(api, candidates):
    one, _ = candidates
    assert one.hold()
    api.stop()
    one.now_s += 10
    with pytest.raises(ApiProblem) as caught:
        one.hold()
    assert (caught.value.status, caught.value.operation) == (0, "lease")
    assert one.lease.is_held
    one.now_s += 11
    assert not one.lease.is_held


@pytest.mark.parametrize(
    "odd", [{}, {"spec": None}, {"spec": {"holderIdentity": None}}, {"spec": {"leaseTransitions": "x"}}]
)
def test_a_lease_that_says_nothing_is_free(api, candidates, odd):
    api.write(api.leases, NAME, odd)
    assert candidates[0].hold() and api.holder() == "one"
