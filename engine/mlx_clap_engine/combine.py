"""Several questions -> one direction to search in.

Each question's similarities are standardised over the library, then added (subtracted for --not): a text and a sound
are compared on scales of their own, so neither drowns the other. The means do not change the order, and what is left is
linear,

    sum(sign_i * (q_i . x - mean_i) / std_i) = (sum(sign_i * q_i / std_i)) . x - constant,

so the whole combination is *one* vector, which goes through the same search, exact or indexed, as a single question.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mlx_clap.errors import AskedWronglyError

Matrix = NDArray[np.float32]

#: Floor of a standard deviation: a question to which all rows are equally similar must not outweigh the others.
_MIN_SPREAD = 1e-3
#: A direction shorter than this, relative to its parts, is rounding error.
_CANCELLED = 1e-4


def combine(questions: Matrix, signs: NDArray[np.float64], rows: Iterable[Matrix]) -> Matrix:
    """The direction [D], of unit length, whose cosine orders a library as the combined questions do.

    Args:
        questions: unit vectors [Q, D].
        signs: [Q], +1 for what is sought and -1 for what is not.
        rows: the library's vectors (or a fair sample), as matrices [n, D].

    Raises:
        AskedWronglyError: the questions cancel each other out.
    """
    parts = signs[:, None] * questions / spread(questions, rows)[:, None]  # [Q, D]
    direction = parts.sum(axis=0)
    length = float(np.linalg.norm(direction))
    if length <= _CANCELLED * float(np.linalg.norm(parts, axis=1).sum()):
        raise AskedWronglyError("the questions cancel each other out: leave away what is both sought and --not")
    return np.asarray(direction / length, dtype=np.float32)


def spread(questions: Matrix, rows: Iterable[Matrix]) -> NDArray[np.float64]:
    """Standard deviation [Q] of each question's similarity over `rows`, never under a floor."""
    n, total, squares = 0, np.zeros(len(questions)), np.zeros(len(questions))
    for matrix in rows:
        similarity = (matrix @ questions.T).astype(np.float64)  # [n, Q]
        n += len(similarity)
        total += similarity.sum(axis=0)
        squares += np.square(similarity).sum(axis=0)
    variance = np.maximum(squares / max(n, 1) - np.square(total / max(n, 1)), 0.0)
    return np.maximum(np.sqrt(variance), _MIN_SPREAD)
