"""The one parser of XML that comes from elsewhere: without a document type, so that no entity can be declared.

Entities that stand for entities (the "billion laughs") fill the memory from a file of a few hundred bytes, and external
ones open other files. Both need a DOCTYPE, which none of the formats read here has.
"""

from __future__ import annotations

from typing import NoReturn
from xml.etree import ElementTree


class DoctypeError(ValueError):
    """XML with a DOCTYPE."""


class _WithoutDoctype(ElementTree.TreeBuilder):
    """Builds the tree, and stops at a document type, before anything that it declares."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise DoctypeError("XML with a DOCTYPE, which this format does not have")


def parse_xml(content: bytes | str) -> ElementTree.Element:
    """The root of an XML document, in any encoding that it states.

    Raises:
        DoctypeError: it has a DOCTYPE.
        ValueError: it is no well-formed XML, or its encoding is not known.
    """
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    try:
        parser.feed(content)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"no well-formed XML: {error}") from None
    return root
