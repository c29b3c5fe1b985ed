# nixpkgs' own layered images, as far as the tests go, by the oracles; all by itself, so that nix/ can be compared with it.
{
  lib,
  fakeroot,
  jq,
  runCommand,
  python,
}:

let
  tests = builtins.path {
    name = "tests";
    path = ../../.;
    filter = path: type: builtins.match ".*/(oracles|oracles/[a-z_]*.py)" path != null;
  };
  oracles = "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=${tests} ${python} ${./docker_tools.py}";
in
rec {
  streamLayeredImage =
    {
      name,
      tag,
      contents,
      config,
      extraCommands ? "",
      fakeRootCommands ? "",
      maxLayers ? 100,
    }:
    let
      base = runCommand "base.json" { text = builtins.toJSON { inherit config; }; } ''printf %s "$text" > $out'';
      customisation = runCommand "customisation" { nativeBuildInputs = [ fakeroot ]; } ''
        mkdir $out root
        cd root
        for path in ${toString contents}; do cp -rsn $path/* .; done
        chmod 755 $(find . -type d)
        ${extraCommands}
        fakeroot bash -ec '
        ${fakeRootCommands}
        tar -c --sort=name --numeric-owner --mtime=@1 --hard-dereference . > $out/layer.tar'
        sha256sum < $out/layer.tar | head -c 64 > $out/checksum
      '';
      conf =
        runCommand "conf.json"
          {
            __structuredAttrs = true;
            exportReferencesGraph.graph = [
              base
              customisation
            ];
            nativeBuildInputs = [ jq ];
          }
          ''
            ${oracles} layers "$NIX_ATTRS_JSON_FILE" ${toString (maxLayers - 1)} ${base} ${customisation} > layers.json
            jq -n '$ARGS.named + { store_layers: $layers[0], config: $base[0].config, from_image: null }' \
              --slurpfile layers layers.json --slurpfile base ${base} \
              --arg architecture amd64 --arg os linux --arg store_dir ${builtins.storeDir} \
              --arg repo_tag ${name}:${tag} --arg customisation_layer ${customisation} \
              --arg created 1970-01-01T00:00:01+00:00 --arg mtime 1970-01-01T00:00:01+00:00 \
              --arg uid 0 --arg gid 0 --arg uname root --arg gname root > $out
          '';
    in
    runCommand "stream-${name}" { passthru = { inherit conf; }; } ''
      printf '#!/bin/bash\n${oracles} stream ${conf}\n' > $out
      chmod +x $out
    '';
  # The tests put another in its place.
  buildLayeredImage = throw "nixpkgs' own buildLayeredImage was asked for";
}
