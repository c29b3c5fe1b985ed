# What runCommand and its like rely on of nixpkgs' stdenv; a build step starts with it.
set -eu -o pipefail
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1}
PATH=${initialPath:?}
if [ -n "${NIX_ATTRS_SH_FILE:-}" ]; then
    . "$NIX_ATTRS_SH_FILE"
    out=${outputs[out]}
    inputs=${nativeBuildInputs[*]-}
    export out
else
    inputs=${nativeBuildInputs-}
fi
for input in $inputs; do
    PATH=$input/bin:$PATH
done
export PATH
if [ "${NIX_BUILD_CORES:-0}" -le 0 ]; then
    NIX_BUILD_CORES=$(nproc)
fi
export NIX_BUILD_CORES
