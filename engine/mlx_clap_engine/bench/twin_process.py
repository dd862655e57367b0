"""The process that runs PyTorch for `twin`. It must not import MLX, nor anything that does: see there why."""

import importlib
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_clap.config import ClapConfig
from mlx_clap_convert import configs

Array = NDArray[np.float32]


def serve(connection: Connection) -> None:
    """Receive (config, weights, gpu), say what PyTorch runs on; then time each ("audio" or "text", input) until None.

    An answer is ((seconds, CPU seconds over all threads), embeddings [B, D]).
    """
    # By name, so that neither types nor tests need PyTorch installed.
    torch: Any = importlib.import_module("torch")
    config, weights, gpu = connection.recv()
    device = "mps" if gpu and torch.backends.mps.is_available() else "cpu"
    model = _model(torch, config, weights).to(device)
    connection.send({"torch": torch.__version__, "torch_device": device, "torch_threads": torch.get_num_threads()})
    towers: dict[str, Callable[[Any], Any]] = {"audio": _audio(torch, model), "text": _text(torch, model, config)}
    with torch.inference_mode():
        while (request := connection.recv()) is not None:
            tower, given = request
            tensor = torch.from_numpy(given).to(device)
            clock, cpu = time.perf_counter(), time.process_time()
            embeddings = torch.nn.functional.normalize(towers[tower](tensor), dim=-1).cpu()  # waits for the device
            seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - cpu
            connection.send(((seconds, cpu_seconds), embeddings.numpy()))


def _audio(torch: Any, model: Any) -> Callable[[Any], Any]:
    def embed(log_mel: Any) -> Any:
        # Not flagged longer, so that a fused model takes the first of its four pictures.
        longer = torch.zeros(len(log_mel), 1, dtype=torch.bool, device=log_mel.device)
        pictures = 4 if model.config.audio_config.enable_fusion else 1
        features = log_mel[:, None].expand(-1, pictures, -1, -1)
        return model.audio_projection(model.audio_model(input_features=features, is_longer=longer).pooler_output)

    return embed


def _text(torch: Any, model: Any, config: ClapConfig) -> Callable[[Any], Any]:
    def embed(ids: Any) -> Any:
        mask = (ids != config.text.pad_id).long()
        return model.text_projection(model.text_model(input_ids=ids.long(), attention_mask=mask).pooler_output)

    return embed


def _model(torch: Any, config: ClapConfig, weights: dict[str, Array]) -> Any:
    """transformers' ClapModel of our configuration, filled with `weights` under its own keys."""
    transformers: Any = importlib.import_module("transformers")
    shape = transformers.ClapConfig(**configs.to_hf(config))
    model = transformers.ClapModel(shape).eval()
    model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
    return model
