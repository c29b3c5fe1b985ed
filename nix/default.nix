# The package with its image functions, without an overlay: (import ./nix { inherit pkgs; }).buildLayeredImage { ... }
{
  pkgs ? import <nixpkgs> { },
}:
(pkgs.extend (import ./overlay.nix)).fastlayers
