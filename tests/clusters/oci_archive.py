"""Archives of images in the format of the Open Container Initiative, made of files: no registry can be reached."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Image:
    """An image of one layer, which is a tar archive of its files."""

    layer: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


def write_archive(path: Path, images: Mapping[str, Image]) -> Path:
    """Write the images, by their full names with tags, and return the path. A layer of several is written once."""
    manifests = []
    layers: dict[Path, dict[str, Any]] = {}
    with tarfile.open(path, "w") as archive:
        for name, image in images.items():
            if image.layer not in layers:
                layers[image.layer] = _add_file(archive, image.layer)
            layer = layers[image.layer]
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Cmd": list(image.command),
                    "Env": [f"{variable}={value}" for variable, value in image.environment.items()],
                },
                "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            }
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _add_json(archive, config, _CONFIG),
                "layers": [layer],
            }
            annotations = {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            }
            manifests.append(_add_json(archive, manifest, _MANIFEST) | {"annotations": annotations})
        _add(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    return path


def _add_file(archive: tarfile.TarFile, file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    archive.add(file, f"blobs/sha256/{digest}")
    return {"mediaType": _LAYER, "digest": f"sha256:{digest}", "size": file.stat().st_size}


def _add_json(archive: tarfile.TarFile, document: Mapping[str, Any], kind: str) -> dict[str, Any]:
    data = json.dumps(document).encode()
    digest = hashlib.sha256(data).hexdigest()
    _add(archive, f"blobs/sha256/{digest}", data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
