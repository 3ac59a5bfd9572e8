"""A reader of small untrusted XML files: elements and text, without entities or anything that a parser would fetch."""

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from jaxkd.errors import DataError

MAX_FILE_BYTES = 2**22  # bytes; an annotation of a thousand objects is a tenth of it


def read(file: Path) -> ElementTree.Element:
    """The root element of an XML file.

    Raises:
      DataError: where the file is missing, larger than 4 MB, not well-formed, or has a document type declaration: only
        that can define entities, which expand without bound or refer to other files.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise DataError(f"{file} has a <!DOCTYPE> declaration, which could define entities; take it out.")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(_content(file), True)
        return builder.close()
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise DataError(
            f"{file} is not valid XML in line {error.lineno}, column {error.offset + 1}: {reason}."
        ) from error
    except (LookupError, ValueError) as error:  # an encoding that Python does not know or cannot map
        raise DataError(f"{file} is in an encoding that cannot be read ({error}); save it as UTF-8.") from error


def _content(file: Path) -> bytes:
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is not a plain file; it has to be an XML annotation.")
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"There is no annotation file {file}; add it or take the picture off the list.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); it has to be an XML annotation.") from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{file} is larger than 4 MB, too large for the annotation of one picture; replace it.")
    return content
