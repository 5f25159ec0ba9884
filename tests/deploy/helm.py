"""Helm as a library, and the objects that it makes of the charts of deploy/helm."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import helm_python
import msgspec

from tests.deploy.programs import DEPLOY

ENGINE_CHART, WORKERS_CHART = DEPLOY / "helm/queue-engine", DEPLOY / "helm/queue-engine-workers"
RELEASE, NAMESPACE = "farm", "engine-room"

Values = Mapping[str, Any]
Object = dict[str, Any]

TRIAL: Values = {"trial": {"enabled": True}, "image": {"registry": "images.example.com/team"}}
PRODUCTION: Values = {
    "image": {"registry": "images.example.com/team", "pullSecrets": ["registry"]},
    "store": {"existingSecret": "store", "controlUrlKey": "control"},
    "secretKey": {"existingSecret": "key", "previousKey": "before"},
    "apiKey": {"existingSecret": "first-key"},
    "tls": {"existingSecret": "certificate", "caKey": "ca.crt"},
    "webhookCa": {"existingSecret": "authorities"},
    "settings": {"QUEUE_ENGINE_WEBHOOK_ALLOW": "10.1.0.0/16, 10.2.0.0/16", "QUEUE_ENGINE_LEASE_SECONDS": 30},
    "catalogue": "[gpu-types]\n",
    "clusters": {"regions": '[regions.here]\nnamespace = "workers"\n', "existingSecret": "kubeconfigs"},
    "ingress": {"enabled": True, "host": "queue.example.com", "className": "nginx", "tlsSecret": "public"},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["store"]}],
    "workers": {"quota": {"pods": 100}, "podMonitor": {"enabled": True}},
}
"""Values that turn on everything but the trial."""


class Refused(Exception):
    """Helm's message of values or templates that it refuses."""


def render(chart: Path, values: Values) -> list[Object]:
    """Return the objects of a release, in the order of their files. Raises Refused."""
    try:
        with helm_python.Chart.load(chart) as loaded:
            files = loaded.render(dict(values), name=RELEASE, namespace=NAMESPACE)
    except helm_python.HelmError as error:
        raise Refused(str(error)) from None
    texts = [text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt")]
    return [one for text in texts for one in documents(text)]


def documents(text: str) -> list[Object]:
    """Return the objects of a YAML text. Empty documents, such as those of a value that is off, are left out."""
    parts = [msgspec.yaml.decode(part) for part in f"\n{text}".split("\n---")]
    return [part for part in parts if part is not None]


def lint(chart: Path, values: Values) -> list[str]:
    """Return the findings of the strict linter, from warnings on."""
    report = helm_python.lint(chart, dict(values), strict=True, with_subcharts=True)
    return [*report["errors"], *(one["error"] for one in report["messages"] if one["severity"] >= _WARNING)]


_WARNING = 2


def merged(*values: Values) -> dict[str, Any]:
    """Return the values of all, of which later ones win, as Helm merges files of values."""
    found: dict[str, Any] = {}
    for one in values:
        for name, value in one.items():
            if isinstance(value, Mapping) and isinstance(found.get(name), Mapping):
                found[name] = merged(found[name], value)
            else:
                found[name] = copy.deepcopy(value)
    return found


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    """Return the one object of this kind and name."""
    [found] = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def role_of(template: Object) -> str:
    """Return the component that the pods of a template are."""
    return str(template["metadata"]["labels"]["app.kubernetes.io/component"])
