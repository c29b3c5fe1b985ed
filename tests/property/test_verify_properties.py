"""Whatever happens to a byte of an image: a fault where it is in a blob, and never anything but faults."""

from __future__ import annotations

import io
import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import ImageError, verify_image
from fastlayers.entries import plain_blocks, read_entries
from images import StoredImage, squeeze, tar_of

ONE = tar_of(("etc", None), ("etc/one", b"1" * 700), ("ü" * 120, "link"))
TWO = tar_of(("two", b"2"))
FILES = {kind: StoredImage([ONE, TWO], compress=kind).files() for kind in (bytes, squeeze)}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_byte_that_is_another(data: st.DataObject) -> None:
    files = dict(FILES[data.draw(st.sampled_from([bytes, squeeze]))])
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = files[name][:at] + bytes([byte]) + files[name][at + 1 :]
    same = changed == files[name]
    files[name] = changed
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(content)
        try:
            faults = verify_image(f"oci:{folder}").faults
        except ImageError as error:
            assert str(error)
            return
    if same:
        assert not faults
    elif name.startswith("blobs/"):
        assert len(faults) == 1


@settings(deadline=None)
@given(st.binary(max_size=600), st.integers(0, len(ONE)), st.integers(0, len(ONE)), st.integers(1, 700))
def test_anything_as_a_tar(junk: bytes, start: int, end: int, block: int) -> None:
    """Entries or an ImageError, whatever the blocks are cut into."""
    data = ONE[:start] + junk + ONE[end:]
    blocks = [data[i : i + block] for i in range(0, len(data), block)]
    try:
        found = list(read_entries(plain_blocks(blocks)))
    except ImageError as error:
        assert "\n" not in str(error)
        return
    assert found == list(read_entries(plain_blocks([data])))


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150)
entries = st.dictionaries(
    st.lists(names.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3).map("/".join),
    st.one_of(st.binary(max_size=1200), st.none()),
    max_size=6,
)


@settings(deadline=None)
@given(entries, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]), st.booleans())
def test_tars_are_read_as_tarfile_reads_them(files: dict[str, bytes | None], form: int, compressed: bool) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(content or b""))
    data = squeeze(out.getvalue()) if compressed else out.getvalue()
    found = [(entry.path, entry.kind) for entry in read_entries(plain_blocks([data]))]
    assert found == [(f"/{name}", b"5" if content is None else b"0") for name, content in files.items()]
