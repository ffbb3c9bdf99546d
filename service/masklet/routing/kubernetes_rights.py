"""What the service asks the Kubernetes API for, which is what its Role has to grant: no more, no less.

Two namespaces are concerned, often the same: that of Triton's service ("triton"), and `kubernetes.namespace`, where the
Lease is ("service"). Without `kubernetes.deletion_cost` the first right is all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from masklet.config import KubernetesConfig


@dataclass(frozen=True, slots=True)
class Right:
    """One rule of a Role.

    Attributes:
        where: "triton" or "service": the namespace.
        group: API group; empty: the core.
        resource: plural, as in a Role.
        verbs: of the API.
        names: `resourceNames` that it may be limited to; empty: any.
        why: what it is needed for.
    """

    where: str
    group: str
    resource: str
    verbs: frozenset[str]
    names: tuple[str, ...]
    why: str


def needed_rights(settings: KubernetesConfig) -> tuple[Right, ...]:
    """What a service with these settings has to be granted."""
    slices = Right(
        "triton", "discovery.k8s.io", "endpointslices", frozenset({"list", "watch"}), (), "where the Tritons are"
    )
    if not settings.deletion_cost:
        return (slices,)
    lease, group = (settings.lease_name,), "coordination.k8s.io"
    return (
        slices,
        Right("service", group, "leases", frozenset({"create"}), (), "a name cannot be limited before it exists"),
        Right("service", group, "leases", frozenset({"get", "update"}), lease, "who writes deletion costs"),
        Right(
            "triton", "", "pods", frozenset({"get", "patch"}), (), "read and write the deletion cost of Triton's pods"
        ),
    )


RBAC = needed_rights(KubernetesConfig(deletion_cost=True))
"""All of them, with the default name of the Lease."""
