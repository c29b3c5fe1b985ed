"""Tar archives of the user's own with any byte changed: a layer, or one line that says what is wrong."""

import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import Customisation, FastlayersError, LayerRecipe, read_tar
from fastlayers.closure import Closure
from fastlayers.customisation import customise
from fastlayers.layer import measure


def archive() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, headers in (
            ("d", tarfile.DIRTYPE, {}),
            ("d/f", tarfile.REGTYPE, {"SCHILY.xattr.user.a": "1", "mtime": "1.5", "size": "700"}),
            ("d/l", tarfile.SYMTYPE, {"linkpath": "f"}),
            ("d/h", tarfile.LNKTYPE, {"uid": "70000", "path": "d/other"}),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.pax_headers = kind, "d/f" if kind != tarfile.REGTYPE else "", headers
            info.size = 700 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"x" * 700))
    return out.getvalue()


WHOLE = archive()


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    data = bytearray(WHOLE)
    header = 512 * draw(st.integers(0, 12))
    for _ in range(draw(st.integers(1, 3))):
        data[header + draw(st.integers(0, 511))] = draw(st.integers(0, 255))
    if draw(st.booleans()):  # so that the header counts
        field = header + 148
        data[field : field + 8] = b" " * 8
        data[field : field + 8] = b"%06o\0 " % sum(data[header : header + 512])
    return bytes(data[: draw(st.sampled_from([len(data), len(data), header + 100, header + 512, header + 700]))])


@given(changed())
@settings(deadline=None, max_examples=500)
def test_any_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "x.tar")
        file.write_bytes(data)
        try:
            contents = customise(Customisation(extras=(read_tar(file, xattrs=True),)), Closure([], []))
            layer = measure(LayerRecipe(contents, xattrs=True))
            buffer = bytearray(layer.size)
            assert layer.open().readinto(buffer) == layer.size
        except FastlayersError as error:
            assert str(error) and "\n" not in str(error)
        else:
            with tarfile.open(fileobj=io.BytesIO(buffer)) as tar:
                assert len(tar.getmembers()) == len(layer)
