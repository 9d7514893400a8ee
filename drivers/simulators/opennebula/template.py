"""Templates as oned reads and shows them: `K = "v"` lines or XML in, XML with CDATA out."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

Value = str | dict[str, str]
Template = dict[str, list[Value]]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<comment>\#[^\n]*) |
        (?P<quoted>"(?:[^"\\]|\\"|\\(?!"))*") |
        (?P<mark>[=\[\],]) |
        (?P<word>[^\s"=\[\],]+)
    )""",
    re.VERBOSE,
)


class Malformed(Exception):
    """The text is no template; its words are oned's."""


def parsed(text: str) -> Template:
    """A template from either form; keys in upper case."""
    if text.lstrip().startswith("<"):
        return _from_xml(text)
    return _from_lines(text)


def _from_xml(text: str) -> Template:
    try:
        root = ET.fromstring(text)  # noqa: S314  # expat bounds what entities may grow to
    except ET.ParseError as e:
        raise Malformed(f"Parse error: {e}") from e
    out: Template = {}
    for child in root:
        inner = {_key(each.tag): each.text or "" for each in child}
        out.setdefault(_key(child.tag), []).append(inner or child.text or "")
    return out


def _from_lines(text: str) -> Template:
    tokens = _tokens(text)
    out: Template = {}
    for kind, key in tokens:
        if kind != "word":
            raise Malformed(f"syntax error, unexpected {key!r}, expecting VARIABLE")
        _expect(tokens, "=")
        what, word = next(tokens, ("", "end of file"))
        if (what, word) == ("mark", "["):
            out.setdefault(_key(key), []).append(_vector(tokens))
        elif what in {"word", "quoted"}:
            out.setdefault(_key(key), []).append(word)
        else:
            raise Malformed(f"syntax error, unexpected {word!r}, expecting STRING")
    return out


def _vector(tokens: Iterator[tuple[str, str]]) -> dict[str, str]:
    out: dict[str, str] = {}
    for kind, key in tokens:
        if (kind, key) == ("mark", "]"):
            return out
        if (kind, key) == ("mark", ","):
            continue
        _expect(tokens, "=")
        what, value = next(tokens, ("", "end of file"))
        if what not in {"word", "quoted"}:
            raise Malformed(f"syntax error, unexpected {value!r}, expecting STRING")
        out[_key(key)] = value
    raise Malformed("syntax error, unexpected end of file, expecting CBRACKET")


def _expect(tokens: Iterator[tuple[str, str]], mark: str) -> None:
    if next(tokens, ("", "end of file")) != ("mark", mark):
        raise Malformed(f"syntax error, expecting {mark}")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise Malformed(f"syntax error at {text[at : at + 20]!r}")
        at, kind = match.end(), str(match.lastgroup)
        if kind == "quoted":
            yield kind, match[kind][1:-1].replace('\\"', '"')
        elif kind != "comment":
            yield kind, match[kind]


def _key(name: str) -> str:
    upper = name.upper()
    return f"ONE_{upper}" if upper[:1].isdecimal() else upper


# -- reading and changing ----------------------------------------------------------------------


def single(template: Template, key: str, default: str = "") -> str:
    """The last plain value of a key."""
    plain = [value for value in template.get(key, ()) if isinstance(value, str)]
    return plain[-1] if plain else default


def vectors(template: Template, key: str) -> list[dict[str, str]]:
    return [value for value in template.get(key, ()) if isinstance(value, dict)]


# -- as XML ------------------------------------------------------------------------------------


def element(name: str, value: object) -> str:
    """One leaf; text in CDATA as oned writes it, numbers bare, nothing as an empty element."""
    if isinstance(value, int):
        return f"<{name}>{value}</{name}>"
    if not value:
        return f"<{name}/>"
    return f"<{name}><![CDATA[{str(value).replace(']]>', ']]]]><![CDATA[>')}]]></{name}>"


def rendered(name: str, template: Template) -> str:
    parts = []
    for key, values in template.items():
        for value in values:
            if isinstance(value, dict):
                inner = "".join(element(k, v) for k, v in value.items())
                parts.append(f"<{key}>{inner}</{key}>")
            else:
                parts.append(element(key, value))
    return f"<{name}>{''.join(parts)}</{name}>"


def plain(name: str, value: object) -> str:
    """A leaf outside of CDATA, as oned writes names."""
    return f"<{name}>{escape(str(value))}</{name}>"
