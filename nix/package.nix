# The Python package, as nixpkgs would have it: pkgs/development/python-modules/fastlayers.
{
  lib,
  argcomplete,
  backports-zstd,
  buildPythonPackage,
  cython,
  hypothesis,
  isal,
  msgspec,
  numpy,
  packaging,
  pyelftools,
  pytestCheckHook,
  pythonOlder,
  rich,
  scipy,
  setuptools,
  urllib3,
}:

buildPythonPackage {
  pname = "fastlayers";
  inherit ((lib.importTOML ../pyproject.toml).project) version;
  pyproject = true;
  disabled = pythonOlder "3.11";

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../MANIFEST.in
      ../README.md
      ../pyproject.toml
      ../setup.py
      ../src
      ../tests
    ];
  };

  build-system = [
    cython
    setuptools
  ];

  dependencies = [
    argcomplete
    isal
    msgspec
    numpy
    packaging
    pyelftools
    rich
    scipy
    urllib3
  ]
  ++ lib.optional (pythonOlder "3.14") backports-zstd;

  nativeCheckInputs = [
    hypothesis
    pytestCheckHook
  ];

  enabledTestPaths = [ "tests/unit" ];

  pythonImportsCheck = [ "fastlayers" ];

  meta = {
    description = "Turn package closures into layered, reproducible container images, fast";
    license = lib.licenses.mit;
    mainProgram = "fastlayers";
    platforms = lib.platforms.linux;
  };
}
