"""Make `tests/data/daskjob.json`, what Dask's operator takes as a DaskJob, from its own definition.

    pip download --no-deps dask-kubernetes && unzip dask_kubernetes-*.whl
    python tests/operators_schema.py dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator/crds/daskjob.yaml

The definition is part of dask-kubernetes (2026.3.0), (c) Dask Developers, Yuvi Panda, Anaconda Inc,
NVIDIA, under the licence in `tests/data/daskjob.LICENSE`. What only describes is left out, pods are written once, and
fields that are not known are an error: the API server would drop them without a word.
"""  # noqa: E501

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

SCHEMA = Path(__file__).parent / "data/daskjob.json"


def as_json_schema(node):
    """Give JSON Schema for a part of a structural schema of Kubernetes."""
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {key: node[key] for key in ("type", "required", "enum", "format") if key in node}
    if "items" in node:
        made["items"] = as_json_schema(node["items"])
    if "properties" in node:
        made["properties"] = {name: as_json_schema(of) for name, of in node["properties"].items()}
        made["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = as_json_schema(node["additionalProperties"])
    return made


def with_pods_once(node, pod):
    """Replace what equals the schema of a pod by a reference to it."""
    if node == pod:
        return {"$ref": "#/$defs/pod"}
    if isinstance(node, dict):
        return {key: with_pods_once(value, pod) for key, value in node.items()}
    return node


def main():
    """Write the schema of the definition that the command line names."""
    definition = yaml.safe_load(Path(sys.argv[1]).read_text())
    (version,) = definition["spec"]["versions"]
    made = as_json_schema(version["schema"]["openAPIV3Schema"])
    made["properties"] |= {
        "apiVersion": {"const": f"{definition['spec']['group']}/{version['name']}"},
        "kind": {"const": definition["spec"]["names"]["kind"]},
        "metadata": {"type": "object"},
    }
    pod = made["properties"]["spec"]["properties"]["job"]["properties"]["spec"]
    made = with_pods_once(made, pod) | {"$defs": {"pod": pod}}
    SCHEMA.write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
