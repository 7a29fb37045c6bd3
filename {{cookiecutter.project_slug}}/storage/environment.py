"""What a run was made with: installed packages and hardware, for its manifest."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import torch

BYTES_PER_GIB = 2**30
TIME_LIMIT_SECONDS = 5.0  # a driver without persistence takes two seconds to start


def installed_versions() -> dict[str, str]:
    """The versions of all installed packages by name; of two, that which is imported."""
    versions: dict[str, str] = {}
    for distribution in distributions():
        fields = _header_of(distribution)
        if "Name" in fields and "Version" in fields:
            versions.setdefault(fields["Name"], fields["Version"])
    return {name: versions[name] for name in sorted(versions, key=str.lower)}


def _header_of(distribution: Distribution) -> dict[str, str]:
    """The fields above the description, whose parsing would take ten times as long as the rest."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    header, _, _ = text.partition("\n\n")
    fields = {}
    for line in header.splitlines():
        name, _, value = line.partition(": ")
        fields[name] = value.strip()
    return fields


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """The hardware of this machine; what is unknown is None.

    Args:
        device: the device of the run; ``gpus`` are all devices of its type, if it is no CPU.
    """
    gpus: list[str] = []
    if device.type != "cpu":
        gpus = _names_of_devices(device)
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": _memory(),
        "gpus": gpus,
        "driver": _nvidia_driver() if device.type == "cuda" else None,
    }


def _names_of_devices(device: torch.device) -> list[str]:
    module: Any = torch.get_device_module(device)
    names = []
    for index in range(torch.accelerator.device_count()):
        if hasattr(module, "get_device_name"):
            names.append(module.get_device_name(index))
        else:  # mps
            names.append(device.type)
    return names


def _cpu_name() -> str | None:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or None


def _memory() -> float | None:
    """The memory of the machine in GiB."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return round(size / BYTES_PER_GIB, 1)


def _nvidia_driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(
            query, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = result.stdout.split()
    if not lines:
        return None
    return lines[0]
