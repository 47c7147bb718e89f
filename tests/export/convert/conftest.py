from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import transformers
from tests.export.convert.tiny import BASE, CONFIGS, table_for


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """name -> (folder that transformers wrote, its state dict, its table), made once."""
    made: dict[Any, Any] = {}

    def model(name, dtype=torch.float32, **saving):
        key = (name, dtype, tuple(saving))
        if key not in made:
            cls, own = CONFIGS[name]
            torch.manual_seed(0)
            net = transformers.AutoModelForCausalLM.from_config(cls(**BASE, **own)).to(dtype)
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter)
            folder = tmp_path_factory.mktemp("models") / name
            net.save_pretrained(folder, **saving)
            made[key] = (folder, {k: v.clone() for k, v in net.state_dict().items()}, table_for(net.config))
        return made[key]

    return model


@pytest.fixture
def folder(saved, tmp_path):
    copy = tmp_path / "folder"
    shutil.copytree(saved("llama")[0], copy)
    return copy
