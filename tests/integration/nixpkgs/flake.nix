{
  description = "A small package set in nixpkgs' place";

  outputs = { self }: { lib = import ./lib.nix; };
}
