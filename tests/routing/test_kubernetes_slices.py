"""What slices say, also odd ones."""

from __future__ import annotations

import pytest
from tests.routing.kubernetes_server import endpoint

from masklet.routing.discovery import Standing
from masklet.routing.kubernetes_slices import Pod, Service, read_slices


def one_slice(*endpoints, **more):
    return {"metadata": {"name": "s", "namespace": "masklet"}, "endpoints": list(endpoints), **more}


def found(*slices, port="8001"):
    return dict(read_slices(slices, port).found)


@pytest.mark.parametrize(
    ("conditions", "standing"),
    [
        ({"ready": True, "serving": True, "terminating": False}, Standing.WANTED),
        ({"ready": None, "serving": None, "terminating": None}, Standing.WANTED),
        ({}, Standing.WANTED),
        ({"ready": False, "serving": False, "terminating": False}, Standing.HELD),
        ({"ready": False}, Standing.HELD),
        ({"ready": False, "serving": True, "terminating": True}, Standing.LEAVING),
        ({"ready": True, "serving": True, "terminating": True}, Standing.LEAVING),  # publishNotReadyAddresses
    ],
)
def test_conditions_say_what_is_wanted(conditions, standing):
    assert found(one_slice(endpoint("10.0.0.1", **conditions))) == {"10.0.0.1:8001": standing}


def test_the_port_is_a_number_or_a_name_of_the_slice():
    ports = [{"name": "metrics", "port": 8002}, {"name": "grpc", "port": 9001}, {"name": None, "port": None}]
    one = one_slice(endpoint("10.0.0.1"), ports=ports)
    assert list(found(one)) == ["10.0.0.1:8001"]
    assert list(found(one, port="grpc")) == ["10.0.0.1:9001"]
    assert found(one, port="http") == found(one_slice(endpoint("10.0.0.1")), port="grpc") == {}


def test_ipv6_addresses_are_in_brackets_and_host_names_are_not_used():
    assert list(found(one_slice(endpoint("fd00::1"), endpoint("a.example")))) == ["[fd00::1]:8001"]


@pytest.mark.parametrize(
    "odd",
    [
        {"endpoints": None},
        {},
        {"endpoints": "none", "metadata": None},
        {"endpoints": [None, 1, "x", {}, {"addresses": None}, {"addresses": []}, {"addresses": [None]}]},
        {"endpoints": [{"addresses": ["10.0.0.300"]}, {"addresses": ["fe80::1%eth0%"]}], "ports": "none"},
    ],
)
def test_what_is_missing_or_odd_costs_nobody_else(odd):
    plain = {"addresses": ["10.0.0.1"], "conditions": "all", "targetRef": {"kind": "Pod"}}
    assert found(odd, one_slice(plain)) == {"10.0.0.1:8001": Standing.WANTED}


def test_a_pod_is_known_by_name_and_uid():
    seen = read_slices([one_slice(endpoint("10.0.0.1", pod="t-0"), endpoint("10.0.0.2"))], "8001")
    assert seen.pods == {"10.0.0.1:8001": Pod("masklet", "t-0", "uid-t-0")}


def test_a_pod_in_two_slices_is_leaving_if_either_says_so():
    old = one_slice(endpoint("10.0.0.1", pod="t-0", ready=True))
    new = one_slice(endpoint("10.0.0.1", pod="t-0", ready=False, terminating=True))
    assert found(old, new) == found(new, old) == {"10.0.0.1:8001": Standing.LEAVING}


def test_a_new_pod_that_inherited_an_address_is_wanted():
    old = one_slice(endpoint("10.0.0.1", pod="t-0", ready=False, terminating=True))
    new = one_slice(endpoint("10.0.0.1", pod="t-1", ready=True))
    for slices in ([old, new], [new, old]):
        seen = read_slices(slices, "8001")
        assert seen.found == {"10.0.0.1:8001": Standing.WANTED}
        assert seen.pods["10.0.0.1:8001"].name == "t-1"


def test_a_pod_of_two_families_is_one_endpoint():
    six, four = one_slice(endpoint("fd00::1", pod="t-0")), one_slice(endpoint("10.0.0.1", pod="t-0"))
    other = one_slice(endpoint("fd00::2", pod="t-1"))
    assert sorted(found(six, four, other)) == ["10.0.0.1:8001", "[fd00::2]:8001"]


def test_what_the_configuration_says():
    assert Service.from_endpoint("k8s:triton:8001") == Service("triton", "", "8001")
    assert Service.from_endpoint("k8s:triton.gpu:grpc") == Service("triton", "gpu", "grpc")
