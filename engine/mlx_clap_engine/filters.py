"""The filters of the command line, parsed: `--tag`, `--label` and `--filter` become a small tree.

Nothing is looked up or executed here, and no text of the user's ever becomes SQL: `store.matching` turns the tree into
expressions over the columns listed in `COLUMNS`.

    expression = term {"or" term}          comparison = column operator value
    term       = factor {"and" factor}     operator   = "=" "!=" "<" "<=" ">" ">=" "~" (contains)
    factor     = "not" factor | "(" expression ")" | comparison
"""

import re
from dataclasses import dataclass
from typing import Literal

from mlx_clap_engine.errors import FilterError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "~"]

NUMBER_COLUMNS = ("duration_s", "sample_rate", "channels", "year", "bpm")
TEXT_COLUMNS = ("codec", "title", "artist", "album", "albumartist", "genre", "track", "key", "comment")
COLUMNS = (*NUMBER_COLUMNS, *TEXT_COLUMNS)

#: A filter nested deeper than this is a mistake or an attack.
MAX_DEPTH = 50


@dataclass(frozen=True)
class Compare:
    """`column operator value`; text is compared without regard to case.

    A recording that has no value in the column matches only `!=`.
    """

    column: str
    operator: Operator
    value: str | float


@dataclass(frozen=True)
class HasLabel:
    """The recording as a whole bears `label` in `label_set`, without regard to case."""

    label_set: str
    label: str


@dataclass(frozen=True)
class Not:
    """Everything its operand does not match."""

    operand: "Filter"


@dataclass(frozen=True)
class And:
    """What all operands match."""

    operands: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    """What any operand matches."""

    operands: tuple["Filter", ...]


Filter = Compare | HasLabel | Not | And | Or


def parse_tag(text: str) -> Compare:
    """`genre=Jazz`: equality with one column, the value taken as it stands.

    Raises:
        FilterError: no `=`, an unknown column, or a number column with something else.
    """
    column, value = _key_and_value(text, "--tag genre=Jazz")
    return _compare(text, 0, column, "=", text.index("=") + 1, value, quoted=False)


def parse_label(text: str) -> HasLabel:
    """`genre=Jazz`: label `Jazz` of label set `genre`.

    Raises:
        FilterError: no `=`, or nothing on one side of it.
    """
    return HasLabel(*_key_and_value(text, "--label mood=calm"))


def parse_filter(text: str) -> Filter:
    """An expression such as `bpm > 120 and not (genre = "Drum & Bass" or artist ~ vivaldi)`.

    Raises:
        FilterError: with a caret under the place, and the columns there are.
    """
    return _Parser(text).parse()


def _key_and_value(text: str, example: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key.strip() and value.strip()):
        raise FilterError(f"{text!r} is not of the form key=value, as in {example}")
    return key.strip(), value.strip()


def _error(text: str, at: int, what: str) -> FilterError:
    # The caret has to stand under its character, so nothing in the text may break the line.
    shown = re.sub(r"\s|[^\x20-\U0010ffff]", " ", text)
    return FilterError(f"{what}\n  {shown}\n  {' ' * at}^\nColumns: {', '.join(COLUMNS)}")


def _compare(text: str, at: int, column: str, operator: str, value_at: int, value: str, quoted: bool) -> Compare:
    name = column.lower()
    if name in TEXT_COLUMNS:
        if operator in ("<", "<=", ">", ">="):
            raise _error(text, at, f"{name} is text: compare it with =, != or ~ (contains)")
        return Compare(name, operator, value)  # type: ignore[arg-type]
    if name not in NUMBER_COLUMNS:
        raise _error(text, at, f"There is no column {column!r}")
    if operator == "~":
        raise _error(text, at, f"{name} is a number: ~ (contains) is for text")
    if quoted or not _NUMBER.fullmatch(value):
        raise _error(text, value_at, f"{name} is a number, {value!r} is not")
    return Compare(name, operator, float(value))  # type: ignore[arg-type]


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,2})?", re.ASCII)
_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
          |(?P<operator><=|>=|!=|[=<>~])
          |(?P<paren>[()])
          |(?P<word>[^\s()=<>!~"']+))""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent over the grammar in the module's docstring."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._split())
        self._next = 0

    def parse(self) -> Filter:
        tree = self._expression(0)
        if self._peek().kind != "end":
            raise self._wrong("Expected 'and', 'or' or the end")
        return tree

    def _split(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self._text.rstrip())
        while at < end:
            found = _TOKEN.match(self._text, at)
            if found is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                what = "This quote is never closed" if self._text[at] in "\"'" else "This is not understood"
                raise _error(self._text, at, what)
            kind = str(found.lastgroup)
            tokens.append(_Token(kind, found[kind], found.start(kind)))
            at = found.end()
        return [*tokens, _Token("end", "", end)]

    def _expression(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise self._wrong("The filter is nested too deeply")
        operands = [self._term(depth)]
        while self._take_word("or"):
            operands.append(self._term(depth))
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _term(self, depth: int) -> Filter:
        operands = [self._factor(depth)]
        while self._take_word("and"):
            operands.append(self._factor(depth))
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _factor(self, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise self._wrong("The filter is nested too deeply")
        if self._take_word("not"):
            return Not(self._factor(depth + 1))
        if self._peek().text == "(" and self._peek().kind == "paren":
            self._next += 1
            inside = self._expression(depth + 1)
            if self._peek().text != ")" or self._peek().kind != "paren":
                raise self._wrong("Expected ')'")
            self._next += 1
            return inside
        return self._comparison()

    def _comparison(self) -> Compare:
        column = self._expect("word", "Expected a column")
        operator = self._expect("operator", "Expected one of = != < <= > >= ~")
        value = self._peek()
        if value.kind not in ("word", "quoted"):
            raise self._wrong("Expected a value")
        self._next += 1
        quoted = value.kind == "quoted"
        plain = re.sub(r"\\(.)", r"\1", value.text[1:-1], flags=re.DOTALL) if quoted else value.text
        return _compare(self._text, column.at, column.text, operator.text, value.at, plain, quoted)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take_word(self, word: str) -> bool:
        token = self._peek()
        if token.kind == "word" and token.text.lower() == word:
            self._next += 1
            return True
        return False

    def _expect(self, kind: str, what: str) -> _Token:
        token = self._peek()
        if token.kind != kind:
            raise self._wrong(what)
        self._next += 1
        return token

    def _wrong(self, what: str) -> FilterError:
        return _error(self._text, self._peek().at, what)
