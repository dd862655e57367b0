"""The model that is measured: an installed one, or one of a released shape with seeded weights, made in memory."""

from dataclasses import dataclass

from mlx_clap.backend import mx, on_gpu
from mlx_clap.clap import Clap
from mlx_clap.seeded import seeded_weights
from mlx_clap.verify import stored_reference
from mlx_clap_convert.installed import resolve


@dataclass(frozen=True)
class Subject:
    """`clap` calculates in its own dtype; `in_dtype` gives its like in another."""

    name: str
    clap: Clap

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What this device calculates in: half precision only on a GPU."""
        return ("float32", "float16") if on_gpu() else ("float32",)

    def in_dtype(self, dtype: str) -> Clap:
        """The same weights, towers not folded yet, calculating in `dtype`."""
        clap = Clap(self.clap.config, self.clap.weights, self.clap.tokenizer, self.clap.space, self.clap.name)
        clap.dtype = {"float32": mx.float32, "float16": mx.float16}[dtype]
        return clap


def seeded(shape: str) -> Subject:
    """A model of a stored reference's shape, its weights seeded: figures depend on shape, not on what was learnt."""
    config = stored_reference(shape).config
    weights = {name: mx.array(array) for name, array in seeded_weights(config).items()}
    return Subject(f"seeded {shape}", Clap(config, weights, space=f"bench-{shape}", name=f"seeded-{shape}"))


def installed(model: str) -> Subject:
    """An installed model, or a model folder.

    Raises:
        ModelNotFoundError: there is none of that name.
    """
    clap = Clap.load(resolve(model))
    return Subject(clap.name, clap)
