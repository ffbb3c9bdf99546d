"""Renders our kustomizations, with the few features they use, so that tests need no kustomize.

`test_kubernetes.py` compares it with the real one where that is installed. Generated names bear no hash here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
_CLUSTER_WIDE = {"Namespace"}
_KNOWN = {
    *("apiVersion", "kind", "namespace", "labels", "resources"),
    *("components", "patches", "images", "configMapGenerator"),
}


def render(folder: Path) -> list[Document]:
    """All documents of an overlay, or of the base."""
    text = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(text) - _KNOWN:
        raise ValueError(f"{folder}/kustomization.yaml has {sorted(unknown)}, which this renderer does not know")
    documents = [found for name in text.get("resources", []) for found in _resource(folder / name)]
    documents += [_config_map(folder, entry) for entry in text.get("configMapGenerator", [])]
    for name in text.get("components", []):
        documents = _component(folder / name, documents)
    for patch in text.get("patches", []):
        _patch(documents, patch)
    for document in documents:
        _transform(document, text)
    return documents


def documents_in(path: Path) -> list[Document]:
    """The documents of one file."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def _resource(path: Path) -> list[Document]:
    return render(path) if path.is_dir() else documents_in(path)


def _component(folder: Path, documents: list[Document]) -> list[Document]:
    text = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if text["kind"] != "Component" or set(text) - {"apiVersion", "kind", "resources", "patches"}:
        raise ValueError(f"{folder} is no component, or has more than resources and patches")
    documents = documents + [found for name in text.get("resources", []) for found in _resource(folder / name)]
    for patch in text.get("patches", []):
        _patch(documents, patch)
    return documents


def _config_map(folder: Path, entry: dict[str, Any]) -> Document:
    data = {name: (folder / name).read_text() for name in entry.get("files", [])}
    for name in entry.get("envs", []):
        lines = [line for line in (folder / name).read_text().splitlines() if line and not line.startswith("#")]
        data |= dict(line.split("=", 1) for line in lines)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}, "data": data}


def _patch(documents: list[Document], patch: dict[str, Any]) -> None:
    target = patch["target"]
    hit = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])]
    if len(hit) != 1:
        raise ValueError(f"{target} is {len(hit)} documents")
    for operation in yaml.safe_load(patch["patch"]):
        _operate(hit[0], operation)


def _operate(document: Document, operation: dict[str, Any]) -> None:
    """One step of RFC 6902, of those that need no more than a place."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = document
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    key: Any = int(last) if isinstance(place, list) and last != "-" else last
    if operation["op"] == "add" and isinstance(place, list):
        place.insert(len(place) if key == "-" else key, operation["value"])
    elif operation["op"] in ("add", "replace"):
        if operation["op"] == "replace" and not isinstance(place, list) and key not in place:
            raise KeyError(operation["path"])
        place[key] = operation["value"]
    elif operation["op"] == "remove":
        del place[key]
    else:
        raise ValueError(f"{operation['op']} is not known here")


def _transform(document: Document, text: dict[str, Any]) -> None:
    metadata = document["metadata"]
    if "namespace" in text and document["kind"] not in _CLUSTER_WIDE:
        metadata["namespace"] = text["namespace"]
    for entry in text.get("labels", []):
        if set(entry) != {"pairs"}:
            raise ValueError(f"labels has {sorted(entry)}, which this renderer does not know")
        metadata["labels"] = {**metadata.get("labels", {}), **entry["pairs"]}
    for image in text.get("images", []):
        for container in _containers(document):
            name, _, tag = container["image"].partition(":")
            if name == image["name"]:
                container["image"] = f"{image['newName']}:{image.get('newTag', tag)}"


def _containers(document: Document) -> list[dict[str, Any]]:
    spec = document.get("spec", {}).get("template", {}).get("spec", {})
    found: list[dict[str, Any]] = [*spec.get("initContainers", []), *spec.get("containers", [])]
    return found
