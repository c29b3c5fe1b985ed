# Image functions with the arguments and passthru attributes of nixpkgs' dockerTools. What an image is made of is nixpkgs'
# too, step for step, so that layers have nixpkgs' digests; the programs that split and write layers are fastlayers.
{
  lib,
  buildPackages,
  closureInfo,
  fakeroot,
  fastlayers,
  go,
  jq,
  pigz,
  proot,
  runCommand,
  runtimeShell,
  stdenv,
  storeDir ? builtins.storeDir,
  symlinkJoin,
  writeScript,
  writeText,
  zstd,
}:

let
  inherit (lib) optional optionalString;

  program = "${fastlayers}/bin/fastlayers";

  # In a Nix build the cores that it was given; elsewhere all of them.
  cores = ''
    if [ "''${NIX_BUILD_CORES:-0}" -gt 0 ]; then
      set -- --jobs "$NIX_BUILD_CORES" "$@"
    fi
  '';

  compressors = {
    none = {
      suffix = "";
      tools = [ ];
      command = "cat";
      codec = "none";
    };
    gz = {
      suffix = ".gz";
      tools = [ pigz ];
      command = ''pigz -p "$NIX_BUILD_CORES" -nTR'';
      codec = "gzip";
    };
    zstd = {
      suffix = ".zst";
      tools = [ zstd ];
      command = ''zstd -T"$NIX_BUILD_CORES"'';
      codec = "zstd";
    };
  };

  compressorNamed =
    image: compressor:
    compressors.${compressor}
      or (throw "${image}: compressor ${compressor}: expected ${lib.concatStringsSep ", " (lib.attrNames compressors)}");

  # Shell commands that register the closure of `contents` in the Nix database of an image whose root is the current
  # directory; always the same bytes.
  registerContents =
    contents:
    ''
      NIX_REMOTE=local?root=$PWD USER=nobody ${buildPackages.nix}/bin/nix-store --load-db \
        < ${closureInfo { rootPaths = contents; }}/registration
      ${buildPackages.sqlite}/bin/sqlite3 nix/var/nix/db/db.sqlite \
        "UPDATE ValidPaths SET registrationTime = ''${SOURCE_DATE_EPOCH}"
      mkdir -p nix/var/nix/gcroots/docker
    ''
    + lib.concatMapStrings (path: ''
      ln -s ${path} nix/var/nix/gcroots/docker/
    '') contents;

  # The last layer: links to the contents at the root of the image, and what the user's commands make of them. It is a
  # tar, since the store keeps neither modes nor owners.
  customise =
    {
      name,
      contents,
      extraCommands,
      fakeRootCommands,
      enableFakechroot,
      includeNixDB,
    }:
    let
      asRoot =
        if enableFakechroot then
          "proot -r $PWD/root"
          + lib.concatMapStrings (path: " --bind=${path}:${path}!") [
            "/dev/"
            "/proc/"
            "/sys/"
            "${storeDir}/"
            "$out/layer.tar"
          ]
          + " --pwd=/ fakeroot"
        else
          "fakeroot";
      mounted = lib.optionals enableFakechroot [
        "./dev"
        "./proc"
        "./sys"
        ".${storeDir}"
        ".$NIX_BUILD_TOP"
      ];
    in
    symlinkJoin {
      inherit name fakeRootCommands;
      paths = contents;
      extraCommands = optionalString includeNixDB (registerContents contents) + extraCommands;
      nativeBuildInputs = [ fakeroot ] ++ optional enableFakechroot proot;
      postBuild = ''
        mv $out root
        (cd root; eval "$extraCommands")
        mkdir $out
        ${asRoot} bash -e -c '
          if [ -e "$NIX_ATTRS_SH_FILE" ]; then . "$NIX_ATTRS_SH_FILE"; fi
          source $stdenv/setup
          ${optionalString (!enableFakechroot) "cd root"}
          eval "$fakeRootCommands"
          tar --sort name --numeric-owner --mtime "@$SOURCE_DATE_EPOCH" --hard-dereference ${
            lib.concatMapStringsSep " " (path: ''--exclude="${path}"'') mounted
          } -cf $out/layer.tar .
        '
        sha256sum $out/layer.tar | cut -d " " -f 1 > $out/checksum
      '';
    };

  # Which store paths go into which layer: a JSON list of lists.
  planLayers =
    {
      name,
      roots,
      maxLayers,
      fromImage,
      pipeline,
      debug,
    }:
    runCommand "${name}-layers.json"
      {
        __structuredAttrs = true;
        exportReferencesGraph.graph = roots;
        inherit fromImage maxLayers;
        options =
          lib.concatMap (path: [
            "--exclude"
            "${path}"
          ]) roots
          ++ (
            if pipeline == null then
              [
                "--strategy"
                "auto"
              ]
            else
              [
                "--pipeline"
                (if builtins.isList pipeline then writeText "${name}-pipeline.json" (builtins.toJSON pipeline) else pipeline)
              ]
          );
        nativeBuildInputs = [
          fastlayers
          jq
        ];
      }
      ''
        ${optionalString (pipeline == null) ''
          used=1 # by the customisation
          if [ -n "$fromImage" ]; then
            used=$((used + $(tar -xOf "$fromImage" manifest.json | jq '.[0].Layers | length')))
          fi
          if [ "$used" -ge "$maxLayers" ]; then
            echo "${name}: maxLayers is $maxLayers, and fromImage and the customisation take $used" >&2
            exit 1
          fi
          options+=(--max-layers $((maxLayers - used)))
        ''}
        ${optionalString debug ''
          fastlayers plan "$NIX_ATTRS_JSON_FILE" --key graph "''${options[@]}" >&2
        ''}
        fastlayers plan "$NIX_ATTRS_JSON_FILE" --key graph "''${options[@]}" --format layers > $out
      '';

  # The arguments of all three functions, as nixpkgs has them, and what follows from them.
  describe =
    {
      name,
      tag ? null,
      fromImage ? null,
      contents ? [ ],
      config ? { },
      architecture ? stdenv.hostPlatform.go.GOARCH or go.GOARCH,
      created ? "1970-01-01T00:00:01Z",
      mtime ? "1970-01-01T00:00:01Z",
      uid ? 0,
      gid ? 0,
      uname ? "root",
      gname ? "root",
      maxLayers ? 100,
      extraCommands ? "",
      fakeRootCommands ? "",
      enableFakechroot ? false,
      includeStorePaths ? true,
      includeNixDB ? false,
      passthru ? { },
      meta ? { },
      layeringPipeline ? null,
      debug ? false,
    }:
    assert lib.assertMsg (layeringPipeline != null || maxLayers > 1) "${name}: maxLayers must be at least 2";
    assert lib.assertMsg (
      enableFakechroot -> !stdenv.hostPlatform.isDarwin
    ) "${name}: enableFakechroot needs proot, which is for Linux alone";
    let
      baseName = baseNameOf name;

      baseJson = writeText "${baseName}-base.json" (
        builtins.toJSON {
          inherit architecture;
          config = if config == null then { } else config;
          os = "linux";
        }
      );

      customisation = customise {
        name = "${baseName}-customisation-layer";
        contents = lib.toList contents;
        inherit
          extraCommands
          fakeRootCommands
          enableFakechroot
          includeNixDB
          ;
      };

      # In no layer themselves: what they refer to is.
      roots = [
        baseJson
        customisation
      ];

      layers =
        if includeStorePaths then
          planLayers {
            name = baseName;
            inherit
              roots
              maxLayers
              fromImage
              debug
              ;
            pipeline = layeringPipeline;
          }
        else
          writeText "${baseName}-layers.json" "[]";

      conf =
        runCommand "${baseName}-conf.json"
          {
            inherit
              fromImage
              created
              mtime
              uid
              gid
              uname
              gname
              layers
              ;
            imageName = lib.toLower name;
            inherit tag;
            preferLocalBuild = true;
            passthru.imageTag =
              if tag != null then
                tag
              else
                lib.head (lib.splitString "-" (baseNameOf (builtins.unsafeDiscardStringContext conf.outPath)));
            nativeBuildInputs = [ jq ];
          }
          ''
            date_of() {
              if [ "$1" = now ]; then echo now; else date -Iseconds -d "$1"; fi
            }
            if [ -z "$tag" ]; then
              tag=$(basename "$out")
              tag=''${tag%%-*}
            fi
            jq '. + $ARGS.named + {
                from_image: (if $from_image == "" then null else $from_image end),
                store_layers: $store_layers[0]
              }' \
              --arg store_dir ${storeDir} \
              --arg from_image "$fromImage" \
              --slurpfile store_layers "$layers" \
              --arg customisation_layer ${customisation} \
              --arg repo_tag "$imageName:$tag" \
              --arg created "$(date_of "$created")" \
              --arg mtime "$(date_of "$mtime")" \
              --arg uid "$uid" --arg gid "$gid" --arg uname "$uname" --arg gname "$gname" \
              ${baseJson} > $out
          '';
    in
    {
      inherit
        baseName
        conf
        customisation
        includeStorePaths
        meta
        passthru
        roots
        ;
    };

  streamLayeredImage = lib.makeOverridable (
    args:
    let
      image = describe args;
      streamScript = writeScript "stream" ''
        #!${runtimeShell}
        ${cores}
        exec ${program} stream "$@"
      '';
    in
    runCommand "stream-${image.baseName}"
      {
        inherit (image) conf meta;
        inherit (image.conf) imageName;
        inherit streamScript;
        preferLocalBuild = true;
        passthru = image.passthru // {
          inherit (image) conf;
          inherit (image.conf) imageTag;
          inherit streamScript;
          isExe = true; # to be run, unlike the archives of buildLayeredImage
        };
      }
      ''
        printf '#!%s\nexec %s %s "$@"\n' ${runtimeShell} $streamScript $conf > $out
        chmod +x $out
      ''
  );

  buildLayeredImage = lib.makeOverridable (
    {
      name,
      compressor ? "gz",
      ...
    }@args:
    let
      stream = streamLayeredImage (removeAttrs args [ "compressor" ]);
      method = compressorNamed name compressor;
    in
    runCommand "${baseNameOf name}.tar${method.suffix}" {
      inherit (stream) imageName;
      passthru = {
        inherit (stream) conf imageTag;
        inherit stream;
      };
      nativeBuildInputs = method.tools;
    } "set -o pipefail; ${stream} | ${method.command} > $out"
  );

  # An OCI layout: each layer compressed by itself, so that a registry can be sent the ones that it does not have.
  buildImageLayout = lib.makeOverridable (
    {
      name,
      compressor ? "gz",
      ...
    }@args:
    let
      image = describe (removeAttrs args [ "compressor" ]);
      inherit (image) conf;
    in
    assert lib.assertMsg image.includeStorePaths "${name}: an OCI layout always has the store paths";
    runCommand "${image.baseName}-oci"
      {
        __structuredAttrs = true;
        exportReferencesGraph.graph = image.roots;
        inherit (image) meta roots;
        inherit (conf) imageName;
        inherit conf;
        inherit (compressorNamed name compressor) codec;
        passthru = image.passthru // {
          inherit (conf) imageTag;
          inherit conf;
        };
        nativeBuildInputs = [
          fastlayers
          jq
        ];
      }
      ''
        of_conf() {
          jq -r ".$1" $conf
        }
        of_conf config > config.json
        of_conf store_layers > plan.json
        for path in "''${roots[@]}"; do
          options+=(--exclude $path)
        done
        if [ "$(of_conf from_image)" != null ]; then
          options+=(--from docker-archive:$(of_conf from_image))
        fi
        tag=$(of_conf repo_tag)
        # The plan is within maxLayers already.
        fastlayers build "$NIX_ATTRS_JSON_FILE" --key graph --plan plan.json --max-layers 1000000 "''${options[@]}" \
          --extra-tar ${image.customisation}/layer.tar --config config.json \
          --arch "$(of_conf architecture)" --created "$(of_conf created)" --mtime "$(of_conf mtime)" \
          --uid "$(of_conf uid)" --gid "$(of_conf gid)" --uname "$(of_conf uname)" --gname "$(of_conf gname)" \
          --compress "$codec" --jobs "$NIX_BUILD_CORES" --name "$imageName" --to "oci:$out:''${tag##*:}"
      ''
  );
in
{
  inherit buildImageLayout buildLayeredImage streamLayeredImage;
}
