# What of nixpkgs only a Nix build can show: the same arguments give the same layers.
{
  dockerTools,
  fastlayers,
  hello,
  jq,
  runCommand,
  testers,
}:

let
  arguments = {
    name = "test";
    tag = "1";
    contents = [ hello ];
    config.Cmd = [ "/bin/hello" ];
    extraCommands = "mkdir -m 1777 tmp";
    fakeRootCommands = "mkdir home; chown 1000:100 home";
    maxLayers = 4;
  };
  theirs = dockerTools.streamLayeredImage arguments;
  ours = fastlayers.streamLayeredImage arguments;
in
{
  version = testers.testVersion { package = fastlayers; };

  dockerTools = runCommand "fastlayers-dockertools" { nativeBuildInputs = [ fastlayers jq ]; } ''
    diff_ids() {
      tar -xOf $1 manifest.json | jq -r '.[0].Config' | xargs tar -xOf $1 | jq .rootfs.diff_ids
    }
    ${theirs} > theirs.tar
    fastlayers stream ${theirs.conf} | cmp - theirs.tar
    ${ours} > ours.tar
    diff <(diff_ids ours.tar) <(diff_ids theirs.tar)
    touch $out
  '';
}
