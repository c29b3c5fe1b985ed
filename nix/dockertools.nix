# Behind overlay.nix: dockerTools' own layered images are made by fastlayers. Nothing else is changed.
final: prev: {
  dockerTools = prev.dockerTools // {
    inherit (final.fastlayers) buildLayeredImage streamLayeredImage;
  };
}
