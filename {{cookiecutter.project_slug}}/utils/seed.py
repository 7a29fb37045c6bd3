"""Everything random starts from the one seed in the settings."""

import hashlib
import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seeds Python, NumPy and torch; `deterministic` allows only repeatable algorithms."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)


def generator(*key: int) -> torch.Generator:
    """A generator that depends on nothing but `key`, such as (seed, purpose, step)."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))


def random_states() -> dict[str, Any]:
    """The states of all global generators, as plain data."""
    own = np.random.get_state(legacy=False)
    own["state"]["key"] = own["state"]["key"].tolist()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": own, "torch": torch.get_rng_state(), "cuda": gpu}


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts all global generators into the states that `random_states` took."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
