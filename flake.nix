{
  description = "Turn package closures into layered, reproducible container images, fast";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "aarch64-linux"
        "x86_64-linux"
      ];
      forEach = nixpkgs.lib.genAttrs systems;
      fastlayers = forEach (
        system:
        (import nixpkgs {
          inherit system;
          overlays = [ self.overlays.default ];
        }).fastlayers
      );
    in
    {
      overlays = {
        default = import ./nix/overlay.nix;
        dockerTools = import ./nix/dockertools.nix;
      };
      packages = forEach (system: {
        default = fastlayers.${system};
      });
      checks = forEach (system: fastlayers.${system}.tests);
    };
}
