# A small package set in nixpkgs' place: the functions that nix/ takes from there, with nixpkgs' arguments, and packages
# with a real graph of references. Builds use the machine's own programs, so that the sandbox has to be off; where they
# are is in the environment (tests/integration/nix.py), and empty in a pure evaluation.
{
  overlays ? [ ],
  system ? builtins.currentSystem,
}:

let
  lib = import ./lib.nix;
  python = builtins.getEnv "FASTLAYERS_TEST_PYTHON";
  path = builtins.getEnv "FASTLAYERS_TEST_PATH";

  stdenv =
    derivation {
      name = "stdenv";
      inherit system;
      builder = "/bin/bash";
      PATH = path;
      script = ./setup.sh;
      args = [
        "-c"
        "mkdir $out; { echo initialPath=$PATH; cat $script; } > $out/setup"
      ];
    }
    // {
      hostPlatform = {
        isDarwin = false;
        go.GOARCH = if builtins.match "aarch64-.*" system == null then "amd64" else "arm64";
      };
      inherit mkDerivation;
    };

  mkDerivation =
    args:
    let
      built = derivation (
        {
          name = "${args.pname}-${args.version}";
          inherit stdenv system;
          builder = "/bin/bash";
          args = [
            "-c"
            ''[ -z "''${NIX_ATTRS_SH_FILE:-}" ] || . "$NIX_ATTRS_SH_FILE"; . $stdenv/setup; eval "$buildCommand"''
          ];
        }
        // removeAttrs args [
          "meta"
          "passthru"
        ]
      );
      passthru = args.passthru or { };
    in
    passthru
    // built
    // {
      inherit passthru;
      meta = args.meta or { };
      overrideAttrs = change: mkDerivation (args // change args);
    };

  # A program of the machine.
  host =
    name:
    runCommand name { } ''
      mkdir -p $out/bin
      printf '#!/bin/bash\nNIX_STORE_DIR=%s exec %s "$@"\n' ${builtins.storeDir} "$(command -v ${name})" > $out/bin/${name}
      chmod +x $out/bin/${name}
    '';

  runCommand = name: args: buildCommand: mkDerivation (args // { inherit name buildCommand; });

  writeScript =
    name: text:
    runCommand name { inherit text; } ''
      printf %s "$text" > $out
      chmod +x $out
    '';

  # What a package is in the images: a program, a file of its own, one that others have too, and references.
  package =
    pkgs: name: references:
    runCommand "${name}-1.0" { inherit references; } ''
      mkdir -p $out/bin $out/share/doc
      printf '#!${pkgs.busybox}/bin/sh\necho ${name}\n' > $out/bin/${name}
      chmod +x $out/bin/${name}
      printf '%s\n' "$references" > $out/share/doc/${name}
      head -c $((''${#name} * 1000)) /dev/zero > $out/share/${name}.data
    '';

  base = pkgs: {
    inherit
      lib
      pkgs
      runCommand
      stdenv
      system
      writeScript
      ;
    buildPackages = pkgs;
    runtimeShell = "/bin/bash";
    extend = overlay: fixedPoint (overlays ++ [ overlay ]);
    callPackage = lib.callPackageWith pkgs;
    callPackages = lib.callPackageWith pkgs;

    writeText = name: text: runCommand name { inherit text; } ''printf %s "$text" > $out'';
    symlinkJoin =
      {
        name,
        paths,
        postBuild ? "",
        ...
      }@args:
      runCommand name (removeAttrs args [ "postBuild" ]) ''
        mkdir $out
        for path in $paths; do
          (cd $path && find . -type d -exec mkdir -p $out/{} ';')
          (cd $path && find . ! -type d) | while read -r file; do
            [ -e $out/$file ] || ln -s $path/''${file#./} $out/$file
          done
        done
        ${postBuild}
      '';
    closureInfo =
      { rootPaths }:
      runCommand "closure-info"
        {
          __structuredAttrs = true;
          exportReferencesGraph.closure = rootPaths;
          nativeBuildInputs = [ pkgs.jq ];
        }
        ''
          mkdir $out
          jq -r '.closure[] | [.path, .narHash, .narSize, "", (.references | length)] + .references | .[]' \
            "$NIX_ATTRS_JSON_FILE" > $out/registration
        '';
    testers.testVersion =
      { package }:
      runCommand "version" { nativeBuildInputs = [ package ]; } ''
        fastlayers --version | grep -F ${package.version} > $out
      '';

    dockerTools = pkgs.callPackage ./dockertools.nix { inherit python; };

    fakeroot = host "fakeroot";
    go = { };
    jq = host "jq";
    nix = host "nix-store";
    pigz = host "pigz";
    # Takes proot's arguments, and goes only into the directory, which is enough for commands without absolute paths.
    proot = runCommand "proot" { script = ./proot.sh; } ''
      mkdir -p $out/bin
      install -m 755 $script $out/bin/proot
    '';
    sqlite = host "sqlite3";
    zstd = host "zstd";

    # What Python packages are made of is taken from the machine's Python.
    pythonPackagesExtensions = [ ];
    python3Packages =
      let
        own =
          lib.genAttrs [
            "argcomplete"
            "backports-zstd"
            "cython"
            "hypothesis"
            "isal"
            "msgspec"
            "numpy"
            "packaging"
            "pyelftools"
            "pytestCheckHook"
            "rich"
            "scipy"
            "setuptools"
            "urllib3"
          ] (name: name)
          // {
            inherit buildPythonPackage;
            callPackage = lib.callPackageWith (pkgs // packages);
            pythonOlder = version: builtins.compareVersions "3.12" version < 0;
            toPythonApplication = application: application;
          };
        packages = builtins.foldl' (set: extension: set // extension packages set) own pkgs.pythonPackagesExtensions;
      in
      packages;

    busybox = runCommand "busybox-1.0" { } ''
      mkdir -p $out/bin
      cp $(command -v busybox) $out/bin/busybox
      for name in sh cat ls id stat; do ln -s busybox $out/bin/$name; done
    '';
    iana = package pkgs "iana" [ ];
    zlib = package pkgs "zlib" [ ];
    tls = package pkgs "tls" [
      pkgs.iana
      pkgs.zlib
    ];
    curl = package pkgs "curl" [
      pkgs.tls
      pkgs.zlib
    ];
    readline = package pkgs "readline" [ ];
    database = package pkgs "database" [
      pkgs.readline
      pkgs.zlib
    ];
    hello = package pkgs "hello" [
      pkgs.curl
      pkgs.database
    ];
  };

  buildPythonPackage =
    { pname, version, src, ... }@args:
    mkDerivation (
      removeAttrs args [
        "build-system"
        "dependencies"
        "nativeCheckInputs"
      ]
      // {
        pyproject = "";
        FASTLAYERS_DEBUG = "1"; # is compiled in half the time
        PIP_DISABLE_PIP_VERSION_CHECK = "1";
        PYTHONDONTWRITEBYTECODE = "1";
        enabledTestPaths = toString args.enabledTestPaths;
        buildCommand = ''
          export HOME=$PWD
          cp -r $src source
          chmod -R u+w source
          cd source
          ${python} -m pip install --quiet --no-index --no-deps --no-build-isolation --ignore-installed --prefix $out .
          rm -rf build src/*.egg-info
          site=$(echo $out/lib/python*/site-packages)
          mkdir $out/programs
          mv $out/bin/fastlayers $out/programs
          printf '#!/bin/bash\nPYTHONPATH=%s exec %s %s "$@"\n' $site ${python} $out/programs/fastlayers > $out/bin/fastlayers
          chmod +x $out/bin/fastlayers
          export PYTHONPATH=$site
          for module in $pythonImportsCheck; do
            ${python} -c "import $module; assert $module.__file__.startswith('$out/'), $module.__file__"
          done
          # That all can be loaded shows that the source is whole; the suite, which this is a part of, runs them.
          ${python} -m pytest -p no:cacheprovider -q --collect-only $enabledTestPaths | tail -n 1
          ${python} -m pytest -p no:cacheprovider -q $enabledTestPaths/test_digest.py
        '';
      }
    );

  fixedPoint =
    overlays:
    let
      pkgs = builtins.foldl' (prev: overlay: prev // overlay pkgs prev) (base pkgs) overlays;
    in
    pkgs;
in
fixedPoint overlays
