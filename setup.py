"""The extension modules; everything else is in pyproject.toml.

FASTLAYERS_DEBUG=1     bounds checks and C asserts on, no optimisation
FASTLAYERS_SANITIZE=1  address and undefined-behaviour sanitizers (run Python with libasan preloaded)
"""

import os
from glob import glob

from Cython.Build import cythonize
from setuptools import Extension, setup

debug = os.environ.get("FASTLAYERS_DEBUG") == "1"
sanitize = os.environ.get("FASTLAYERS_SANITIZE") == "1"

flags = ["-std=gnu11", "-Wall", "-Wextra"]
flags += ["-O0", "-g", "-UNDEBUG"] if debug else ["-O3", "-DNDEBUG"]
links = []
if sanitize:
    flags += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    links += ["-fsanitize=address,undefined"]

topics = {
    "core": ["graph", "partition", "order", "names"],
    "archive": ["header", "xattr", "table", "measure", "tar", "nar", "disk"],
}
extensions = [
    Extension(
        f"fastlayers._{name}",
        [f"src/fastlayers/_{name}.pyx", *(f"src/fastlayers/_{topic}.c" for topic in topics[name])],
        depends=glob("src/fastlayers/*.h"),
        extra_compile_args=flags,
        extra_link_args=links,
    )
    for name in topics
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "initializedcheck": debug,
            "embedsignature": True,
        },
    )
)
